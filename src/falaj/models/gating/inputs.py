"""Whether inputs are what was agreed: types as declared, values as the training rows had them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.models.gating.examined import WORST_SHOWN, Examined, Gate, result
from falaj.models.gating.proportions import newcombe, wilson
from falaj.models.gating.rules import InputsRule
from falaj.training.encoding import FeatureType, numbers
from falaj.training.model import TRAIN
from falaj.training.targets import BINARY, Target
from falaj.training.training_sets import part_of

if TYPE_CHECKING:
    from falaj.models.model import GateResult
    from falaj.training.encoding import EncodedFeature

TEXT = frozenset({"string"})
"""The declared types that a model reads as words; others are numbers."""


def contract_gate(label: str, feature_service: str, target: Target = BINARY) -> Gate:
    """The model was trained for the label, the task and the feature service of its policy."""

    def gate(examined: Examined) -> GateResult:
        manifest = examined.bundle.manifest
        found = {"label": manifest.signature.label, "feature_service": manifest.feature_service}
        wanted = {"label": label, "feature_service": feature_service}
        own = manifest.signature.target
        if (own, target) != (BINARY, BINARY):
            found |= {"task": own.task, "classes": ", ".join(own.classes)}
            wanted |= {"task": target.task, "classes": ", ".join(target.classes)}
        good = found == wanted
        message = "inputs and label as declared" if good else f"{found} is not {wanted}"
        return result("contract", good, message, {"found": found, "declared": wanted})

    return gate


def inputs_gate(rule: InputsRule) -> Gate:
    """Types as the feature service declares them; ranges, words and gaps as in training."""

    def gate(examined: Examined) -> GateResult:
        features = examined.bundle.manifest.signature.encoding.features
        train = part_of(examined.whole, TRAIN)
        bad = _types(features, examined)
        measured = [_measured(rule, one, train, examined.rows) for one in features]
        wrong = [one for one in measured if one["wrong"]]
        bad += [f"{one['input']}: {one['wrong']}" for one in wrong]
        return result(
            "inputs",
            not bad,
            "; ".join(bad[:5]) or f"{len(features)} inputs as declared and as trained on",
            {
                "rule": rule.model_dump(),
                "n_inputs": len(features),
                "declared": examined.declared is not None,
                "n_training_rows": train.num_rows,
                "wrong": wrong[:WORST_SHOWN],
                "n_wrong": len(bad),
                "inputs": measured[: 5 * WORST_SHOWN],
            },
        )

    return gate


def _types(features: tuple[EncodedFeature, ...], examined: Examined) -> list[str]:
    """What is wrong with the types of the inputs, by the pinned feature service."""
    if examined.declared is None:
        return ["the feature service that the rows were made with is not known here any more"]
    bad = []
    for feature in features:
        declared = examined.declared.get(feature.name)
        if declared is None:
            bad.append(f"{feature.name} is not in the feature service")
        elif (declared in TEXT) is not (feature.type is FeatureType.CATEGORY):
            bad.append(f"{feature.name} is read as a {feature.type}, and declared as {declared}")
    return bad


def _measured(
    rule: InputsRule, feature: EncodedFeature, train: pa.Table, rows: pa.Table
) -> dict[str, Any]:
    """How one input's test values differ from its training values, and what is wrong with it."""
    if feature.name not in rows.column_names:
        return {"input": feature.name, "wrong": "the rows lack it"}
    then, now = train.column(feature.name), rows.column(feature.name)
    told = _words(feature, now) if feature.type is FeatureType.CATEGORY else _range(then, now)
    gone = newcombe(_n_missing(now), len(now), _n_missing(then), len(then))
    told |= {"input": feature.name, "more_missing": gone.evidence()}
    wrong = []
    if feature.type is FeatureType.CATEGORY and told["unknown"]["low"] > rule.unknown_words:
        wrong.append(f"{told['unknown']['estimate']:.1%} of its words are unknown to the model")
    if feature.type is FeatureType.NUMBER and told["outside"]["low"] > rule.outside:
        wrong.append(
            f"{told['outside']['estimate']:.1%} of its values lie outside of what the training "
            "rows had"
        )
    if len(then) and gone.low > rule.missing:
        wrong.append(f"missing more often by {gone.estimate:.1%}")
    return {**told, "wrong": ", ".join(wrong)}


def _range(then: pa.ChunkedArray, now: pa.ChunkedArray) -> dict[str, Any]:
    before, after = (numbers(one, "input") for one in (then, now))
    before, after = before[np.isfinite(before)], after[~np.isnan(after)]
    if before.size == 0:
        return {"least": None, "greatest": None, "outside": wilson(0, 0).evidence()}
    least, greatest = float(before.min()), float(before.max())
    n_outside = int(((after < least) | (after > greatest)).sum())
    outside = wilson(n_outside, after.size).evidence()
    return {"least": least, "greatest": greatest, "outside": outside}


def _words(feature: EncodedFeature, now: pa.ChunkedArray) -> dict[str, Any]:
    known = pc.is_in(now.cast(pa.string()), value_set=pa.array(feature.categories, pa.string()))
    n_there = len(now) - now.null_count
    n_known = int(pc.sum(known).as_py() or 0)
    unknown = wilson(n_there - n_known, n_there).evidence()
    return {"n_words": len(feature.categories), "unknown": unknown}


def _n_missing(column: pa.ChunkedArray) -> int:
    if pa.types.is_floating(column.type):
        return int(np.isnan(numbers(column, "input")).sum())
    return int(column.null_count)
