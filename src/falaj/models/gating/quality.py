"""How good the version is: against a floor, and against the version in production."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import InvalidInput
from falaj.models.gating.calibration import error_interval
from falaj.models.gating.examined import LEAST_OF_EACH, Examined, Gate, rarest, result, skipped
from falaj.models.gating.rules import ChampionRule, MetricRule
from falaj.models.intervals import Interval, metric_difference, metric_interval
from falaj.models.model import GateResult
from falaj.training.metrics import FUNCTIONS, HIGHER_IS_BETTER, Vector
from falaj.training.targets import BINARY, Target

if TYPE_CHECKING:
    from falaj.models.bundles import Bundle

_METHODS = {
    "auc": "DeLong", "log_loss": "mean of the rows", "brier": "mean of the rows",
    "calibration_error": "noise of the bins",
    "rmse": "delta method", "mae": "mean of the rows", "r2": "delta method",
    "accuracy": "mean of the rows", "balanced_accuracy": "delta method",
}  # fmt: skip
_PAIRED = {
    "auc": "DeLong, paired", "log_loss": "mean of the rows' differences",
    "brier": "mean of the rows' differences", "calibration_error": "paired bootstrap, 400",
    "rmse": "delta method, paired", "mae": "mean of the rows' differences",
    "r2": "delta method, paired", "accuracy": "mean of the rows' differences",
    "balanced_accuracy": "delta method, paired",
}  # fmt: skip


def estimated(
    metric: str, labels: Vector, scores: Vector, confidence: float, target: Target = BINARY
) -> Interval:
    """A metric with its interval, whichever it is.

    Raises:
        InvalidInput: the task of the labels has no such metric.
    """
    if target.task == "binary":
        if metric not in FUNCTIONS:
            raise InvalidInput(
                f"{metric!r} is no metric of labels 0 and 1.",
                hint=f"They have: {', '.join(FUNCTIONS)}. Or declare the model's `task`.",
            )
        if metric == "calibration_error":
            return error_interval(labels, scores, confidence=confidence)
    return metric_interval(metric, labels, scores, confidence=confidence, target=target)


def metric_gate(rule: MetricRule) -> Gate:
    """The metric reaches its limit on the test rows."""

    def gate(examined: Examined) -> GateResult:
        target = examined.target
        found = estimated(rule.metric, examined.labels, examined.scores, rule.confidence, target)
        value = found.estimate
        higher = HIGHER_IS_BETTER[rule.metric]
        best, worst = (found.high, found.low) if higher else (found.low, found.high)
        held = {"estimate": value, "not_surely_beyond": best, "surely_within": worst}[rule.require]
        good = held >= rule.limit if higher else held <= rule.limit
        evidence: dict[str, Any] = {
            "value": value,
            "limit": rule.limit,
            "require": rule.require,
            "interval": found.evidence(),
            "confidence": rule.confidence,
            "method": _METHODS[rule.metric],
            "n_rows": len(examined.labels),
        }
        if target.task == "binary":
            evidence["positive_rate"] = float(examined.labels.mean())
        sign = "≥" if higher else "≤"
        how = "" if rule.require == "estimate" else f", {rule.require.replace('_', ' ')}"
        message = (
            f"{rule.metric} {value:.4f} [{found.low:.4f}, {found.high:.4f}], "
            f"asked {sign} {rule.limit}{how}"
        )
        return result(f"metric:{rule.metric}", good, message, evidence)

    return gate


def champion_gate(rule: ChampionRule) -> Gate:
    """The version is not worse than (or better than) the one in production.

    Only rows after everything that the champion was fitted on are compared; both score the
    same rows, so the test is a paired one. With fewer than 10 rows of a class it fails, whatever
    the rule asks: the error of a difference is then a guess, and nothing is shown.
    """

    def gate(examined: Examined) -> GateResult:
        if examined.champion is None or examined.champion_scorer is None:
            return skipped("champion", "nothing is in production to compare with", {})
        evidence: dict[str, Any] = {"champion": examined.champion_version, **rule.model_dump()}
        why, numbers = _incomparable(examined, examined.champion)
        if why:
            return result("champion", False, why, {**evidence, **numbers})
        encoding, later = examined.champion.manifest.signature.encoding, examined.after_champion
        others = examined.champion_scorer.scores(encoding.matrix(examined.rows))
        found = metric_difference(
            rule.metric,
            examined.labels[later],
            examined.scores[later],
            others[later],
            confidence=rule.confidence,
            target=examined.target,
        )
        return result(
            "champion",
            _holds(rule, found),
            f"{rule.metric} better by {found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}] "
            f"than version {examined.champion_version} (p = {found.p_value:.2g}), "
            f"asked {rule.require.replace('_', ' ')}",
            {
                **evidence,
                "difference": found.evidence(),
                "method": _PAIRED[rule.metric],
                "n_rows": int(later.sum()),
            },
        )

    return gate


def _incomparable(examined: Examined, champion: Bundle) -> tuple[str, dict[str, Any]]:
    """Why a version cannot be compared with the champion, in words and numbers; empty if it can."""
    other = f"version {examined.champion_version}"
    signature = champion.manifest.signature
    missing = [one for one in signature.encoding.names if one not in examined.rows.column_names]
    if missing:
        told = f"the rows lack {', '.join(missing)}, so that {other} cannot be compared"
        return told, {"missing": missing}
    if signature.target != examined.target:
        return f"{other} predicts something else, so that the two cannot be compared", {}
    later = examined.after_champion
    few, n_rows = fewest(examined, later), int(later.sum())
    if few == 0:
        told = "no test rows with different labels lie after the champion's own training rows"
        return told, {"n_rows": n_rows}
    if few < LEAST_OF_EACH:
        told = (
            f"only {few} of the {n_rows} test rows after the champion's own training rows are of "
            f"the rarer class, too few to compare (at least {LEAST_OF_EACH})"
        )
        return told, {"n_rows": n_rows, "n_of_the_rarer_class": few}
    return "", {}


def fewest(examined: Examined, rows: Any) -> int:
    """How many rows there are to compare by: of the rarer class, or of numbers in all; 0 if all
    their labels are the same."""
    labels = examined.labels[rows]
    if labels.size == 0 or labels.min() == labels.max():
        return 0
    return rarest(labels) if examined.target.task == "binary" else labels.size


def _holds(rule: ChampionRule, found: Interval) -> bool:
    if rule.require == "better":
        return found.low > 0
    if rule.require == "not_inferior":
        return found.low > -rule.margin
    return found.high >= -rule.margin
