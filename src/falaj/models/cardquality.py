"""The parts of a card that tell how good a version is, and for whom, by the results of gates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from falaj.models.cardforms import Grid, Line, Part, Section, Strong
from falaj.models.model import GateReport, GateResult, Manifest, Outcome

_MARKS: dict[Outcome, Part] = {
    Outcome.PASSED: "passed", Outcome.FAILED: Strong("failed"), Outcome.SKIPPED: "skipped",
}  # fmt: skip
_MOST_ROWS = 10


def intervals_of(results: Iterable[GateResult]) -> dict[str, dict[str, Any]]:
    """By metric, its estimate and interval on the test rows, as the gates measured them."""
    found: dict[str, dict[str, Any]] = {}
    for one in results:
        if one.gate.startswith("metric:"):
            found[one.gate.removeprefix("metric:")] = one.evidence.get("interval") or {}
        elif one.gate == "calibration":
            found.setdefault("calibration_error", one.evidence.get("interval") or {})
        elif one.gate == "leakage":
            found.setdefault("auc", one.evidence.get("model_auc") or {})
    return {name: told for name, told in found.items() if "estimate" in told}


def quality_section(
    manifest: Manifest, results: Iterable[GateResult], report: GateReport | None
) -> Section:
    """Metrics of training, metrics on the test rows with their intervals, and every gate."""
    trained = tuple((name, _told(value)) for name, value in sorted(manifest.metrics.items()))
    blocks: list[Grid | Line] = [Grid(("metric", "value"), trained)] if trained else []
    measured = tuple(
        (name, f"{told['estimate']:.4f}", f"{told['low']:.4f} to {told['high']:.4f}")
        for name, told in sorted(intervals_of(results).items())
    )
    if measured:
        blocks.append(Grid(("metric, on the test rows", "value", "interval"),
                           measured))  # fmt: skip
    if report is None:
        return Section("Quality", (*blocks, ("No gate has been run.",)))
    verdict = "all passed" if report.passed else "not passed"
    rows = tuple((one.gate, _MARKS[one.outcome], one.message) for one in report.results)
    return Section(
        "Quality",
        (
            *blocks,
            (f"Gates of {report.at:%Y-%m-%d %H:%M} UTC: {verdict}.",),
            Grid(("gate", "outcome", "evidence"), rows),
        ),
    )


def _told(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() and abs(value) > 1 else f"{value:.4f}"


def slices_section(results: Iterable[GateResult]) -> list[Section]:
    """The worst slices by each column."""
    rows = []
    for one in results:
        if one.gate.startswith("slices:"):
            metric = str(one.evidence.get("metric", "auc"))
            rows += [
                (one.gate.removeprefix("slices:"), str(told["slice"]), f"{told['n_rows']:,}",
                 f"{metric} {told['estimate']:.3f}", f"{told['low']:.3f} to {told['high']:.3f}")
                for told in one.evidence.get("worst", [])[:_MOST_ROWS]
            ]  # fmt: skip
    heads = ("by", "slice", "rows", "value", "interval")
    return [Section("Slices, the worst first", (Grid(heads, tuple(rows)),))] if rows else []


def fairness_section(results: Iterable[GateResult]) -> list[Section]:
    """How differently groups are decided about."""
    rows = []
    for one in results:
        if one.gate.startswith("fairness:"):
            rows += [
                (one.gate.removeprefix("fairness:"), measure.replace("_", " "),
                 f"{told['estimate']:.3f}", f"{told['low']:.3f} to {told['high']:.3f}",
                 f"{told['limit']}", " and ".join(str(group) for group in told["between"]))
                for measure, told in sorted(one.evidence.get("gaps", {}).items())
            ]  # fmt: skip
    heads = ("groups by", "greatest difference of", "value", "interval", "limit", "between")
    return [Section("Fairness", (Grid(heads, tuple(rows)),))] if rows else []


__all__ = ["fairness_section", "intervals_of", "quality_section", "slices_section"]
