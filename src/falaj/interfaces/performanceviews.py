"""What the page of a monitor's performance tells: what is known beside what is estimated.

Reports of several checks tell of the same periods; of each period the newest one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from falaj.interfaces.driftviews import not_shown
from falaj.interfaces.plots import Series, course_plot
from falaj.interfaces.sheets import Cell, Figure, Section, Table, figure, share

if TYPE_CHECKING:
    from datetime import datetime

    from falaj.monitoring.coursewords import MonitorCourse
    from falaj.monitoring.model import Band, Monitor, PerformanceReport, PeriodPerformance
    from falaj.monitoring.performancereports import (
        CalibrationReport,
        EstimatedPeriod,
        EstimateReport,
        FairnessReport,
        LossReport,
        PeriodCalibration,
        PeriodFairness,
    )

WORDS = (
    "Known figures are told from labels that have arrived. Their bands say between which values"
    " the figure of like predictions lies with the confidence that the monitor declares. A young"
    " period may change: more of its labels will come, and those that come early may differ from"
    " those that come late.",
    "Estimated figures use no label of the predictions that they are about. They are expected from"
    " the scores alone (CBPE), or from inputs and scores by a model of the loss (DLE), and are"
    " right as long as scores come true as they did on the reference. If what leads from inputs to"
    " outcomes changes, an estimate cannot see it: only labels can.",
)
_WORDS = {"auc": "AUC", "f1": "F1", "brier": "Brier score", "log_loss": "log loss"}
_ALWAYS = ("auc", "log_loss", "brier")
_MOST_PERIODS = 12
_MOST_OF_SLICES = 4
"""Periods that are told of each group; fewer of more slices, so that the page stays small."""


@dataclass(frozen=True)
class Limits:
    """Between what a known and an estimated figure must lie; None where anywhere."""

    known: tuple[float | None, float | None] = (None, None)
    estimated: tuple[float | None, float | None] = (None, None)
    least_labels: int = 0
    """Known figures of a period with fewer raise no alert."""
    least_rows: int = 0
    """Nor do estimated ones of a period with fewer predictions."""

    def known_cell(self, period: PeriodPerformance, name: str) -> Cell:
        """What a figure of a period is, held against the limits."""
        return _judged(_band(period, name), self.known, _of_labels(period, self.least_labels))

    def estimated_cell(self, period: EstimatedPeriod, name: str) -> Cell:
        """As ``known_cell``, of an estimated figure."""
        figures: Mapping[str, Band] = {str(one): band for one, band in period.figures.items()}
        enough = period.n_predictions >= self.least_rows
        return _judged(figures.get(name), self.estimated, "" if enough else _FEW_PREDICTIONS)


def sections(monitor: Monitor, courses: Mapping[str, MonitorCourse]) -> list[Section]:
    """The parts of the page, from the kept reports by kind."""
    from falaj.monitoring.model import PerformanceReport
    from falaj.monitoring.performancereports import (
        CalibrationReport,
        EstimateReport,
        FairnessReport,
        LossReport,
    )

    models: dict[str, type[BaseModel]] = {
        "performance": PerformanceReport, "estimate": EstimateReport, "losses": LossReport,
        "calibration": CalibrationReport, "fairness": FairnessReport,
    }  # fmt: skip
    read: dict[str, list[Any]] = {
        kind: [model.model_validate(one.document) for one in courses[kind].reports]
        for kind, model in models.items()
    }
    hidden = [words for course in courses.values() for words in not_shown(course)]
    found: list[Section] = [Section("", words=hidden)] if hidden else []
    known: list[PerformanceReport] = read["performance"]
    estimated: list[EstimateReport] = read["estimate"]
    reference = estimated[0].reference_figures if estimated else {}
    limits = limits_of(monitor, {str(name): value for name, value in reference.items()})
    for by in dict.fromkeys([*(one.by for one in known), *(one.by for one in estimated)]):
        of_by = [one for one in known if one.by == by], [one for one in estimated if one.by == by]
        found += _by(by, *of_by, limits)
    found += _losses(read["losses"])
    found += _calibration(monitor, read["calibration"])
    found += _fairness(monitor, read["fairness"])
    if not found:
        words = "There is no report yet: the monitor watches no performance, or was never checked."
        found.append(Section("", words=(words,)))
    return found


def limits_of(monitor: Monitor, reference: Mapping[str, float]) -> dict[str, Limits]:
    """What a monitor declares of each figure; those that are always shown come first.

    Args:
        reference: figures that were realised on the reference of the estimates.
    """
    from falaj.monitoring.qualitychecks import Bounds

    found = {name: Limits() for name in _ALWAYS}
    given = monitor.performance
    if given is not None:
        least = given.least_labels
        found["auc"] = Limits(known=(given.auc_at_least, None), least_labels=least)
        found["log_loss"] = Limits(known=(None, given.log_loss_at_most), least_labels=least)
        found["brier"] = Limits(known=(None, given.brier_at_most), least_labels=least)
    quality = monitor.quality
    if quality is None:
        return found
    for one in quality.realised:
        before = found.get(one.figure, Limits())
        known = (one.at_least, one.at_most)
        found[one.figure] = replace(before, known=known, least_labels=quality.least_rows)
    for one in quality.estimated:
        bounds = Bounds.of(one, reference.get(one.figure))
        before = found.get(one.figure, Limits())
        known = (bounds.low, bounds.high)
        found[one.figure] = replace(before, estimated=known, least_rows=quality.least_rows)
    return found


def newest(periods: Iterable[Sequence[Any]]) -> dict[datetime, Any]:
    """Each period of some reports, the newest report first, by its beginning; in order of time."""
    found: dict[datetime, Any] = {}
    for report in periods:
        for period in report:
            found.setdefault(period.since, period)
    return dict(sorted(found.items()))


def _by(
    by: str,
    known: Sequence[PerformanceReport],
    estimated: Sequence[EstimateReport],
    limits: Mapping[str, Limits],
) -> list[Section]:
    realised = newest(one.periods for one in known)
    expected = newest(one.periods for one in estimated)
    found = []
    for name, limit in limits.items():
        told = _figure(by, name, limit, realised, expected)
        if told is not None:
            found.append(told)
    if known:
        found += _slices(known[0], limits)
    if found:
        first = found[0]
        words = [
            *_about_known(by, known[:1]), *_about_estimated(by, estimated[:1])
        ]  # fmt: skip
        found[0] = Section(first.title, words, first.facts, first.figures, first.tables)
    return found


def _about_known(by: str, reports: Sequence[PerformanceReport]) -> list[str]:
    words = []
    for one in reports:
        words.append(
            f"Known by {by}: {one.n_labels} labels of {one.n_predictions} predictions have come,"
            f" from {one.labels.table}.{one.labels.label}; bands of {one.confidence:.0%}; a score"
            f" from {one.threshold:g} on predicts label 1."
        )
        if one.warning:
            words.append(one.warning)
    return words


def _about_estimated(by: str, reports: Sequence[EstimateReport]) -> list[str]:
    references = {"bundle": "the validation rows of the model", "labels": "labelled predictions"}
    return [
        f"Estimated by {by}, for {one.model} {one.version}: from how often scores came true on"
        f" {one.n_reference} rows ({references[one.reference]})"
        f"{'; the scores were recalibrated on them' if one.recalibrated else ''}."
        for one in reports
    ]


def _figure(
    by: str,
    name: str,
    limits: Limits,
    realised: Mapping[datetime, PeriodPerformance],
    expected: Mapping[datetime, Any],
) -> Section | None:
    """One figure by period: known, and beside it estimated; None if it is neither."""
    known = {since: _band(one, name) for since, one in realised.items()}
    guessed = {since: one.figures.get(name) for since, one in expected.items()}
    if not any(known.values()) and not any(guessed.values()):
        return None
    times = sorted({*known, *guessed})
    series = [
        _series("known", times, known),
        _series("estimated", times, guessed),
    ]
    bounds = [one for one in (*limits.known, *limits.estimated) if one is not None]
    plot = course_plot(series, bounds)
    told = figure_words(name)
    caption = f"{told} by {by}: known (whole line) and estimated (dashed), with their bands"
    rows = []
    for since in reversed(times[-_MOST_PERIODS:]):
        one, guess = realised.get(since), expected.get(since)
        rows.append(
            (
                f"{since:%Y-%m-%d}",
                _NONE if one is None else limits.known_cell(one, name),
                "–" if one is None else f"{one.n_labels} of {one.n_predictions}",
                _NONE if guess is None else limits.estimated_cell(guess, name),
                "young: labels are still coming" if one is not None and one.young else "",
            )
        )
    columns = (
        f"{by.capitalize()} from",
        f"Known{_limit(limits.known)}",
        "Labels",
        f"Estimated{_limit(limits.estimated)}",
        "Remark",
    )
    return Section(
        f"{told} by {by}",
        figures=[Figure(caption, plot)] if plot else (),
        tables=(Table(f"{told} by {by}", columns, rows),),
    )


def _series(name: str, times: Sequence[datetime], bands: Mapping[datetime, Band | None]) -> Series:
    told = [bands.get(one) for one in times]
    return Series(
        name,
        times,
        [None if one is None else one.estimate for one in told],
        [None if one is None else one.low for one in told],
        [None if one is None else one.high for one in told],
    )


def _band(period: PeriodPerformance, name: str) -> Band | None:
    """A known figure; a rate that has no band of its own has none here."""
    from falaj.monitoring.model import Band

    found = getattr(period, name)
    return found if isinstance(found, Band) else None


def _judged(band: Band | None, limits: tuple[float | None, float | None], doubt: str = "") -> Cell:
    """A figure with its band, and whether that lies beyond the limits.

    Args:
        band: None if there is no figure.
        limits: between which it must lie.
        doubt: why a figure of that period raises no alert, and is not called beyond its limit.
    """
    if band is None:
        return _NONE
    told = f"{figure(band.estimate)} ({figure(band.low)} to {figure(band.high)})"
    if not band.beyond(*limits):
        return Cell(told)
    return Cell(f"{told}, {doubt or 'beyond its limit'}", strong=not doubt)


def _of_labels(period: PeriodPerformance | PeriodCalibration, least: int) -> str:
    """Why what labels tell of a period raises no alert; empty if it may."""
    if period.young:
        return _YOUNG
    return _FEW_LABELS if period.n_labels < least else ""


_NONE = Cell("–")
_YOUNG = "too young to tell"
_FEW_LABELS = "too few labels to tell"
_FEW_PREDICTIONS = "too few predictions to tell"


def _limit(limits: tuple[float | None, float | None]) -> str:
    least, most = limits
    told = [f"at least {least:.3g}"] if least is not None else []
    told += [f"at most {most:.3g}"] if most is not None else []
    return f" ({' and '.join(told)})" if told else ""


def figure_words(name: str) -> str:
    """A figure's name in words."""
    told = _WORDS.get(name, name.replace("_", " "))
    return told[0].upper() + told[1:]


