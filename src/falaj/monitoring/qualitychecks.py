"""What of a report crosses the limits that were declared, in how many periods in a row.

What needs labels is not looked at in young periods: the labels that arrive first may differ from
those that arrive late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from falaj.monitoring.expected import LOSSES
from falaj.monitoring.model import Band, PerformanceReport, PeriodPerformance
from falaj.monitoring.performancereports import CalibrationReport, EstimateReport, FairnessReport
from falaj.monitoring.performancewords import (
    CalibrationLimits,
    FairnessLimits,
    FigureLimit,
    Quality,
)
from falaj.monitoring.realised import share_band


@dataclass(frozen=True)
class Crossed:
    """A limit that was crossed."""

    name: str
    """Of the alert: the same finding has the same name."""
    message: str
    plain: str = ""
    """Without figures, where those are told from tables that not everybody may read."""


@dataclass(frozen=True)
class Bounds:
    """Between what a figure must lie; None where it may lie anywhere."""

    low: float | None
    high: float | None

    @classmethod
    def of(cls, limit: FigureLimit, reference: float | None) -> Bounds:
        """The bounds of a limit, the harder one where it gives two of a kind."""
        lows, highs = [limit.at_least], [limit.at_most]
        if limit.worse_by is not None and reference is not None:
            if limit.figure in LOSSES:
                highs.append(reference + limit.worse_by)
            else:
                lows.append(reference - limit.worse_by)
        return cls(
            max((one for one in lows if one is not None), default=None),
            min((one for one in highs if one is not None), default=None),
        )

    def crossed(self, band: Band | None) -> bool:
        """True if the whole band lies beyond."""
        return band is not None and band.beyond(self.low, self.high)

    def crossed_last(self, bands: Sequence[Band | None], in_a_row: int) -> bool:
        """True if each of so many last bands lies beyond."""
        last = bands[-in_a_row:]
        return len(last) == in_a_row and all(map(self.crossed, last))

    def __str__(self) -> str:
        told = [f"at least {self.low:.3g}"] if self.low is not None else []
        return " and ".join(
            [*told, *([f"at most {self.high:.3g}"] if self.high is not None else [])]
        )


def of_estimates(report: EstimateReport, quality: Quality) -> list[Crossed]:
    """Limits of estimated figures that are crossed."""
    periods = [one for one in report.periods if one.n_predictions >= quality.least_rows]
    found = []
    for limit in quality.estimated:
        reference = report.reference_figures.get(limit.figure)
        bounds = Bounds.of(limit, reference)
        bands = [one.figures.get(limit.figure) for one in periods]
        if bounds.crossed_last(bands, quality.periods_in_a_row) and (band := bands[-1]):
            known = "" if reference is None else f"{reference:.3f} on the reference, "
            last = periods[-1]
            found.append(
                Crossed(
                    f"estimated-{limit.figure}",
                    f"Estimated {_words(limit.figure)} is {_told(band)} in the {report.by} from "
                    f"{last.since:%Y-%m-%d} ({last.n_predictions} predictions); {known}"
                    f"limit {bounds}.",
                )
            )
    return found


def of_performance(report: PerformanceReport, quality: Quality) -> list[Crossed]:
    """Limits of realised figures that are crossed, overall and in each slice."""
    parts: list[tuple[str, str, list[PeriodPerformance]]] = [("", "", report.periods)]
    parts += [
        (f"-{one.slice.by}={one.group}", f" where {one.slice.by} is {one.group}", one.periods)
        for one in report.slices
    ]
    found = []
    for suffix, where, every in parts:
        periods = [one for one in every if one.n_labels >= quality.least_rows and not one.young]
        for limit in quality.realised:
            bounds = Bounds.of(limit, None)
            bands = [_realised(one, limit, quality.confidence) for one in periods]
            if bounds.crossed_last(bands, quality.periods_in_a_row) and (band := bands[-1]):
                last = periods[-1]
                found.append(
                    Crossed(
                        f"realised-{limit.figure}{suffix}",
                        f"{_first(limit.figure)} is {_told(band)}{where} in the "
                        f"{report.by} from {last.since:%Y-%m-%d} ({last.n_labels} labels); "
                        f"limit {bounds}.",
                        plain=f"{_first(limit.figure)}{where} crosses its limit "
                        f"({bounds}) in the {report.by} from {last.since:%Y-%m-%d}",
                    )
                )
    return found


def of_calibration(
    report: CalibrationReport, limits: CalibrationLimits, quality: Quality
) -> list[Crossed]:
    """Scores surely do not come true, and by more than the limit."""
    periods = [
        one for one in report.periods if one.n_labels >= quality.least_rows and not one.young
    ]
    bands = [
        one.error if one.p_value is not None and one.p_value < limits.p_value else None
        for one in periods
    ]
    bounds = Bounds(None, limits.error_at_most)
    if not bounds.crossed_last(bands, quality.periods_in_a_row) or (band := bands[-1]) is None:
        return []
    last = periods[-1]
    return [
        Crossed(
            "calibration",
            f"The calibration error is {_told(band)} in the {report.by} from "
            f"{last.since:%Y-%m-%d} ({last.n_labels} labels, p = {last.p_value:.2g}); "
            f"limit {bounds}.",
            plain=f"The calibration error crosses its limit ({bounds}) in the {report.by} from "
            f"{last.since:%Y-%m-%d}",
        )
    ]


def of_fairness(report: FairnessReport, limits: FairnessLimits, quality: Quality) -> list[Crossed]:
    """Gaps between groups that cross their limit."""
    enough = [
        one
        for one in report.periods
        if sum(group.n_predictions for group in one.groups) >= quality.least_rows
    ]
    found = []
    for name, limit in limits.limits.items():
        unlabelled = name.startswith("demographic_parity")
        periods = [one for one in enough if unlabelled or not one.young]
        bounds = Bounds(limit, None) if name.endswith("ratio") else Bounds(None, limit)
        bands = [one.gaps.get(name) for one in periods]
        if bounds.crossed_last(bands, quality.periods_in_a_row) and (band := bands[-1]):
            found.append(
                Crossed(
                    f"fairness-{report.groups.by}-{name}",
                    f"{_first(name)} by {report.groups.by} is {_told(band)} in the "
                    f"{report.by} from {periods[-1].since:%Y-%m-%d}; limit {bounds}.",
                    plain=f"{_first(name)} by {report.groups.by} crosses its limit "
                    f"({bounds}) in the {report.by} from {periods[-1].since:%Y-%m-%d}",
                )
            )
    return found


def _realised(period: PeriodPerformance, limit: FigureLimit, confidence: float) -> Band | None:
    if limit.figure == "positive_rate":
        rate = period.positive_rate
        return None if rate is None else share_band(
            round(rate * period.n_labels), period.n_labels, confidence
        )  # fmt: skip
    band = getattr(period, limit.figure)
    return band if isinstance(band, Band) else None


def _told(band: Band) -> str:
    return f"{band.estimate:.3f} ({band.low:.3f} to {band.high:.3f})"


def _words(name: str) -> str:
    return _NAMES.get(name, name.replace("_", " "))


def _first(name: str) -> str:
    """As the first word of a sentence."""
    words = _words(name)
    return words[:1].upper() + words[1:]


_NAMES = {"auc": "AUC", "f1": "F1", "macro_f1": "macro F1", "mae": "MAE", "rmse": "RMSE"}
