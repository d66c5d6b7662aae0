"""Whether it can be told what the decisions rest on, and whether that is one input alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.models.gating.examined import WORST_SHOWN, Examined, Gate, result
from falaj.models.gating.leakagesigns import sampled
from falaj.models.gating.rules import ExplainabilityRule
from falaj.training.metrics import Vector, auc
from falaj.training.rowmetrics import loss_of
from falaj.training.targets import Target

if TYPE_CHECKING:
    from falaj.models.model import GateResult


def explainability_gate(rule: ExplainabilityRule) -> Gate:
    """The importance of the inputs is known, and no input carries nearly all of it."""

    def gate(examined: Examined) -> GateResult:
        names = examined.bundle.manifest.signature.encoding.names
        told = {k: v for k, v in examined.bundle.manifest.importance.items() if k in names}
        source = "training"
        if not any(value > 0 for value in told.values()):
            told, source = permuted(examined), "permutation"
        total = sum(told.values())
        shares = {name: value / total for name, value in told.items()} if total > 0 else {}
        ranked = sorted(shares.items(), key=lambda one: (-one[1], one[0]))
        known = len(told) / len(names)
        evidence: dict[str, Any] = {
            "source": source,
            "limits": rule.model_dump(),
            "share_of_inputs_told": known,
            "importance": dict(ranked[:WORST_SHOWN]),
        }
        if not ranked:
            why = "no input changes what the model says: there is nothing to explain by"
            return result("explainability", False, why, evidence)
        first, share = ranked[0]
        return result(
            "explainability",
            share <= rule.dominant and known >= rule.least_told,
            f"{first} carries {share:.1%} (by {source}), asked ≤ {rule.dominant:.0%}; importance "
            f"is told of {known:.0%} of the inputs",
            evidence,
        )

    return gate


def permuted(examined: Examined) -> dict[str, float]:
    """How much worse the model gets when the values of one input are shuffled, for each input.

    By the AUC, of numbers by the root of the mean square, of classes by the log loss.

    Breiman, Machine Learning 45 (2001); one seeded shuffle over at most 20,000 test rows, and
    falls below 0 count as 0.
    """
    places = sampled(len(examined.labels))
    labels, matrix = examined.labels[places], examined.matrix[places]
    whole = _goodness(examined.target, labels, examined.scores[places])
    random = np.random.default_rng(7)
    found = {}
    for place, name in enumerate(examined.bundle.manifest.signature.encoding.names):
        shuffled = matrix.copy()
        shuffled[:, place] = random.permutation(shuffled[:, place])
        scores = examined.scorer.scores(shuffled)
        found[name] = max(0.0, whole - _goodness(examined.target, labels, scores))
    return found


def _goodness(target: Target, labels: Vector, scores: Vector) -> float:
    return auc(labels, scores) if target.task == "binary" else -loss_of(target, labels, scores)