def _slices(report: PerformanceReport, limits: Mapping[str, Limits]) -> list[Section]:
    """Known figures of each group in the last periods."""
    found = []
    cuts = dict.fromkeys(one.slice for one in report.slices)
    most = min(_MOST_OF_SLICES, max(1, 2 * _MOST_OF_SLICES // max(1, len(cuts))))
    for cut in cuts:
        groups = [one for one in report.slices if one.slice == cut]
        names = [
            name
            for name in limits
            if any(_band(period, name) for one in groups for period in one.periods)
        ]
        rows: list[Sequence[Cell | str]] = [
            (
                one.group,
                f"{period.since:%Y-%m-%d}{' (young)' if period.young else ''}",
                f"{period.n_labels} of {period.n_predictions}",
                *(limits[name].known_cell(period, name) for name in names),
            )
            for one in groups
            for period in reversed(one.periods[-most:])
        ]
        columns = (
            "Group",
            f"{report.by.capitalize()} from",
            "Labels",
            *(f"{figure_words(name)}{_limit(limits[name].known)}" for name in names),
        )
        words = [f"Known figures by {cut.by} ({_OF[cut.of]}), told from labels."]
        if report.n_groups_not_shown:
            words.append(f"Groups with too few labels to be shown: {report.n_groups_not_shown}.")
        caption = f"Known figures by {cut.by}, by {report.by}"
        found.append(Section(f"By {cut.by}", words=words, tables=(Table(caption, columns, rows),)))
    return found


_OF = {
    "field": "a field of the request", "input": "an input of the model", "log": "of the log",
    "label": "a column of the label table",
}  # fmt: skip


def _losses(reports: Sequence[LossReport]) -> list[Section]:
    """Losses that a model of the loss expects; of the endpoint, from its newest report."""
    if not reports:
        return []
    one = reports[0]
    rows = [
        (
            f"{period.since:%Y-%m-%d}",
            _judged(period.log_loss, (None, None)),
            _judged(period.brier, (None, None)),
            f"{period.n_sampled} of {period.n_predictions}",
        )
        for period in reversed(one.periods[-_MOST_PERIODS:])
    ]
    gain = (
        f"It errs {one.gain:.0%} less than the mean loss does."
        if one.gain > 0
        else "It errs no less than the mean loss does: inputs tell nothing of where the model errs."
    )
    words = (
        f"Estimated for {one.model} {one.version}, from inputs and scores, by a model of the loss"
        f" that was learned from {one.n_reference} labelled rows. {gain} Known on those rows: log"
        f" loss {one.reference_log_loss:.3g}, Brier score {one.reference_brier:.3g}.",
    )
    columns = (f"{one.by.capitalize()} from", "Log loss", "Brier score", "Rows read")
    table = Table("Estimated losses", columns, rows)
    return [Section("Losses, estimated from inputs (DLE)", words=words, tables=(table,))]


def _calibration(monitor: Monitor, reports: Sequence[CalibrationReport]) -> list[Section]:
    """How often scores came true, by period; and by score in the last one."""
    if not reports:
        return []
    quality = monitor.quality
    declared = quality.calibration if quality else None
    most = None if declared is None else declared.error_at_most
    least = quality.least_rows if quality else 0
    by = reports[0].by
    periods = newest(one.periods for one in reports if one.by == by)
    rows = [
        (
            f"{since:%Y-%m-%d}",
            _judged(one.error, (None, most), _of_labels(one, least)),
            figure(one.by_chance),
            figure(one.p_value, ".2g"),
            f"{one.n_labels} of {one.n_predictions}",
            "young: labels are still coming" if one.young else "",
        )
        for since, one in list(reversed(periods.items()))[:_MOST_PERIODS]
    ]
    columns = (
        f"{by.capitalize()} from",
        f"Expected calibration error{_limit((None, most))}",
        "By chance alone",
        "p",
        "Labels",
        "Remark",
    )
    times = list(periods)
    series = _series("known", times, {since: one.error for since, one in periods.items()})
    plot = course_plot([series], [] if most is None else [most])
    last = next((one for one in reversed(periods.values()) if one.bins), None)
    tables = [Table(f"Calibration by {by}", columns, rows)]
    if last is not None:
        tables.append(_reliability(by, last))
    words = (
        "Known, told from labels: whether scores come true as often as they say. Scores that do"
        " would show the error “by chance alone” with so few labels; a small p says that this is"
        " not chance.",
    )
    figures = [Figure(f"Expected calibration error by {by}, with its band", plot)] if plot else ()
    return [Section("Calibration", words=words, figures=figures, tables=tables)]


def _reliability(by: str, period: Any) -> Table:
    rows = [
        (
            share(one.predicted),
            f"{share(one.observed.estimate)} ({share(one.observed.low)} to"
            f" {share(one.observed.high)})",
            str(one.n),
        )
        for one in period.bins
    ]
    caption = f"What came of scores in the {by} from {period.since:%Y-%m-%d}"
    return Table(caption, ("Mean score", "Came true", "Labels"), rows)


def _fairness(monitor: Monitor, reports: Sequence[FairnessReport]) -> list[Section]:
    """Gaps between groups over time, and the groups of the last period."""
    quality = monitor.quality
    declared, least = (quality.fairness, quality.least_rows) if quality else ((), 0)
    found = []
    for groups in dict.fromkeys(one.groups for one in reports):
        alike = [one for one in reports if one.groups == groups]
        alike = [one for one in alike if one.by == alike[0].by]
        limits: dict[str, float] = {}
        for one in declared:
            if one.groups == groups:
                limits.update({str(name): limit for name, limit in one.limits.items()})
        found.append(_groups(alike, limits, least))
    return found


def _groups(reports: Sequence[FairnessReport], limits: Mapping[str, float], least: int) -> Section:
    latest = reports[0]
    by = latest.by
    periods: dict[datetime, PeriodFairness] = newest(one.periods for one in reports)
    names = list(dict.fromkeys(name for one in periods.values() for name in one.gaps))
    bounds = {name: _bounds(name, limits) for name in names}
    rows: list[Sequence[Cell | str]] = [
        (
            f"{since:%Y-%m-%d}{' (young)' if one.young else ''}",
            *(_judged(_gap(one, name), bounds[name], _of_gap(one, name, least)) for name in names),
        )
        for since, one in list(reversed(periods.items()))[:_MOST_PERIODS]
    ]
    columns = (
        f"{by.capitalize()} from",
        *(f"{figure_words(name)}{_limit(bounds[name])}" for name in names),
    )
    figures = []
    for name in names:
        gaps = {since: _gap(one, name) for since, one in periods.items()}
        plot = course_plot(
            [_series("gap", list(periods), gaps)],
            [limits[name]] if name in limits else [],
        )
        if plot is not None:
            figures.append(Figure(f"{figure_words(name)} by {by}, with its band", plot))
    tables = [Table(f"Gaps between groups by {by}", columns, rows)]
    if periods:
        tables.append(_treated(by, list(periods.values())[-1]))
    needs = "" if latest.labels is None else ", and from labels what needs them"
    words = [
        f"Known: told from predictions{needs}. A gap is that between the groups that are farthest"
        f" apart. Groups of fewer than {latest.least_shown} predictions (or labels) in a period"
        " are not shown.",
    ]
    return Section(f"Fairness by {latest.groups.by}", words=words, figures=figures, tables=tables)


def _of_gap(period: PeriodFairness, name: str, least: int) -> str:
    """Why a gap of a period raises no alert; empty if it may."""
    if period.young and not name.startswith("demographic_parity"):  # which needs no label
        return _YOUNG
    few = sum(one.n_predictions for one in period.groups) < least
    return _FEW_PREDICTIONS if few else ""


def _gap(period: PeriodFairness, name: str) -> Band | None:
    gaps: Mapping[str, Band] = {str(gap): band for gap, band in period.gaps.items()}
    return gaps.get(name)


def _bounds(name: str, limits: Mapping[str, float]) -> tuple[float | None, float | None]:
    limit = limits.get(name)
    return (limit, None) if name.endswith("_ratio") else (None, limit)


def _treated(by: str, period: PeriodFairness) -> Table:
    def told(band: Band | None) -> str:
        if band is None:
            return "–"
        return f"{share(band.estimate)} ({share(band.low)} to {share(band.high)})"

    rows = [
        (
            one.group,
            told(one.selection_rate),
            told(one.true_positive_rate),
            told(one.false_positive_rate),
            told(one.positive_rate),
            f"{one.n_labels} of {one.n_predictions}",
        )
        for one in period.groups
    ]
    columns = (
        "Group",
        "Predicted positive",
        "Found of label 1",
        "Wrongly of label 0",
        "Share of label 1",
        "Labels",
    )
    return Table(f"Groups in the {by} from {period.since:%Y-%m-%d}", columns, rows)
