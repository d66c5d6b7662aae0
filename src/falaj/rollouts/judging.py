"""One look at a rollout: what is measured, and what follows by its rules.

``RolloutJudge`` puts the parts together: counters (``readings``, ``builtin``), units and
declared metrics (``exposures``, ``metrics``), guardrails and success (``guardrails``,
``deciding``), and what is only told (``segments``, ``bayesian``). It changes nothing.

The error of the guardrails is shared in equal parts over all guardrails and challengers, so
that all of them together breach without harm at most as often as the rollout says, over all
looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger
from falaj.rollouts import builtin
from falaj.rollouts.allocation import is_mismatched
from falaj.rollouts.exposures import Exposures
from falaj.rollouts.guardrails import blank
from falaj.rollouts.metrics import DeclaredMetrics, RunFunction
from falaj.rollouts.model import BUILT_IN, CHAMPION, GuardrailReading, Look, Metric, RolloutKind
from falaj.rollouts.readings import Counter, counters
from falaj.rollouts.remembering import Memory, microseconds
from falaj.rollouts.unitlook import UnitLook

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.lake.ports import Lake
    from falaj.rollouts.ports import Underway
    from falaj.rollouts.readings import Ints

_MISMATCH_ERROR = 0.001
_REST = 9.0
_log = logger(__name__)
_MISMATCHED = "the variants did not get their shares of units: nothing can be compared"


@dataclass(frozen=True)
class _Paced:
    """What declared metrics said last, and until when that is told again (monotonic).

    Attributes:
        since: when the shares began for which they said so; of others they said nothing yet.
    """

    again_at: float
    look: Look
    since: datetime


class RolloutJudge:
    """See ``rollouts.ports.Judge``. Safe on many threads, as long as each rollout is on one.

    Guardrails that are counted are looked at first, at every look, and end it if one is
    breached that nobody has dismissed. Declared metrics whose reading takes long are read again
    once nine times as long has passed, and what they said is told meanwhile.

    Args:
        lake: holds the prediction logs and what metrics read.
        counted: of an endpoint, what all workers counted of its variants by units
            (``Meters.units``).
        declared: the metric of a name; raises NotFound.
        run: runs metrics that are Python functions; None refuses them.
        seconds: that one reading of a metric may take.
        rests_from: seconds that a look at declared metrics takes before they are let rest.
    """

    def __init__(
        self,
        lake: Lake,
        counted: Callable[[str], Mapping[tuple[str, bool], Ints]],
        declared: Callable[[str], Metric],
        *,
        run: RunFunction | None = None,
        seconds: float = 60.0,
        rests_from: float = 1.0,
    ) -> None:
        self._rests_from = rests_from
        self._cells = counted
        self._declared = declared
        self._exposures = Exposures(lake)
        self._metrics = DeclaredMetrics(lake, run=run, seconds=seconds)
        self._paced: dict[str, _Paced] = {}

    def look(self, underway: Underway, now: datetime) -> tuple[Look, Mapping[str, object]]:
        """See ``Judge.look``. The first look of a rollout only takes the counters down."""
        memory = Memory.read(underway.memory)
        if memory.note_shares(underway):
            self._paced.pop(underway.id, None)  # what was said of other shares holds no more
        look = Look()
        self._counted(underway, memory, look, now)
        memory.looks += 1
        if _ends_it(underway, look):
            # Nobody waits for a slow metric where errors have told already.
            return look, memory.told()
        paced = self._paced.get(underway.id)
        if (
            paced is not None
            and paced.since == underway.shares_since
            and monotonic() < paced.again_at
        ):
            look = paced.look.model_copy(update={"guardrails": [
                *look.guardrails, *_declared_ones(paced.look)
            ]})  # fmt: skip
            return look, memory.told()
        begin = monotonic()
        with _noted(look):
            exposures = self._exposures.of(underway, memory.stretches, underway.rollout.fields)
            look.units, look.mismatch = _units(memory, exposures, underway)
            self._of_units(underway, memory, look, exposures, now)
        # Also if it failed: what takes a minute to fail must not be tried every half.
        self._pace(underway, look, monotonic() - begin)
        return look, memory.told()

    def forget(self, rollout: str) -> None:
        """Keep nothing more of a rollout that ended, by its id."""
        self._exposures.forget(rollout)
        self._paced.pop(rollout, None)

    def _pace(self, underway: Underway, look: Look, seconds: float) -> None:
        """Let declared metrics rest nine times as long as they took, if that was long."""
        self._paced.pop(underway.id, None)
        if seconds >= self._rests_from:
            again_at = monotonic() + _REST * seconds
            self._paced[underway.id] = _Paced(again_at, look, underway.shares_since)

    # -- parts of a look --------------------------------------------------------------

    def _counted(self, underway: Underway, memory: Memory, look: Look, now: datetime) -> None:
        """The built-in guardrails, from counters."""
        rollout = underway.rollout
        shadows = (
            [one.name for one in rollout.challengers] if rollout.how is RolloutKind.SHADOW else []
        )
        present = counters(self._cells(rollout.endpoint), shadows)
        champion = present.get(CHAMPION, Counter())
        error = error_of_each(underway)
        period = microseconds(now) // max(round(rollout.period.total_seconds() * 1e6), 1)
        for guardrail in rollout.guardrails:
            if guardrail.metric not in BUILT_IN:
                continue
            for one in rollout.challengers:
                kept = memory.builtin.setdefault(f"{guardrail.metric}/{one.name}", builtin.begin())
                tried = present.get(one.name, Counter())
                if rollout.how is RolloutKind.INTERLEAVED:
                    reading = builtin.judged_by_period(
                        guardrail, one.name, kept, champion, tried, error, period
                    )
                else:
                    reading = builtin.judged(guardrail, one.name, kept, champion, tried, error)
                look.guardrails.append(reading)

    def _of_units(
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
            underway, memory, self._metrics, self._declared, exposures, now, underway.rollout.fields
        )
        failed: set[str] = set()
        for guardrail in wanted:
            measured: list[GuardrailReading] = []
            if guardrail.metric not in failed:
                with _noted(look):
                    measured = units.guardrail(guardrail, error)
            if not measured:
                failed.add(guardrail.metric)
                measured = [blank(guardrail, one.name, error) for one in rollout.challengers]
                for reading in measured:
                    reading.why = "it could not be measured"
            look.guardrails += measured
        if rollout.success is None or rollout.success.metric in failed:
            return
        with _noted(look):
            look.success = units.success(rollout.success)
            look.segments = units.segments(rollout.success)
            look.chances = units.chances(rollout.success)
            if rollout.how is RolloutKind.BANDIT:
                look.weights = units.weights(rollout.success)


def error_of_each(underway: Underway) -> float:
    """The part of the guardrails' error that one guardrail of one challenger may spend."""
    rollout = underway.rollout
    return rollout.guardrail_error / max(len(rollout.guardrails) * len(rollout.challengers), 1)


