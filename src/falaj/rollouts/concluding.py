"""What follows from a look: a pure function of how a run stands and what was seen.

In this order: harm, then shares of units that do not fit, then success, then the longest time,
then the next stage or the next weights. Nothing follows from the absence of traffic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from falaj.rollouts.model import (
    BUILT_IN,
    CHAMPION,
    GuardrailReading,
    Look,
    Rollout,
    RolloutKind,
    RolloutState,
    SuccessReading,
)
from falaj.rollouts.records import Run, Step

What = Literal["wait", "advance", "weigh", "succeed", "stop", "roll_back", "pause"]
LEAST_MOVE = 0.01
"""Weights of a bandit that differ by less move nobody: each move is a write to all workers."""
LEAST_UNITS = 100
"""As a stage of a canary asks for by default: fewer say nothing of harm."""
MISMATCH = "mismatch"
"""The name under which a person may dismiss a mismatch of units and shares."""


@dataclass(frozen=True)
class Decision:
    """What to do, and why."""

    what: What
    why: str = ""
    shares: Mapping[str, float] = field(default_factory=dict)
    """From now on, by variant; empty: as they are."""
    winner: str | None = None
    harmful: tuple[str, ...] = ()


def shares_at(rollout: Rollout, stage: int) -> dict[str, float]:
    """The shares by variant at a stage of a canary; of other kinds, the declared ones.

    A shadow's champion answers all units; a challenger's share is of the rows on which it
    runs behind the answer. A bandit begins with its declared shares.
    """
    found = {one.name: one.share for one in rollout.challengers}
    if rollout.how is RolloutKind.CANARY:
        step = rollout.stages[min(stage, len(rollout.stages) - 1)].share
        found = {name: min(share, step) for name, share in found.items()}
    return whole(rollout, found)


def whole(rollout: Rollout, shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of the challengers, and the rest for the champion; beside shadows, all."""
    taken = sum(share for name, share in shares.items() if name != CHAMPION)
    rest = 1.0 if rollout.how is RolloutKind.SHADOW else max(0.0, 1.0 - taken)
    return {CHAMPION: rest, **{name: one for name, one in shares.items() if name != CHAMPION}}


def champion_alone(rollout: Rollout) -> dict[str, float]:
    """All units meet the champion."""
    return whole(rollout, {one.name: 0.0 for one in rollout.challengers})


def decided(run: Run, look: Look, now: datetime) -> Decision:
    """What follows from a look at a run that is measured."""
    if run.rollout.how is RolloutKind.SHADOW:
        return (_awaited(run) or _at_longest(run, now)) or Decision("wait")
    return (
        _by_harm(run, look)
        or _awaited(run)
        or _untrusted(run, look)
        or _unmeasured(run, look, now)
        or _by_success(run, look, now)
        or _at_longest(run, now, look)
        or _onward(run, look, now)
    )


def _by_harm(run: Run, look: Look) -> Decision | None:
    """A rollback, if a guardrail is breached that nobody has dismissed."""
    breached = [one for one in look.breached if not one.is_among(run.dismissed)]
    if look.mismatch and MISMATCH not in run.dismissed:
        # What workers count does not depend on who is counted as a unit; all else does.
        breached = [one for one in breached if one.metric in BUILT_IN]
    if not breached:
        return None
    harmful = tuple(dict.fromkeys(one.challenger for one in breached))
    return Decision("roll_back", "; ".join(map(_told, breached)), harmful=harmful)


def _awaited(run: Run) -> Decision | None:
    """Nothing, where a person is to decide next."""
    awaited = run.state is RolloutState.PAUSED or run.step is not Step.LOOK
    return Decision("wait") if awaited else None


def _untrusted(run: Run, look: Look) -> Decision | None:
    """A pause, if units do not fall by the shares."""
    if not look.mismatch or MISMATCH in run.dismissed:
        return None
    return Decision("pause", f"Units do not fall by the shares: {_counts(look, run.shares)}.")


def _unmeasured(run: Run, look: Look, now: datetime) -> Decision | None:
    """Nothing good, while a guardrail or the success metric cannot be measured."""
    if not look.unmeasured:
        return None
    return _at_longest(run, now, look) or Decision(
        "wait", f"Not all is measured: {look.unmeasured}"
    )


def _at_longest(run: Run, now: datetime, look: Look | None = None) -> Decision | None:
    """The end of a run that has taken its longest time, as it was declared."""
    if now - run.started_at < run.rollout.longest:
        return None
    told = f"Nothing was decided in its longest time, {run.rollout.longest}"
    if run.rollout.at_longest == "champion" or look is None:
        return Decision("stop", f"{told}.")
    if lacking := _not_held(run, look, now):
        return Decision("stop", f"{told}, and it is not promoted: {'; '.join(lacking)}.")
    winner = run.rollout.challengers[0].name
    return Decision(
        "succeed", f"{told}, and all guardrails held: declared to be promoted then.", winner=winner
    )


def _not_held(run: Run, look: Look, now: datetime) -> list[str]:
    """Why it cannot be said that the guardrails of a run have held; empty if they have."""
    lacking = [f"not all was measured ({look.unmeasured.rstrip('.')})"] if look.unmeasured else []
    if look.mismatch:
        lacking.append("units do not fall by the shares")
    # What was dismissed may have been breached, and what is breached leads to nothing then: that
    # is no ground to promote by default, whatever the last look says of it.
    lacking += [f"{one} was dismissed" for one in sorted(run.dismissed)]
    lacking += [_told(one) for one in look.breached]
    seen = Counter(one.metric for one in look.guardrails if one.judged)
    wanted = Counter(one.metric for one in run.rollout.guardrails)
    lacking += [_unjudged(one, look) for one in wanted - seen]
    challenger = run.rollout.challengers[0].name
    units = look.units.get(challenger, 0)
    if run.rollout.how is RolloutKind.CANARY:
        if run.stage + 1 < len(run.rollout.stages) or not _stage_held(run, look, now):
            lacking.append(f"its stage {run.stage + 1} of {len(run.rollout.stages)} was not held")
    elif units < LEAST_UNITS:
        lacking.append(f"{challenger} was met by {units} units, fewer than {LEAST_UNITS}")
    return lacking


