"""How far a version falls when its inputs come damaged: missing, noisy, with words nobody has seen.

Each damage is seeded and done to the same test rows, which are then scored as rows in production
are. The fall of the AUC is a paired difference (DeLong), the share of decisions that turn over a
proportion (Wilson). One of the damages puts absurd numbers in: a probability must still come of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from falaj.models.gating.examined import (
    LEAST_OF_EACH,
    WORST_SHOWN,
    Examined,
    Gate,
    rarest,
    result,
    skipped,
)
from falaj.models.gating.leakagesigns import sampled
from falaj.models.gating.proportions import wilson
from falaj.models.gating.rules import RobustnessRule
from falaj.models.intervals import auc_difference
from falaj.training.encoding import FeatureType

if TYPE_CHECKING:
    from falaj.models.model import GateResult
    from falaj.training.encoding import EncodedFeature

_SEED = 7
_ROWS_FOR_EACH = 4_000
NEVER_SEEN = "\ufffd never seen"
ABSURD = (float("inf"), float("-inf"), 3.4e38, -3.4e38)


class Damaged:
    """The rows of a version, and what its scores become when they are damaged."""

    def __init__(self, rule: RobustnessRule, examined: Examined) -> None:
        places = sampled(len(examined.labels))
        self._rule = rule
        self._examined = examined
        self._encoding = examined.bundle.manifest.signature.encoding
        self._rows = examined.rows.take(pa.array(places))
        self._matrix = examined.matrix[places]
        self._labels, self._scores = examined.labels[places], examined.scores[places]
        self._random = np.random.default_rng(_SEED)
        spread = {one.name: one.std or 0.0 for one in examined.bundle.statistics.features}
        self._spread = np.array([spread.get(name, 0.0) for name in self._encoding.names])

    @property
    def n_rows(self) -> int:
        """How many rows are damaged."""
        return len(self._labels)

    @property
    def few_of(self) -> int | None:
        """How many rows the rarer class has, if too few for the AUC's fall; None if enough."""
        few = rarest(self._labels)
        return few if few < LEAST_OF_EACH else None

    def all_missing(self) -> dict[str, Any]:
        """A share of the values of all inputs taken away."""
        matrix = self._matrix.copy()
        matrix[self._random.random(matrix.shape) < self._rule.missing] = np.nan
        return self._measured(matrix)

    def noisy(self) -> dict[str, Any] | None:
        """Noise added to all numbers; None if there is no number that varies."""
        sizes = self._rule.noise * self._spread
        for place, feature in enumerate(self._encoding.features):
            if feature.type is FeatureType.CATEGORY:
                sizes[place] = 0.0
        if not sizes.any():
            return None
        noise = self._random.normal(size=self._matrix.shape) * sizes
        return self._measured((self._matrix + noise).astype(np.float32))

    def unseen(self) -> dict[str, Any] | None:
        """A share of the words of each input replaced by one that is new; None without words."""
        words = [one for one in self._encoding.features if one.type is FeatureType.CATEGORY]
        if not words:
            return None
        rows = self._rows
        for feature in words:
            rows = self._with_new_words(rows, feature)
        return self._measured(self._encoding.matrix(rows))

    def _with_new_words(self, rows: pa.Table, feature: EncodedFeature) -> pa.Table:
        import pyarrow.compute as pc

        text = rows.column(feature.name).cast(pa.string()).combine_chunks()
        struck = pa.array(self._random.random(rows.num_rows) < self._rule.unseen)
        place = rows.schema.get_field_index(feature.name)
        changed = pc.if_else(struck, pa.scalar(NEVER_SEEN), text)
        return rows.set_column(place, feature.name, changed)

    def one_missing(self) -> list[dict[str, Any]]:
        """Each input missing in all of at most 4,000 rows, the greatest fall of the AUC first.

        In all rows, if those 4,000 hold too few of a class.
        """
        few = np.sort(self._random.permutation(self.n_rows)[:_ROWS_FOR_EACH])
        if rarest(self._labels[few]) < LEAST_OF_EACH:
            few = np.arange(self.n_rows)
        told = []
        for place, name in enumerate(self._encoding.names):
            matrix = self._matrix[few]  # a copy
            matrix[:, place] = np.nan
            told.append({"input": name, **self._measured(matrix, few)})
        return sorted(told, key=lambda one: (-_fall(one)["estimate"], one["input"]))

    def no_probabilities(self) -> int:
        """How many rows of absurd numbers give something else than a probability."""
        rows = self._matrix[: min(200, len(self._matrix))]
        bad = 0
        for absurd in ABSURD:
            matrix = rows.copy()
            for place, feature in enumerate(self._encoding.features):
                if feature.type is FeatureType.NUMBER:
                    matrix[:, place] = absurd
            scores = self._examined.scorer.scores(matrix)
            bad += int((~((scores >= 0) & (scores <= 1))).sum())
        return bad

    def _measured(self, matrix: Any, rows: Any = slice(None)) -> dict[str, Any]:
        rule, labels, before = self._rule, self._labels[rows], self._scores[rows]
        scores = self._examined.scorer.scores(matrix)
        if np.isnan(scores).any():
            return {"auc_loss": {"estimate": 1.0, "low": 1.0, "high": 1.0}, "no_number": True,
                    "flips": {"estimate": 1.0, "low": 1.0, "high": 1.0}}  # fmt: skip
        turned = (before >= rule.threshold) != (scores >= rule.threshold)
        flips = wilson(int(turned.sum()), len(turned), confidence=rule.confidence)
        if self.few_of is not None:
            return {"auc_loss": None, "flips": flips.evidence()}
        fall = auc_difference(labels, before, scores, confidence=rule.confidence)
        return {"auc_loss": fall.evidence(), "flips": flips.evidence()}


