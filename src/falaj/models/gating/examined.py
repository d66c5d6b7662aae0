"""A version before its gates: its bundle, the rows that judge it, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.models.bundles import Bundle
from falaj.models.model import GateResult, Outcome
from falaj.training.encoding import instants
from falaj.training.metrics import Vector
from falaj.training.model import TrainingSet
from falaj.training.targets import Target
from falaj.training.training_sets import unseen

if TYPE_CHECKING:
    from falaj.models.model import ModelPolicy
    from falaj.models.ports import Scorer

WORST_SHOWN = 10
LEAST_OF_EACH = 10
"""Rows of each class that a comparison needs; with fewer the error of its metric is a guess."""


@dataclass(frozen=True)
class Examined:
    """A version before the gates: its bundle, and the test rows that it is judged on."""

    bundle: Bundle
    scorer: Scorer
    training_set: TrainingSet
    rows: pa.Table
    """Those that judge it."""
    whole: pa.Table
    """The training set with all its parts."""
    champion: Bundle | None = None
    champion_scorer: Scorer | None = None
    champion_set: TrainingSet | None = None
    champion_version: int | None = None
    declared: Mapping[str, str] | None = None
    """The type of each column of the feature service, as it was pinned; None if unknown."""
    personal: frozenset[str] = frozenset()
    """Columns, in lower case, whose words no evidence may tell, but those that a rule names."""
    owner: str | None = None
    """Who made the version."""
    earlier: list[GateResult] = field(default_factory=list)
    """What the gates before this one found."""

    @cached_property
    def labels(self) -> Vector:
        """Label of each test row."""
        label, _ = self.training_set.trainable()
        return self.target.labels(self.rows.column(label), label)

    @property
    def target(self) -> Target:
        """What the version predicts."""
        return self.bundle.manifest.signature.target

    def contrasts(self, labels: Vector) -> list[Vector]:
        """Labels as ones of 0 and 1, by which an input alone can be asked what it tells.

        Of numbers: above the median; of classes: each class against the others, where both
        have at least ten rows.
        """
        if self.target.task == "binary":
            return [labels]
        if self.target.task == "regression":
            return [(labels > np.median(labels)).astype(np.float64)]
        each = [(labels == place).astype(np.float64) for place in range(len(self.target.classes))]
        return [one for one in each if rarest(one) >= LEAST_OF_EACH]

    @cached_property
    def matrix(self) -> Any:
        """The test rows as the model reads them."""
        return self.bundle.manifest.signature.encoding.matrix(self.rows)

    @cached_property
    def scores(self) -> Vector:
        """What the packaged model gives for each row."""
        return self.scorer.scores(self.matrix)

    @cached_property
    def after_champion(self) -> Any:
        """True for test rows that lie after the champion's training and validation rows, or
        that were test rows of its own set."""
        spec = self.training_set.spec
        at = instants(self.rows.column(spec.timestamp), spec.timestamp)
        after = np.full(at.shape, True)
        if self.champion_set is not None:
            after &= unseen(self.champion_set, self.rows, self.training_set)
        brought = self.champion.manifest.brought if self.champion else None
        if brought is not None and brought.trained_until is not None:
            after &= at > microseconds(brought.trained_until)
        return after

    def words(self, column: str) -> Any:
        """A column of the test rows as text, one word for each row.

        Raises:
            InvalidInput: there is no such column.
        """
        import pyarrow.compute as pc

        if column not in self.rows.column_names:
            raise InvalidInput(
                f"The test rows have no column {column!r} to slice by.",
                hint="Keep it in the spine.",
            )
        values = self.rows.column(column).cast(pa.string())
        return np.asarray(pc.fill_null(values, "(missing)").to_pylist(), dtype=object)


def rarest(labels: Vector) -> int:
    """How many rows the class has that has fewer."""
    ones = int(labels.sum())
    return min(ones, labels.size - ones)


Gate = Callable[[Examined], GateResult]
Named = tuple[str, Gate]


def result(gate: str, good: bool, message: str, evidence: dict[str, Any]) -> GateResult:
    """What a gate found: passed if ``good``."""
    outcome = Outcome.PASSED if good else Outcome.FAILED
    return GateResult(gate=gate, outcome=outcome, message=message, evidence=evidence)


def skipped(gate: str, message: str, evidence: dict[str, Any]) -> GateResult:
    """A gate that could measure nothing, and why; it stops no version."""
    return GateResult(gate=gate, outcome=Outcome.SKIPPED, message=message, evidence=evidence)


def columns_grouped_by(policy: ModelPolicy) -> tuple[str, ...]:
    """The columns whose values a policy cuts the rows by: of its slices and its groups."""
    sliced = [column for rule in policy.slices for column in rule.columns]
    return tuple(dict.fromkeys([*sliced, *(rule.column for rule in policy.fairness)]))
