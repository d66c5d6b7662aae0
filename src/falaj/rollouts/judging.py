"""One look at a rollout: what is measured, and what follows by its rules.

``RolloutJudge`` puts the parts together: counters (``readings``, ``builtin``), units and
declared metrics (``exposures``, ``metrics``), guardrails and success (``guardrails``,
``deciding``), and what is only told (``segments``, ``bayesian``). It changes nothing.

The error of the guardrails is shared in equal parts over all guardrails and challengers, so
that all of them together breach without harm at most as often as the rollout says, over all
looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from falaj.rollouts import builtin
from falaj.rollouts.allocation import is_mismatched
from falaj.rollouts.exposures import Exposures
from falaj.rollouts.guardrails import blank
from falaj.rollouts.metrics import DeclaredMetrics, RunFunction
from falaj.rollouts.model import BUILT_IN, CHAMPION, Look, Metric, RolloutKind
from falaj.rollouts.readings import Counter, counters
from falaj.rollouts.remembering import Memory, microseconds
from falaj.rollouts.unitlook import UnitLook

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake
    from falaj.rollouts.ports import Underway
    from falaj.serving.model import SeriesCounts

_MISMATCH_ERROR = 0.001
_MISMATCHED = "the variants did not get their shares of units: nothing can be compared"


class RolloutJudge:
    """See ``rollouts.ports.Judge``.

    Args:
        lake: holds the prediction logs and what metrics read.
        series: what all workers counted of each endpoint's variant (``Meters.series``).
        declared: the metric of a name; raises NotFound.
        run: runs metrics that are Python functions; None refuses them.
        seconds: that one reading of a metric may take.
    """

    def __init__(
        self,
        lake: Lake,
        series: Callable[[], Sequence[SeriesCounts]],
        declared: Callable[[str], Metric],
        *,
        run: RunFunction | None = None,
        seconds: float = 60.0,
    ) -> None:
        self._series = series
        self._declared = declared
        self._exposures = Exposures(lake)
        self._metrics = DeclaredMetrics(lake, run=run, seconds=seconds)

    def look(self, underway: Underway, now: datetime) -> tuple[Look, Mapping[str, object]]:
        """See ``Judge.look``. The first look of a rollout only takes the counters down."""
        memory = Memory.read(underway.memory)
        memory.note_shares(underway)
        look = Look()
        self._counted(underway, memory, look, now)
        exposures = self._exposures.of(underway, fields_of(underway))
        look.units, look.mismatch = _units(underway, memory, exposures)
        self._declared_guardrails(underway, memory, look, exposures, now)
        memory.looks += 1
        return look, memory.told()

    def forget(self, rollout: str) -> None:
        """Keep nothing more of a rollout that ended, by its id."""
        self._exposures.forget(rollout)

    # -- parts of a look --------------------------------------------------------------

    def _counted(self, underway: Underway, memory: Memory, look: Look, now: datetime) -> None:
        """The built-in guardrails, from counters."""
        rollout = underway.rollout
        present = counters(self._series(), rollout.endpoint)
        first = memory.looks == 0
        since = {
            name: Counter() if first else one.since(memory.counters.get(name, Counter()))
            for name, one in present.items()
        }
        champion = since.get(CHAMPION, Counter())
        error = error_of_each(underway)
        period = microseconds(now) // max(round(rollout.period.total_seconds() * 1e6), 1)
        for guardrail in rollout.guardrails:
            if guardrail.metric not in BUILT_IN:
                continue
            for one in rollout.challengers:
                kept = memory.builtin.setdefault(f"{guardrail.metric}/{one.name}", builtin.begin())
                tried = since.get(one.name, Counter())
                if rollout.how is RolloutKind.INTERLEAVED:
                    reading = builtin.judged_by_period(
                        guardrail, one.name, kept, champion, tried, error, period
                    )
                else:
                    reading = builtin.judged(guardrail, one.name, kept, champion, tried, error)
                look.guardrails.append(reading)
        memory.counters = {**memory.counters, **present}

    def _declared_guardrails(
        self,
        underway: Underway,
        memory: Memory,
        look: Look,
        exposures: pa.Table | None,
        now: datetime,
    ) -> None:
        """Everything that is measured of units."""
        rollout, error = underway.rollout, error_of_each(underway)
        wanted = [one for one in rollout.guardrails if one.metric not in BUILT_IN]
        if exposures is None or not exposures.num_rows or look.mismatch:
            for guardrail in wanted:
                for one in rollout.challengers:
                    reading = blank(guardrail, one.name, error)
                    reading.why = _MISMATCHED if look.mismatch else "no unit was seen yet"
                    look.guardrails.append(reading)
            return
        units = UnitLook(
            underway, memory, self._metrics, self._declared, exposures, now, fields_of(underway)
        )
        for guardrail in wanted:
            look.guardrails += units.guardrail(guardrail, error)
        if rollout.success is not None:
            look.success = units.success(rollout.success)
            look.segments = units.segments(rollout.success)
            look.chances = units.chances(rollout.success)
            if rollout.how is RolloutKind.BANDIT:
                look.weights = units.weights(rollout.success)


def error_of_each(underway: Underway) -> float:
    """The part of the guardrails' error that one guardrail of one challenger may spend."""
    rollout = underway.rollout
    return rollout.guardrail_error / max(len(rollout.guardrails) * len(rollout.challengers), 1)


def fields_of(underway: Underway) -> tuple[str, ...]:
    """The request fields by whose values units are told apart; an interleaved one's first."""
    rollout = underway.rollout
    fields = [rollout.segment] if rollout.how is RolloutKind.INTERLEAVED else []
    fields += [one.between for one in rollout.guardrails]
    fields += list(rollout.success.segments) if rollout.success is not None else []
    return tuple(dict.fromkeys(one for one in fields if one))


def _units(
    underway: Underway, memory: Memory, exposures: pa.Table | None
) -> tuple[dict[str, int], bool]:
    """Units by variant, and whether those since the last change of shares fell by the shares."""
    import pyarrow.compute as pc

    shares = underway.shares
    if exposures is None or not exposures.num_rows:
        return dict.fromkeys(shares, 0), False
    units = dict.fromkeys(shares, 0)
    for row in exposures.column("variant").value_counts().to_pylist():
        units[row["values"]] = row["counts"]
    if underway.rollout.how in (RolloutKind.SHADOW, RolloutKind.INTERLEAVED):
        return units, False
    # Units that came since: those that were there before stay with what they met first.
    lately = exposures.filter(
        pc.greater_equal(exposures.column("at_us"), memory.stretches[-1].since_us)
    )
    counts = {
        row["values"]: row["counts"] for row in lately.column("variant").value_counts().to_pylist()
    }
    known = {name: share for name, share in shares.items() if share > 0}
    if len(known) < 2:
        return units, False
    seen = [counts.get(name, 0) for name in known]
    return units, is_mismatched(seen, list(known.values()), alpha=_MISMATCH_ERROR)


__all__ = ["RolloutJudge", "error_of_each", "fields_of"]