def _fall(found: dict[str, Any]) -> dict[str, float]:
    """The fall of the AUC; where it was not judged, one that is beyond no limit."""
    return found["auc_loss"] or {"estimate": 0.0, "low": 0.0, "high": 0.0}


def robustness_gate(rule: RobustnessRule) -> Gate:
    """No damage surely costs more AUC, or turns over more decisions, than the rule permits.

    With fewer than 10 rows of a class the fall of the AUC is not judged: the gate then fails by
    the rest of the rule, or is skipped.
    """

    def gate(examined: Examined) -> GateResult:
        damaged = Damaged(rule, examined)
        kinds = {"missing": damaged.all_missing(), "noise": damaged.noisy(),
                 "unseen": damaged.unseen()}  # fmt: skip
        known = {name: found for name, found in kinds.items() if found is not None}
        alone = damaged.one_missing()
        absurd = damaged.no_probabilities()
        bad = []
        for name, found in known.items():
            if _fall(found)["low"] > rule.auc_loss:
                bad.append(f"{name}: the AUC falls by {_fall(found)['estimate']:.3f}")
            if found["flips"]["low"] > rule.flips:
                bad.append(f"{name}: {found['flips']['estimate']:.1%} of the decisions turn over")
        limit = rule.one_missing_auc_loss
        if limit is not None:
            bad += [
                f"without {one['input']} the AUC falls by {_fall(one)['estimate']:.3f}"
                for one in alone
                if _fall(one)["low"] > limit
            ]
        if absurd:
            bad.append(f"{absurd} rows of absurd numbers give no probability")
        evidence = {
            "rule": rule.model_dump(),
            "damages": known,
            "one_input_missing": alone[:WORST_SHOWN],
            "n_absurd_without_probability": absurd,
            "n_rows": damaged.n_rows,
        }
        if damaged.few_of is not None and not bad:
            return skipped(
                "robustness",
                f"only {damaged.few_of} of {damaged.n_rows} rows are of the rarer class, too few "
                f"to judge how far the AUC falls (at least {LEAST_OF_EACH})",
                evidence,
            )
        good = "; ".join(
            f"{name}: AUC {-_fall(found)['estimate']:+.4f}, "
            f"{found['flips']['estimate']:.1%} turned over"
            for name, found in known.items()
        )
        return result("robustness", not bad, "; ".join(bad[:5]) or good, evidence)

    return gate
