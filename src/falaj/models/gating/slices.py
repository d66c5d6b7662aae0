"""Whether the version holds in every slice of the rows, told apart from the noise of small ones.

All slices of a rule, over all of its columns, are one family. Each is tested one-sidedly (is it
beyond the limit?) at half of what the rule's confidence leaves, adjusted by Holm's method. Slices
that are too small to be judged by themselves are judged together.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from falaj.models.gating.examined import (
    LEAST_OF_EACH,
    WORST_SHOWN,
    Examined,
    Named,
    rarest,
    result,
    skipped,
)
from falaj.models.gating.proportions import holm, quantile
from falaj.models.gating.rules import SliceRule
from falaj.models.intervals import BOUNDS, Interval, metric_error
from falaj.models.model import GateResult
from falaj.training.metrics import HIGHER_IS_BETTER

TOGETHER = "(small slices together)"


@dataclass
class Slice:
    """One slice: its metric, and how surely it is beyond the limit."""

    column: str
    word: str
    n_rows: int
    found: Interval
    p_value: float
    """One-sided, that chance alone puts a slice at the limit so far beyond it."""
    adjusted: float = 1.0
    """The same, over all slices of the rule."""

    def evidence(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "slice": self.word,
            "n_rows": self.n_rows,
            **self.found.evidence(),
            "p_value": self.p_value,
            "adjusted_p_value": self.adjusted,
        }


class Slices:
    """The slices of one rule, measured once for all of its columns."""

    def __init__(self, rule: SliceRule) -> None:
        self._rule = rule
        self._examined: Examined | None = None
        self._judged: list[Slice] = []
        self._n_small: dict[str, int] = {}

    def gates(self) -> list[Named]:
        """A gate for each column."""

        def gate_of(column: str) -> Named:
            return f"slices:{column}", lambda examined: self._result(examined, column)

        return [gate_of(column) for column in self._rule.columns]

    def _measured(self, examined: Examined) -> None:
        if self._examined is examined:
            return
        self._judged, self._n_small = [], {}
        for column in self._rule.columns:
            self._cut(examined, column)
        p_values = [one.p_value for one in self._judged]
        adjusted = holm(p_values) if self._rule.correction == "holm" else p_values
        for one, p_value in zip(self._judged, adjusted, strict=True):
            one.adjusted = p_value
        self._examined = examined

    def _cut(self, examined: Examined, column: str) -> None:
        words = examined.words(column)
        small: list[str] = []
        hidden = column.lower() in examined.personal
        known = sorted(set(words.tolist()))
        for place, word in enumerate(known):
            inside = words == word
            if self._judgeable(examined, inside):
                name = f"slice {place + 1} of {len(known)}" if hidden else word
                self._judged.append(self._slice(examined, column, name, inside))
            else:
                small.append(word)
        self._n_small[column] = len(small)
        inside = np.isin(words.astype(str), np.array(small, dtype=str))
        if len(small) > 1 and self._judgeable(examined, inside):
            self._judged.append(self._slice(examined, column, TOGETHER, inside))

    def _judgeable(self, examined: Examined, inside: Any) -> bool:
        labels = examined.labels[inside]
        if labels.size < self._rule.least_rows or labels.min() == labels.max():
            return False
        least = min(LEAST_OF_EACH, self._rule.least_rows // 2)
        return examined.target.task != "binary" or rarest(labels) >= least

    def _slice(self, examined: Examined, column: str, word: str, inside: Any) -> Slice:
        rule = self._rule
        y, s = examined.labels[inside], examined.scores[inside]
        estimate, error = metric_error(rule.metric, y, s, target=examined.target)
        half = quantile(rule.confidence) * error
        beyond = rule.limit - estimate if HIGHER_IS_BETTER[rule.metric] else estimate - rule.limit
        p_value = NormalDist().cdf(-beyond / error) if error > 0 else float(beyond <= 0)
        least, most = BOUNDS.get(rule.metric, (0.0, float("inf")))
        found = Interval(estimate, max(least, estimate - half), min(most, estimate + half))
        return Slice(column, word, int(y.size), found, p_value)

    def _result(self, examined: Examined, column: str) -> GateResult:
        self._measured(examined)
        rule = self._rule
        alpha = (1 - rule.confidence) / 2
        sign = 1 if HIGHER_IS_BETTER[rule.metric] else -1
        judged = sorted(
            (one for one in self._judged if one.column == column),
            key=lambda one: sign * one.found.estimate,
        )
        bad = [one for one in judged if one.adjusted < alpha]
        alone = [one for one in judged if one.p_value < alpha]
        evidence = {
            "limit": rule.limit,
            "metric": rule.metric,
            "confidence": rule.confidence,
            "correction": rule.correction,
            "n_slices_of_the_rule": len(self._judged),
            "n_slices": len(judged),
            "n_too_small": self._n_small[column],
            "surely_under": [one.word for one in bad],
            "under_if_each_were_alone": [one.word for one in alone],
            "worst": [one.evidence() for one in judged[:WORST_SHOWN]],
        }
        if not judged:
            return skipped(f"slices:{column}", "every slice is too small", evidence)
        worst = judged[0]
        how = f"Holm over {len(self._judged)} slices" if rule.correction == "holm" else "each alone"
        side = "under" if sign > 0 else "above"
        return result(
            f"slices:{column}",
            not bad,
            f"worst slice {worst.word} has {rule.metric} {worst.found.estimate:.3f} "
            f"[{worst.found.low:.3f}, {worst.found.high:.3f}] on {worst.n_rows} rows; "
            f"{len(bad)} of {len(judged)} surely {side} {rule.limit} ({how})",
            evidence,
        )