def _by_success(run: Run, look: Look, now: datetime) -> Decision | None:
    """The end by the success metric, if it has come."""
    rollout = run.rollout
    if rollout.success is None or not look.success:
        return None
    won = [one for one in look.success if one.decided in ("better", "not_worse")]
    if won and (rollout.how is not RolloutKind.CANARY or _through(run, look, now)):
        best = max(won, key=lambda one: (one.decided == "better", one.estimate or 0.0))
        return Decision("succeed", _success_told(best), winner=best.challenger)
    lost = {one.challenger for one in look.success if one.decided in ("worse", "no_difference")}
    if {one.name for one in rollout.challengers} <= lost:
        told = "; ".join(_success_told(one) for one in look.success)
        return Decision("stop", f"No challenger won: {told}")
    return None


def _onward(run: Run, look: Look, now: datetime) -> Decision:
    """The next stage of a canary, or the next weights of a bandit."""
    rollout = run.rollout
    if rollout.how is RolloutKind.BANDIT:
        return _weighed(run, look)
    if rollout.how is not RolloutKind.CANARY or not _stage_held(run, look, now):
        return Decision("wait")
    if unseen := unseen_guardrails(look, run.dismissed):
        told = "; ".join(map(_unseen_told, unseen))
        return Decision("wait", f"Stage {run.stage + 1} is held until all is guarded: {told}.")
    if run.stage + 1 < len(rollout.stages):
        shares = shares_at(rollout, run.stage + 1)
        return Decision("advance", f"Stage {run.stage + 1} was held without harm.", shares)
    if rollout.success is not None:
        return Decision("wait")
    winner = rollout.challengers[0].name
    return Decision("succeed", "All stages were held without harm.", winner=winner)


def _weighed(run: Run, look: Look) -> Decision:
    """The weights that a bandit asks for, within the floor and the declared shares.

    A challenger gets at most its declared share, and at least the floor; the champion has
    the rest. So who is in stays in while its share grows.
    """
    rollout = run.rollout
    if not look.weights:
        return Decision("wait")
    wanted = {
        one.name: min(max(look.weights.get(one.name, 0.0), rollout.floor), one.share)
        for one in rollout.challengers
    }
    shares = whole(rollout, wanted)
    if all(abs(shares[name] - run.shares.get(name, 0.0)) < LEAST_MOVE for name in shares):
        return Decision("wait")
    told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return Decision("weigh", f"By what pays: {told}.", shares)


def _through(run: Run, look: Look, now: datetime) -> bool:
    return (
        run.stage + 1 >= len(run.rollout.stages)
        and _stage_held(run, look, now)
        and not unseen_guardrails(look, run.dismissed)
    )


def unseen_guardrails(look: Look, dismissed: Collection[str] = ()) -> list[GuardrailReading]:
    """The guardrails whose evidence was not judged: too little, or nothing, was measured.

    They guard nothing yet: a join that never matches looks like a metric without harm. Latency is
    left out: it is judged after tens of thousands of requests only, which a small firm would wait
    for in vain, and it rolls back as soon as it can.
    """
    return [
        one
        for one in look.guardrails
        if not one.judged and one.metric != "latency" and not one.is_among(dismissed)
    ]


def _stage_held(run: Run, look: Look, now: datetime) -> bool:
    """True if the stage was held as long, and met by as many units, as it says."""
    stage = run.rollout.stages[run.stage]
    units = [look.units.get(one.name, 0) for one in run.rollout.challengers]
    return now - run.stage_since >= stage.hold and min(units) >= stage.least_units


def _told(reading: GuardrailReading) -> str:
    if reading.why:
        return f"{reading.metric} of {reading.challenger}: {reading.why.rstrip('.')}"
    return (
        f"{reading.metric} of {reading.challenger} is {_figure(reading.challenger_value)} "
        f"against {_figure(reading.champion)} of the champion"
    )


def _unseen_told(reading: GuardrailReading) -> str:
    sides = [(reading.n_champion, CHAMPION), (reading.n_challenger, reading.challenger)]
    names = " and ".join(name for n, name in sides if not n)
    why = f" ({reading.why.rstrip('.')})" if reading.why else ""
    if not names:
        return f"the guardrail {reading.metric} of {reading.challenger} was not judged yet{why}"
    return f"the guardrail {reading.metric} has measured no unit of {names}{why}"


def _unjudged(metric: str, look: Look) -> str:
    found = [one for one in look.guardrails if one.metric == metric and not one.judged]
    return _unseen_told(found[0]) if found else f"the guardrail {metric} was not judged"


def _success_told(reading: SuccessReading) -> str:
    if reading.why:
        return reading.why
    known = None not in (reading.estimate, reading.low, reading.high)
    band = (
        f" by {reading.estimate:+.2%} ({reading.low:+.2%} to {reading.high:+.2%})" if known else ""
    )
    return f"{reading.challenger} is {reading.decided} in {reading.metric}{band}."


def _counts(look: Look, shares: Mapping[str, float]) -> str:
    n = sum(look.units.values()) or 1
    return ", ".join(
        f"{name} got {seen / n:.2%} of {n} and should get {shares.get(name, 0.0):.2%}"
        for name, seen in look.units.items()
    )


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
