"""Whether the version knows the answer already: its inputs, and how its rows were parted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.models.gating.examined import WORST_SHOWN, Examined, Gate, result
from falaj.models.gating.leakagesigns import feature_power, own_rows, sampled, strongest_of
from falaj.models.gating.rowsigns import divided_groups, later_instants, misplaced, twins
from falaj.models.gating.rules import LeakageRule
from falaj.models.intervals import auc_interval

if TYPE_CHECKING:
    from falaj.models.model import GateResult


def leakage_gate(rule: LeakageRule) -> Gate:
    """Neither the model nor a feature predicts too well to be honest; no row is in two parts."""

    def gate(examined: Examined) -> GateResult:
        encoding = examined.bundle.manifest.signature.encoding
        names, words = encoding.names, encoding.words
        places = sampled(len(examined.labels))
        matrix, labels = examined.matrix[places], examined.labels[places]
        contrasts = examined.contrasts(labels)
        strongest = strongest_of(feature_power(names, matrix, one) for one in contrasts)
        own = [
            found
            for one in contrasts
            for found in own_rows(names, matrix, one, rule.first_event_auc, words=words)
        ]
        signs = []
        model = None
        if examined.target.task == "binary":
            model = auc_interval(examined.labels, examined.scores)
        if model is not None and model.estimate > rule.model_auc:
            signs.append(
                f"the model's AUC {model.estimate:.3f} is above {rule.model_auc}: was the "
                "question asked at a time when the answer was known?"
            )
        signs += [
            f"{one.feature} alone reaches an AUC of {one.auc:.3f}"
            for one in strongest
            if one.auc > rule.feature_auc
        ]
        signs += [
            f"where {one.count} is 1, {one.feature} gives the label away (AUC {one.auc:.3f}): "
            "its window holds the row itself"
            for one in own
        ]
        evidence: dict[str, Any] = {
            **({} if model is None else {"model_auc": model.evidence()}),
            "limits": rule.model_dump(),
            "features": {one.feature: one.auc for one in strongest[:WORST_SHOWN]},
            "own_rows": [vars(one) for one in own[:WORST_SHOWN]],
            "n_rows_sampled": len(labels),
        }
        signs += _of_rows(rule, examined, evidence)
        return result(
            "leakage",
            not signs,
            "; ".join(signs[:5])
            or f"strongest feature {strongest[0].feature} alone reaches {strongest[0].auc:.3f}"
            + ("" if model is None else f", the model {model.estimate:.3f}"),
            evidence,
        )

    return gate


def _of_rows(rule: LeakageRule, examined: Examined, evidence: dict[str, Any]) -> list[str]:
    """The signs that lie in the rows: twins across parts, and travel in time."""
    signs = []
    if rule.duplicates is not None:
        n_divided = divided_groups(examined)
        evidence["n_groups_in_two_parts"] = n_divided
        if n_divided:
            signs.append(f"{n_divided} groups have rows on both sides of the test")
        found = twins(examined)
        evidence["duplicates"] = found.evidence()
        if found.excess.low > rule.duplicates:
            signs.append(
                f"{found.n_twins} of {found.n_rows} test rows have a twin among the fitted rows, "
                f"{found.excess.estimate:.1%} more than fitted rows have among each other, asked "
                f"≤ {rule.duplicates:.1%}"
            )
    if rule.time_travel:
        n_misplaced = misplaced(examined)
        ahead = later_instants(examined)
        evidence["time_travel"] = {
            "n_rows_in_the_wrong_part": n_misplaced,
            "inputs_with_later_instants": ahead,
            "knowledge": examined.training_set.spec.knowledge,
        }
        if n_misplaced:
            signs.append(f"{n_misplaced} rows lie in another part than their instant says")
        signs += [
            f"{name} tells an instant after the question in {n} rows" for name, n in ahead.items()
        ]
    return signs