@contextmanager
def _noted(look: Look) -> Iterator[None]:
    """Let the look say what could not be measured, and go on with all else.

    Whatever it is, for a metric may be anybody's code: what was counted, and what is
    remembered of it, must not be lost with it.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001
        told = str(error) if isinstance(error, FalajError) else repr(error)
        if not isinstance(error, FalajError):
            _log.exception("a part of a look at a rollout failed")
        look.unmeasured = f"{look.unmeasured} {told}".strip()


def _ends_it(underway: Underway, look: Look) -> bool:
    """True if a breach of the look will be acted on, so that nothing else needs measuring."""
    if underway.rollout.how is RolloutKind.SHADOW:
        return False
    return not all(one.is_among(underway.dismissed) for one in look.breached)


def _declared_ones(look: Look) -> list[GuardrailReading]:
    return [one for one in look.guardrails if one.metric not in BUILT_IN]


def _units(
    memory: Memory, exposures: pa.Table | None, underway: Underway
) -> tuple[dict[str, int], bool]:
    """Units by variant, and whether those since the last change of shares fell otherwise."""
    import pyarrow.compute as pc

    units = dict.fromkeys(underway.shares, 0)
    if exposures is None or not exposures.num_rows:
        return units, False
    units |= _counts(exposures)
    if underway.rollout.how in (RolloutKind.SHADOW, RolloutKind.INTERLEAVED):
        return units, False
    # Whoever was seen since: units that were there before are divided anew by the shares.
    stretch = memory.stretches[-1]
    lately = _counts(
        exposures.filter(pc.greater_equal(exposures.column("at_us"), stretch.since_us))
    )
    known = {name: share for name, share in (stretch.shares or {}).items() if share > 0}
    if len(known) < 2:
        return units, False
    seen = [lately.get(name, 0) for name in known]
    return units, is_mismatched(seen, list(known.values()), alpha=_MISMATCH_ERROR)


def _counts(exposures: pa.Table) -> dict[str, int]:
    once = exposures.group_by(["unit", "variant"]).aggregate([])
    told = once.column("variant").value_counts().to_pylist()
    return {row["values"]: row["counts"] for row in told}


__all__ = ["RolloutJudge", "error_of_each"]
