"""What one look measures of units: declared guardrails, success, segments, chances, weights.

Each metric is read once in a look, whatever it is needed for.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import reduce
from typing import TYPE_CHECKING

from falaj.rollouts.bandit import conversion_shares, mean_shares
from falaj.rollouts.bayesian import chances
from falaj.rollouts.deciding import Progress, decide, error_of_each
from falaj.rollouts.effects import Sums, mean_effect, ratio_effect
from falaj.rollouts.guardrails import blank, judged_events, judged_fairness, judged_means
from falaj.rollouts.metrics import Asked, Cell, DeclaredMetrics, UnitSums
from falaj.rollouts.model import (
    CHAMPION,
    ChanceReading,
    Guardrail,
    GuardrailReading,
    Metric,
    MetricKind,
    RolloutKind,
    SegmentReading,
    Success,
    SuccessReading,
)
from falaj.rollouts.pooled import Pooled, clusters, comparison, pooled
from falaj.rollouts.remembering import Memory, microseconds, shares_of_all
from falaj.rollouts.segments import segment_readings

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.rollouts.ports import Underway

_LEAST_FOR_THRESHOLD = 1_000
"""Units of the champion before a quantile of theirs is frozen as a threshold."""
_LEAST_FOR_WEIGHTS = 20


class UnitLook:
    """The units of a rollout at one look.

    Args:
        memory: whose progress and thresholds are moved on.
        exposures: see ``Exposures.of``, told apart by ``fields``.
    """

    def __init__(
        self,
        underway: Underway,
        memory: Memory,
        metrics: DeclaredMetrics,
        declared: Callable[[str], Metric],
        exposures: pa.Table,
        now: datetime,
        fields: Sequence[str],
    ) -> None:
        self._underway = underway
        self._rollout = underway.rollout
        self._memory = memory
        self._metrics = metrics
        self._declared = declared
        self._exposures = exposures
        self._now = now
        self._fields = list(fields)
        self._read: dict[tuple[str, str | None, float | None], UnitSums] = {}
        self._interleaved = self._rollout.how is RolloutKind.INTERLEAVED

    def guardrail(self, guardrail: Guardrail, error: float) -> list[GuardrailReading]:
        """A declared guardrail of each challenger."""
        metric = self._declared(guardrail.metric)
        names = [one.name for one in self._rollout.challengers]
        if guardrail.between is not None:
            return [self._fairness(guardrail, metric, name, error) for name in names]
        if metric.measures is MetricKind.QUANTILE:
            return [self._quantile(guardrail, metric, name, error) for name in names]
        sums = self._sums(metric)
        if metric.measures is MetricKind.EVENTS:
            return [self._events(guardrail, metric, name, sums, error) for name in names]
        return [
            judged_means(
                guardrail,
                metric,
                name,
                self._pooled(metric, sums, name),
                error,
                clustered=self._interleaved,
            )
            for name in names
        ]

    def success(self, success: Success) -> list[SuccessReading]:
        """The success metric of each challenger."""
        metric = self._declared(success.metric)
        covariate = self._declared(success.covariate) if success.covariate else None
        if self._interleaved or metric.measures is MetricKind.RATIO:
            covariate = None
        sums = self._sums(metric, covariate)
        error = error_of_each(success.error, len(self._rollout.challengers))
        readings = []
        counted = sum(sums.units(name) for name in self._underway.shares)
        for one in self._rollout.challengers:
            both = self._pooled(metric, sums, one.name, adjusted=covariate is not None)
            readings.append(
                decide(
                    success,
                    one.name,
                    None if both is None else both.effect,
                    self._memory.progress.setdefault(one.name, Progress()),
                    error=error,
                    better=metric.better,
                    units=(sums.units(CHAMPION), sums.units(one.name)),
                    worth_of_unit=self._worth_of_unit(one.name),
                    counted=None if self._interleaved else counted,
                )
            )
        return readings

    def segments(self, success: Success) -> list[SegmentReading]:
        """The success metric by the values of the fields that it names."""
        if not success.segments or self._interleaved:
            return []
        metric = self._declared(success.metric)
        sums = self._of_success(success)
        groups: dict[tuple[str, str], dict[str, tuple[Sums, Sums]]] = {}
        for name in success.segments:
            place = self._fields.index(name)
            for one in self._rollout.challengers:
                groups[one.name, name] = {
                    value: (_total(sums.of(CHAMPION, (place, value))),
                            _total(sums.of(one.name, (place, value))))
                    for value in _values(sums, place)
                }  # fmt: skip
        return segment_readings(metric, groups, success.error)

    def chances(self, success: Success) -> list[ChanceReading]:
        """What a Bayesian says of the success metric."""
        if self._interleaved:
            return []
        totals = self._totals(self._of_success(success))
        return chances(self._declared(success.metric), totals, seed=self._seed())

    def weights(self, success: Success) -> dict[str, float]:
        """The shares that a bandit asks for; none while a variant has too few units."""
        metric, totals = self._declared(success.metric), self._totals(self._of_success(success))
        if any(sums.n < _LEAST_FOR_WEIGHTS for sums in totals.values()):
            return {}
        names, floor = list(totals), min(self._rollout.floor, 1 / len(totals))
        higher = metric.better == "higher"
        if metric.measures in (MetricKind.PROPORTION, MetricKind.EVENTS):
            of = [round(sums.n) for sums in totals.values()]
            won = [round(sums.y if higher else sums.n - sums.y) for sums in totals.values()]
            shares = conversion_shares(won, of, floor=floor, seed=self._seed())
            return dict(zip(names, shares, strict=True))
        compare = ratio_effect if metric.measures is MetricKind.RATIO else mean_effect
        if compare is ratio_effect and not all(sums.d for sums in totals.values()):
            return {}
        told = [compare(sums, sums) for sums in totals.values()]
        means = [one.control if higher else -one.control for one in told]
        shares = mean_shares(
            means, [one.control_variance for one in told], floor=floor, seed=self._seed()
        )
        return dict(zip(names, shares, strict=True))

    # -- inside -----------------------------------------------------------------------

    def _worth_of_unit(self, challenger: str) -> float:
        """How many units in two equal sides a unit is worth at most, while shares grow."""
        rollout = self._rollout
        shares = shares_of_all(self._underway, self._underway.shares)
        if rollout.how is not RolloutKind.SHADOW:
            declared = {one.name: one.share for one in rollout.challengers}
            declared[CHAMPION] = max(0.0, 1 - sum(declared.values()))
            shares = shares_of_all(self._underway, declared)
        share, rest = shares.get(challenger, 0.0), shares.get(CHAMPION, 0.0)
        both = share + rest
        if rollout.how in (RolloutKind.CANARY, RolloutKind.BANDIT):
            share = min(share, both / 2)  # it grows up to that, and passes the even division
        return 4 * share * (both - share) / both if share and both > share else 1.0

    def _of_success(self, success: Success) -> UnitSums:
        metric = self._declared(success.metric)
        known = [sums for (name, _, _), sums in self._read.items() if name == metric.name]
        return known[0] if known else self._sums(metric)

    def _totals(self, sums: UnitSums) -> dict[str, Sums]:
        names = [CHAMPION, *(one.name for one in self._rollout.challengers)]
        return {name: _total(sums.of(name)) for name in names}

    def _seed(self) -> int:
        return zlib.crc32(self._underway.id.encode())

    def _sums(
        self,
        metric: Metric,
        covariate: Metric | None = None,
        thresholds: tuple[float, float] | None = None,
    ) -> UnitSums:
        key = (metric.name, covariate.name if covariate else None, thresholds and thresholds[1])
        if key not in self._read:
            asked = Asked(
                bounds=self._memory.bounds(),
                n_fields=1 if self._interleaved else len(self._fields),
                pairs=self._interleaved,
                thresholds=thresholds,
                by_variant=self._rollout.how is RolloutKind.SHADOW,
            )
            self._read[key] = self._metrics.sums(
                metric, self._rollout.endpoint, self._exposures, self._now, asked, covariate
            )
        return self._read[key]

    def _pooled(
        self, metric: Metric, sums: UnitSums, challenger: str, *, adjusted: bool = False
    ) -> Pooled | None:
        if not self._interleaved:
            compare = comparison(metric.measures, adjusted=adjusted)
            return pooled(sums.of(CHAMPION), sums.of(challenger), compare)
        length = max(round(self._rollout.period.total_seconds() * 1e6), 1)
        present = microseconds(self._now) // length
        sides = {
            name: {0: clusters(_complete(sums.cells, name, present), metric.measures)}
            for name in (CHAMPION, challenger)
        }
        return pooled(sides[CHAMPION], sides[challenger], mean_effect)

    def _events(
        self, guardrail: Guardrail, metric: Metric, name: str, sums: UnitSums, error: float
    ) -> GuardrailReading:
        counted = {cell: (one.y, one.n) for cell, one in sums.cells.items()}
        stretches = self._stretches(counted, name)
        return judged_events(guardrail, name, stretches, error, better=metric.better)

    def _quantile(
        self, guardrail: Guardrail, metric: Metric, name: str, error: float
    ) -> GuardrailReading:
        frozen = self._memory.thresholds
        if metric.name not in frozen:
            value, n = self._metrics.quantile(
                metric, self._rollout.endpoint, self._exposures, self._now, CHAMPION
            )
            if value is None or n < _LEAST_FOR_THRESHOLD:
                reading = blank(guardrail, name, error)
                reading.why = f"the champion has fewer than {_LEAST_FOR_THRESHOLD} units"
                return reading
            frozen[metric.name] = float(value)
        limit = frozen[metric.name]
        sign = 1.0 if metric.better == "lower" else -1.0
        sums = self._sums(
            metric, thresholds=(limit, limit + sign * guardrail.tolerated * abs(limit))
        )
        counted = {
            cell: (sums.over[cell][0 if cell.variant == CHAMPION else 1], one.n)
            for cell, one in sums.cells.items()
        }
        bare = guardrail.model_copy(update={"tolerated": 0.0})  # it lies in the threshold
        return judged_events(bare, name, self._stretches(counted, name), error)

    def _stretches(
        self, counted: Mapping[Cell, tuple[float, float]], challenger: str
    ) -> list[tuple[float, float, float, float, float, float]]:
        """Of each stretch: the challenger's and the champion's events and units, and shares."""
        found = []
        for place, stretch in enumerate(self._memory.stretches):
            events, units = counted.get(Cell(challenger, place), (0.0, 0.0))
            others, other_units = counted.get(Cell(CHAMPION, place), (0.0, 0.0))
            share, rest = units, other_units  # of stretches that became one: what they got
            if stretch.shares is not None:
                share, rest = stretch.shares.get(challenger, 0), stretch.shares.get(CHAMPION, 0)
            if self._rollout.how is RolloutKind.SHADOW:
                share = rest = 1.0
            found.append((events, units, others, other_units, share, rest))
        return found

    def _fairness(
        self, guardrail: Guardrail, metric: Metric, name: str, error: float
    ) -> GuardrailReading:
        if self._interleaved or guardrail.between is None:
            return blank(guardrail, name, error)
        sums = self._sums(metric)
        place = self._fields.index(guardrail.between)
        groups = {
            value: (sums.of(CHAMPION, (place, value)), sums.of(name, (place, value)))
            for value in _values(sums, place)
        }
        order = self._memory.groups.setdefault(f"{metric.name}/{guardrail.between}/{name}", [])
        return judged_fairness(guardrail, metric, name, groups, error, order)


def _values(sums: UnitSums, place: int) -> list[str]:
    """The values of a field that units have."""
    return sorted({cell.segment[1] for cell in sums.cells
                   if cell.segment is not None and cell.segment[0] == place})  # fmt: skip


def _total(by_period: Mapping[int, Sums]) -> Sums:
    return reduce(lambda a, b: a + b, by_period.values(), Sums())


def _complete(
    cells: Mapping[Cell, Sums], variant: str, present: int
) -> dict[tuple[str, int], Sums]:
    """The clusters of a variant whose period is over."""
    return {
        (cell.segment[1], cell.period): sums
        for cell, sums in cells.items()
        if cell.variant == variant and cell.segment is not None and cell.period < present
    }
