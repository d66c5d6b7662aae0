"""How many workers there should be: one pure function of what was observed.

The same function decides for the workers of one machine, for actors on Ray, and (as target
numbers) for Kubernetes. It knows no clock, no process and no random number: the same
observations give the same decision, so it is tested by simulation.

The rules, in the order in which they are asked:

1. *Bounds.* Never fewer than ``least``, never more than ``most``.
2. *Shedding* (a request was refused or came too late for want of a worker): up at once.
3. *Up*: every observation of the last ``up_seconds`` asks for more workers, because they are
   busier than ``utilisation`` together, or because requests wait longer than
   ``queue_seconds``.
4. *Down, one at a time*: the number has stood for ``down_seconds``, and in all of them one
   worker fewer would have stayed under ``_SETTLED`` of both targets; and nobody remembers
   that requests waited or were shed with so few workers in the last ``memory_seconds``.

Between the two thresholds nothing happens, so a constant load never makes the number go
back and forth: after a step down the utilisation is below the one that asks for a step up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput

if TYPE_CHECKING:
    from falaj.kernel.settings import InferenceSettings

_SETTLED = 0.85
"""One worker fewer must stay below this share of a target: the gap that forbids flapping."""
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class ScalingSettings:
    """What the policy aims at.

    Raises:
        InvalidInput: numbers that contradict each other.
    """

    least: int = 1
    most: int = 1
    utilisation: float = 0.6
    """The busy share of a worker that is aimed at; more workers above it."""
    queue_seconds: float = 0.02
    """The p90 of the time that requests wait for a worker; more workers above it."""
    up_seconds: float = 3.0
    """So long must more workers be needed, before one is added (shedding does not wait)."""
    down_seconds: float = 60.0
    """So long must fewer workers be enough, before one is taken away."""
    memory_seconds: float = 300.0
    """So long is it remembered that a number of workers was too small."""
    most_step: int = 2
    """So many workers are added at once, at most."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise InvalidInput(
                f"Between {self.least} and {self.most} workers cannot run.",
                hint="Give the least number first, at least 1: `1:4`.",
            )
        if not 0.05 <= self.utilisation <= 0.95:
            raise InvalidInput(
                f"A utilisation of {self.utilisation} cannot be aimed at.",
                hint="Choose one between 0.05 and 0.95.",
            )

    @classmethod
    def of(cls, inference: InferenceSettings) -> ScalingSettings:
        """What the platform's settings aim at."""
        return cls(
            least=inference.least_workers,
            most=inference.most_workers,
            utilisation=inference.target_utilisation,
            queue_seconds=inference.queue_ms / 1000,
            down_seconds=inference.scale_down_seconds,
            memory_seconds=5 * inference.scale_down_seconds,
        )

    @property
    def kept_seconds(self) -> float:
        """How far back observations are asked for."""
        return max(self.up_seconds, self.down_seconds, self.memory_seconds)


@dataclass(frozen=True, slots=True)
class Observation:
    """What the workers of a pool did since the observation before."""

    at: float
    """Seconds, of a clock that never goes back."""
    workers: int
    """How many there were."""
    utilisation: tuple[float, ...]
    """The busy share of each worker that has told one, 0 to 1."""
    queue_p90: float = 0.0
    """Seconds; of the tenths of a second, 90 in 100 had no request that waited longer."""
    queue_p99: float = 0.0
    inside: int = 0
    """Requests in work when it was taken."""
    shed: int = 0
    """Requests that were refused for want of a worker, or answered too late."""

    @property
    def load(self) -> float:
        """How many workers would be needed if each could be busy all the time."""
        return sum(self.utilisation)


@dataclass(frozen=True, slots=True)
class Decision:
    """How many workers there should be, and why."""

    workers: int
    reason: str


def decide(window: Sequence[Observation], settings: ScalingSettings) -> Decision:
    """How many workers there should be.

    Args:
        window: what was observed, the oldest first, as far back as
            ``settings.kept_seconds``; at least one.
        settings: what is aimed at.

    Returns:
        the number, between ``settings.least`` and ``settings.most``.
    """
    now = window[-1]
    workers = now.workers
    if workers < settings.least:
        return Decision(settings.least, f"{settings.least} workers are the least")
    if workers > settings.most:
        return Decision(settings.most, f"{settings.most} workers are the most")
    wanted, reason = _up(window, settings)
    if wanted > workers:
        return Decision(min(wanted, settings.most), reason)
    if workers > settings.least and _may_go(window, settings):
        return Decision(
            workers - 1,
            f"{workers - 1} were enough for {settings.down_seconds:g} s "
            f"({_share(now.load / workers)} busy)",
        )
    return Decision(workers, "as it should be")


def _up(window: Sequence[Observation], settings: ScalingSettings) -> tuple[int, str]:
    """The number that is asked for, if it is more than there are; and why."""
    now = window[-1]
    if now.workers >= settings.most:
        return now.workers, ""
    if now.shed:
        return now.workers + settings.most_step, f"{now.shed} requests were shed"
    recent = _last(window, settings.up_seconds)
    if now.at - window[0].at < settings.up_seconds:
        return now.workers, ""
    needed = min(_needed(one, settings) for one in recent)
    wanted = min(needed, now.workers + settings.most_step)
    if now.load > settings.utilisation * now.workers:
        told = f"{_share(now.load / now.workers)} busy, {_share(settings.utilisation)} aimed at"
    else:
        told = (
            f"requests waited {now.queue_p90 * 1000:.0f} ms (p90), "
            f"{settings.queue_seconds * 1000:.0f} ms aimed at"
        )
    return wanted, f"{told}, for {settings.up_seconds:g} s"


def _needed(one: Observation, settings: ScalingSettings) -> int:
    busy = math.ceil(one.load / settings.utilisation - _TOLERANCE)
    return max(busy, one.workers + 1) if _strained(one, settings) else busy


def _strained(one: Observation, settings: ScalingSettings) -> bool:
    """True if requests were shed, or waited too long while the workers were busy.

    Requests that wait for idle workers wait for something that more workers do not give
    (a processor that another program has).
    """
    if one.shed:
        return True
    busy = one.load >= settings.utilisation / 2 * one.workers
    return busy and one.queue_p90 > settings.queue_seconds


def _may_go(window: Sequence[Observation], settings: ScalingSettings) -> bool:
    """True if one worker can be spared."""
    now = window[-1]
    fewer = now.workers - 1
    if now.at - window[0].at < settings.down_seconds:
        return False
    if any(one.workers <= fewer and _strained(one, settings) for one in window):
        return False
    return all(
        one.workers == now.workers and _enough(one, fewer, settings)
        for one in _last(window, settings.down_seconds)
    )


def _enough(one: Observation, fewer: int, settings: ScalingSettings) -> bool:
    """True if so few workers would have done the work of an observation."""
    if one.shed or one.load > _SETTLED * settings.utilisation * fewer:
        return False
    # Waiting grows as rho / (1 - rho) (M/G/1): what it would be with fewer workers.
    rho, more = one.load / one.workers, one.load / fewer
    if rho <= 0:
        return True
    waited = one.queue_p90 * (more / (1 - more)) / (rho / (1 - rho))
    return waited <= _SETTLED * settings.queue_seconds


def _last(window: Sequence[Observation], seconds: float) -> list[Observation]:
    since = window[-1].at - seconds
    return list(takewhile(lambda one: one.at >= since, reversed(window)))


def _share(value: float) -> str:
    return f"{value * 100:.0f} %"
