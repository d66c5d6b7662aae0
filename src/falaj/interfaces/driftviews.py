"""What the page of a monitor tells of drift: now, over time, of predictions and of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from falaj.interfaces.plots import Series, course_plot
from falaj.interfaces.sheets import Cell, Figure, Section, Table, at, figure, share

if TYPE_CHECKING:
    from falaj.monitoring.coursewords import MonitorCourse, MonitorStatus
    from falaj.monitoring.driftwords import DriftReport, FeatureDrift

_MOST_ROWS = 100
_MOST_PLOTS = 6
_MOST_WINDOWS = 15


def sections(status: MonitorStatus, course: MonitorCourse) -> list[Section]:
    """The parts of the page that are about drift."""
    from falaj.monitoring.driftwords import DriftReport

    reports = [DriftReport.model_validate(one.document) for one in course.reports]
    hidden = not_shown(course)
    if not reports:
        asked = "measures no drift" if status.monitor.drift is None else "has no report of drift"
        return [Section("Drift", words=(f"This monitor {asked}.", *hidden))]
    latest = reports[0]
    in_a_row = {(one.name, one.column): one.windows for one in status.findings}
    return [
        Section(
            "Drift of the inputs",
            words=(*_told(latest), *hidden),
            tables=(_features(latest, in_a_row), *_faults(latest, in_a_row)),
            figures=_plots(reports),
        ),
        _predictions(reports, in_a_row),
        _labels(reports),
        Section("Over time", tables=(_windows(reports),)),
    ]


def not_shown(course: MonitorCourse) -> list[str]:
    """That reports are kept which the visitor may not see; nothing if there are none."""
    if not course.n_not_shown:
        return []
    return [
        f"Kept reports of {course.kind} that cannot be shown: {course.n_not_shown}. They were told"
        " from tables that you may not read as you stand. Personal data needs a purpose and a"
        " fresh second factor."
    ]


def _told(report: DriftReport) -> list[str]:
    source = "kept sketches" if report.source == "sketches" else "every row of the log"
    words = [
        f"{report.model} {report.version}: {report.n_observed} predictions from"
        f" {at(report.since)} to {at(report.until)}, against {report.against}"
        f" ({report.n_reference} rows). Told from {source}.",
        "An input has drifted when the difference is surely there (the p-value, adjusted over all"
        " features, is at most"
        f" {report.limits.false_discovery_rate:g}) and large (a measure reaches its limit).",
    ]
    left = len(report.features) - _MOST_ROWS
    if left > 0:
        words.append(f"{left} more inputs, which differ less, are in `falaj monitors report`.")
    return words


def _features(report: DriftReport, in_a_row: dict[tuple[str, str], int]) -> Table:
    limits = report.limits
    farthest = sorted(report.features, key=_farthest)[:_MOST_ROWS]
    return Table(
        "Inputs, those that drifted first",
        (
            "Input",
            "Verdict",
            "Windows in a row",
            f"PSI (limit {limits.psi:g})",
            _column("KS distance", limits.ks),
            _column("Wasserstein", limits.wasserstein),
            _column("Jensen-Shannon", limits.jensen_shannon),
            "Adjusted p",
            f"Missing, was to is (limit {limits.missing:g})",
        ),
        [_feature(one, in_a_row) for one in farthest],
    )


def _farthest(one: FeatureDrift) -> tuple[bool, float]:
    return not one.drifted, -one.psi


def _column(name: str, limit: float | None) -> str:
    return name if limit is None else f"{name} (limit {limit:g})"


def _feature(one: FeatureDrift, in_a_row: dict[tuple[str, str], int]) -> list[Cell | str]:
    return [
        one.name,
        Cell(f"drifted: {one.why}", strong=True) if one.drifted else "alike",
        str(in_a_row.get(("drift", one.name), 0)),
        figure(one.psi),
        figure(one.ks),
        figure(one.wasserstein),
        figure(one.jensen_shannon),
        figure(one.adjusted_p_value, ".2g"),
        f"{share(one.missing_reference)} to {share(one.missing_observed)}",
    ]


def _faults(report: DriftReport, in_a_row: dict[tuple[str, str], int]) -> list[Table]:
    if not report.findings:
        return []
    rows = [
        (
            one.column,
            Cell(one.name.replace("_", " "), strong=True),
            one.sentence,
            str(in_a_row.get((one.name, one.column), 0)),
        )
        for one in report.findings
    ]
    columns = ("Input", "Fault", "What was seen", "Windows in a row")
    return [Table("Faults of the data", columns, rows)]


def _plots(reports: Sequence[DriftReport]) -> list[Figure]:
    """The course of the inputs that differ most now."""
    latest = reports[0]
    first = sorted(latest.features, key=_farthest)[:_MOST_PLOTS]
    return [
        plot
        for one in first
        if (plot := _course(reports, one.name, f"PSI of {one.name} in each window"))
    ]


def _course(reports: Sequence[DriftReport], name: str, caption: str) -> Figure | None:
    """The PSI of an input over the windows of the reports; of the score if ``name`` is empty."""
    course = sorted(reports, key=lambda one: one.until)
    values = []
    for report in course:
        found = [one for one in report.features if one.name == name] if name else [report.score]
        values.append(found[0].psi if found else None)
    series = Series("PSI", [one.until for one in course], values)
    plot = course_plot([series], [reports[0].limits.psi])
    return None if plot is None else Figure(caption, plot)


def _predictions(reports: Sequence[DriftReport], in_a_row: dict[tuple[str, str], int]) -> Section:
    latest = reports[0]
    score = latest.score
    facts: list[tuple[str, Sequence[Cell]]] = [
        ("PSI", [Cell(f"{figure(score.psi)} (limit {latest.limits.psi:g})")]),
        ("KS distance", [Cell(figure(score.ks))]),
        ("Adjusted p", [Cell(figure(score.adjusted_p_value, ".2g"))]),
        ("Windows in a row", [Cell(str(in_a_row.get(("drift", score.name), 0)))]),
        (
            "Verdict",
            [Cell(f"drifted: {score.why}" if score.drifted else "alike", strong=score.drifted)],
        ),
    ]
    plot = _course(reports, "", "PSI of the predictions (scores) in each window")
    return Section("Drift of the predictions", facts=facts, figures=[plot] if plot else ())


def _labels(reports: Sequence[DriftReport]) -> Section:
    """How the share of label 1 has moved, in the windows in which it was measured."""
    measured = [(one, one.labels) for one in reports if one.labels is not None]
    if not measured:
        words = "It is not measured: the monitor gives no limit to it, or no label has arrived."
        return Section("Drift of the labels", words=(words,))
    rows = [
        (
            at(report.until),
            share(one.observed_share),
            str(one.n_observed),
            share(one.reference_share),
            str(one.n_reference),
            figure(one.p_value, ".2g"),
            Cell(f"drifted: {one.why}", strong=True) if one.drifted else "alike",
        )
        for report, one in measured[:_MOST_WINDOWS]
    ]
    columns = ("Window to", "Share of label 1", "Labels", "Reference", "Its labels", "p", "Verdict")
    course = sorted(measured, key=lambda one: one[0].until)
    shares = Series(
        "share of label 1",
        [report.until for report, _ in course],
        [one.observed_share for _, one in course],
    )
    plot = course_plot([shares], form=".1%")
    return Section(
        "Drift of the labels",
        figures=[Figure("Share of label 1 in each window", plot)] if plot else (),
        tables=(Table("Labels by window", columns, rows),),
    )


def _windows(reports: Sequence[DriftReport]) -> Table:
    return Table(
        "What each window showed, the newest first",
        (
            "Window to",
            "Version",
            "Predictions",
            "Inputs that drifted",
            "Faults",
            "PSI of the score",
            "PSI by importance",
        ),
        [
            (
                at(one.until),
                f"{one.model} {one.version}",
                str(one.n_observed),
                _named([each.name for each in one.features if each.drifted]),
                _named([f"{each.column}: {each.name.replace('_', ' ')}" for each in one.findings]),
                figure(one.score.psi),
                figure(one.weighted_psi),
            )
            for one in reports[:_MOST_WINDOWS]
        ],
    )


def _named(names: Sequence[str]) -> str:
    """The first few of some names, and how many there are more."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown or "none"
