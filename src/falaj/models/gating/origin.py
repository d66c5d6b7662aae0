"""Where a version comes from: whole and signed, judged on rows it cannot know, near its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from falaj.kernel.clock import microseconds
from falaj.models.gating.examined import Examined, result
from falaj.training.encoding import instants
from falaj.training.metrics import FUNCTIONS, Vector

if TYPE_CHECKING:
    from falaj.models.bundles import Bundle
    from falaj.models.gating.rules import ParentRule
    from falaj.models.model import GateResult, Parent
    from falaj.training.model import TrainingSet


def bundle_gate(examined: Examined) -> GateResult:
    """The signature and every digest of the bundle were verified when it was opened."""
    return bundle_gate_of(examined.bundle)


def bundle_gate_of(bundle: Bundle) -> GateResult:
    """The same, of a bundle whose rows cannot be examined."""
    return result(
        "bundle",
        True,
        f"signature and {len(bundle.entries)} files verified",
        {
            "signers": list(bundle.signers),
            "files": {one.name: one.sha256 for one in bundle.entries},
        },
    )


def unjudged(bundle: str) -> list[GateResult]:
    """What the gates say of a version that names no training set: nothing can be measured."""
    return [
        result(
            "rows",
            False,
            "the model was brought without a training set of this platform to judge it on",
            {"bundle": bundle, "hint": "bring it again with training_set and trained_until"},
        )
    ]


def unseen(
    bundle: Bundle, training_set: TrainingSet, test: pa.Table
) -> tuple[pa.Table, GateResult | None]:
    """The test rows that a brought model cannot have learned from, and the gate of its origin.

    What was trained elsewhere may have seen any row until ``trained_until``. Without that
    instant, or with no row after it, nothing can be measured that means anything.
    """
    brought = bundle.manifest.brought
    if brought is None:
        return test, None
    evidence: dict[str, Any] = brought.model_dump(mode="json")
    told = f"brought by {brought.by} as {brought.file}"
    if brought.trained_until is None:
        why = f"{told}; nobody says until when its training rows reach"
        return test, result("origin", False, why, evidence)
    spec = training_set.spec
    at = instants(test.column(spec.timestamp), spec.timestamp)
    later = at > microseconds(brought.trained_until)
    evidence |= {"n_rows": int(later.sum()), "n_rows_left_out": int((~later).sum())}
    until = f"{brought.trained_until:%Y-%m-%d %H:%M}"
    label, _ = training_set.trainable()
    kept = test.filter(pa.array(later))
    found = bundle.manifest.signature.target.labels(kept.column(label), label)
    if found.size == 0 or found.min() == found.max():
        why = f"{told}; no test rows with different labels lie after {until}"
        return test, result("origin", False, why, evidence)
    why = f"{told}, by its word on rows until {until}; judged on {len(found)} later rows"
    return kept, result("origin", True, why, evidence)


def parent_gate(rule: ParentRule, parent: Parent, examined: Examined, others: Vector) -> GateResult:
    """A version made from another differs from it by no more than the rule allows."""
    differences = np.abs(examined.scores - others)
    worst, mean = float(differences.max()), float(differences.mean())
    auc = FUNCTIONS["auc"]
    loss = auc(examined.labels, others) - auc(examined.labels, examined.scores)
    return result(
        "parent",
        worst <= rule.worst_difference and loss <= rule.auc_loss,
        f"{parent.made_by} of version {parent.version}: scores differ by at most {worst:.4f}, "
        f"asked ≤ {rule.worst_difference}; AUC lost {loss:+.5f}, asked ≤ {rule.auc_loss}",
        {
            "worst_difference": worst,
            "mean_difference": mean,
            "auc_loss": float(loss),
            "limits": rule.model_dump(),
            "when_made": parent.model_dump(),
            "n_rows": len(differences),
        },
    )
