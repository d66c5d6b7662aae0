"""What training needs of others, each with its guarantees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from sqlalchemy.engine import Connection

    from falaj.features.plan import ServicePlan
    from falaj.kernel.call import Call
    from falaj.training.encoding import Encoding
    from falaj.training.model import CodeVersion, Run, TrainingSet

Report = Callable[[float, str], None]
"""Tells how far a piece of work is (0 to 1) and what it does; may raise to stop it."""


def untold(share: float, message: str) -> None:
    """A report that nobody hears."""


class FeatureFrames(Protocol):
    """Joins features to a spine, each as it was known at the row's timestamp.

    ``spine`` may be one batch of a larger one; ``pins`` name the version of each foreign
    table. The answer has the spine's rows in the spine's order, with its columns first and
    one column for each feature after them. The same spine, definitions and lake give the
    same answer to the bit.
    """

    def training_frame(
        self,
        spine: pa.Table,
        service: str | ServicePlan,
        *,
        timestamp: str = "timestamp",
        knowledge: str = "recorded",
        snapshot: int | None = None,
        pins: Mapping[str, str] | None = None,
    ) -> pa.Table: ...


@dataclass(frozen=True)
class Pinned:
    """What a training set stands on.

    ``definitions`` and ``versions`` go by ``kind:name``; ``request_fields`` are the columns
    of a spine that are inputs of the model as well; ``purposes`` are what the features may
    be used for (None: anything).
    """

    definitions: Mapping[str, str]
    service: str | ServicePlan
    versions: Mapping[str, int] = field(default_factory=dict)
    request_fields: tuple[str, ...] = ()
    purposes: tuple[str, ...] | None = None


class DefinitionPins(Protocol):
    """Names the exact definitions that a feature service stands on."""

    def pins(self, connection: Connection, feature_service: str) -> Pinned:
        """The service at this moment. Raises NotFound if there is no such service."""
        ...

    def pinned(
        self,
        connection: Connection,
        feature_service: str,
        versions: Mapping[str, int],
        fingerprints: Mapping[str, str],
    ) -> Pinned:
        """The service as it was with these versions of its definitions.

        Raises NotFound if one of them is not known here.
        """
        ...


@dataclass(frozen=True)
class Rows:
    """Encoded examples: float32 of shape (rows, inputs) and a label of 0 or 1 for each."""

    matrix: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]


@dataclass(frozen=True)
class FittedModel:
    """What a trainer made: its native bytes, and how its inputs are encoded."""

    format: str
    """The name of the native format: ``lightgbm``."""
    data: bytes
    encoding: Encoding
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What the trainer learned of the fit: best iteration, number of trees."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """How much each input contributed (its share of the gain, sums to 1)."""


class Trainer(Protocol):
    """Fits a model of a binary label.

    The same rows, parameters and seed give the same bytes, on any number of threads.
    """

    name: str

    def parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of a fit: the trainer's own with the given ones over them.

        Raises InvalidInput for an unknown name or a wrong value.
        """
        ...

    def fit(
        self,
        train: Rows,
        validation: Rows,
        encoding: Encoding,
        *,
        params: Mapping[str, Any],
        seed: int,
        report: Report,
    ) -> FittedModel:
        """Fit on ``train``, stop early on ``validation``.

        Raises InvalidInput when the rows cannot be learned from.
        """
        ...

    def scores(
        self, fitted: FittedModel, matrix: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """The probability of label 1 for each row, by the native model."""
        ...

    def code(self) -> CodeVersion:
        """Which code fits."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A fitted model on its way into the registry, with what it was made of."""

    model: str
    run: Run
    training_set: TrainingSet
    fitted: FittedModel
    validation: Rows
    train: Rows
    scores: npt.NDArray[np.float64]
    """The native model's probabilities on the validation rows."""


class Packaging(Protocol):
    """Turns a candidate into a bundle, and a bundle into a version of a model."""

    def package(self, candidate: Candidate) -> str:
        """Build, sign and keep the bundle; returns its digest.

        Touches no database. The same candidate may be packaged again.
        Raises InvalidInput if the packaged model does not score as the native one does.
        """
        ...

    def register(self, call: Call, model: str, run: str, bundle: str) -> int:
        """Add the bundle as the next version of the model; a repeat returns the first."""
        ...


def chosen(trainers: Mapping[str, Trainer], name: str) -> Trainer:
    """The trainer of that name; raises InvalidInput naming those there are."""
    if name not in trainers:
        raise InvalidInput(
            f"There is no trainer {name!r}.", hint=f"Choose one of: {', '.join(sorted(trainers))}."
        )
    return trainers[name]
