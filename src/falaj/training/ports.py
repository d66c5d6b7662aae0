"""What training needs of others, each with its guarantees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from falaj.kernel.errors import InvalidInput
from falaj.training.targets import BINARY, Target, Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
    from sqlalchemy.engine import Connection

    from falaj.features.plan import ServicePlan
    from falaj.kernel.call import Call
    from falaj.training.calibration import Calibration
    from falaj.training.encoding import Encoding
    from falaj.training.model import CodeVersion, Isolation, Run, TrainingSet

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
    """Encoded examples: float32 of shape (rows, inputs) and a label for each, as ``Target`` says.

    ``weights`` is what each row counts in the loss, float64 and positive; None: all the same.
    """

    matrix: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64] | None = None
    target: Target = BINARY


@dataclass(frozen=True)
class FittedModel:
    """What a trainer made: its native bytes, and how its inputs are encoded."""

    format: str
    """The name of the native format: one that a converter knows (``lightgbm``, ``xgboost``,
    ``network``), or one that is served as it is (``onnx``, ``torch``, ``python``)."""
    data: bytes
    encoding: Encoding
    facts: Mapping[str, float | str] = field(default_factory=dict)
    """What the trainer learned of the fit: best iteration, number of trees."""
    importance: Mapping[str, float] = field(default_factory=dict)
    """How much each input contributed (its share of the gain, sums to 1); empty where the
    trainer cannot tell."""
    calibration: Calibration | None = None
    """Turns the native scores into probabilities; part of the packaged model."""
    target: Target = BINARY
    """What it predicts."""


class Checkpoints(Protocol):
    """Keeps the state of one fit, so that a job that is taken up again goes on from there."""

    def last(self) -> bytes | None:
        """The state that was kept last, or None at a first attempt."""
        ...

    def keep(self, n_done: int, state: Callable[[], bytes]) -> None:
        """Offer the state after ``n_done`` rounds; it is asked for only if it shall be kept.

        A state that is kept replaces the one before. May raise to stop the work, as a
        ``Report`` may.
        """
        ...


class Unkept:
    """Keeps nothing: every fit begins at its beginning."""

    def last(self) -> bytes | None:
        """There is none."""
        return None

    def keep(self, n_done: int, state: Callable[[], bytes]) -> None:
        """Nothing is kept."""


UNKEPT = Unkept()


@dataclass(frozen=True)
class Traits:
    """What a trainer promises beyond fitting; the conformance suite holds it to that."""

    identical: bool
    """The same rows, parameters and seed give the same bytes, with the same packages on the
    same kind of machine."""
    stops_early: bool
    """It watches the validation rows and keeps the best round."""
    resumes: bool
    """It offers its state while it fits, and goes on from one to the same bytes."""
    tasks: tuple[Task, ...] = ("binary",)
    """What labels it learns."""


class Trainer(Protocol):
    """Fits a model of a label on float32 inputs in which NaN is a missing value.

    Words come as their places in a frozen list (see ``Encoding``). All trainers read the
    weights of rows. Nothing that a trainer returns is a pickle.
    """

    name: str
    traits: Traits

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
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        """Fit on ``train``; ``validation`` is for early stopping alone.

        Goes on from the last of ``checkpoints`` where the trainer can. What ``report``
        raises ends the fit. Raises InvalidInput when the rows cannot be learned from.
        """
        ...

    def scores(
        self, fitted: FittedModel, matrix: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """The scores of each row by the native model, not calibrated.

        Of shape [rows]: the probability of label 1, or the predicted number; of classes
        [rows, classes], the probability of each.
        """
        ...

    def code(self, params: Mapping[str, Any] | None = None) -> CodeVersion:
        """Which code fits with these parameters."""
        ...


class Scores(Protocol):
    """A model in memory that scores rows."""

    def scores(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The first output for each row."""
        ...


class Scoring(Protocol):
    """Loads models that come from code which is not the platform's own, as serving would."""

    def of(self, model_format: str, model: bytes, names: tuple[str, ...]) -> Scores:
        """A scorer; raises Corrupt or InvalidInput for what could not be served."""
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
    """The native model's scores on the validation rows, not calibrated."""
    isolation: Isolation | None = None
    """What forest goes with the model, if one does."""
    seed: int = 0


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


def check_task(trainer: Trainer, target: Target) -> None:
    """Raise InvalidInput unless the trainer learns labels of that task."""
    if target.task not in trainer.traits.tasks:
        raise InvalidInput(
            f"The trainer {trainer.name!r} does not learn the task {target.task!r}.",
            hint=f"It learns: {', '.join(trainer.traits.tasks)}.",
        )
