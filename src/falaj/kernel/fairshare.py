"""Who begins next: fair shares between teams, quotas, and priority within a team.

Pure decisions over plain facts; ``fairqueue`` reads the facts from the table of jobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

GPU_AS_CORES = 8
"""One GPU weighs as much as so many cores in a team's share."""
HALF_LIFE_SECONDS = 3600.0
"""After so long, what a team has used counts half."""
LEAST_SECONDS = 1.0
"""A job counts for so long at least, so that teams with the shortest jobs take turns too."""


@dataclass(frozen=True)
class Quota:
    """What a team may use at one time, and the weight of its share."""

    weight: int = 1
    max_runs: int | None = None
    max_cpu_thousandths: int | None = None
    max_gpu_thousandths: int | None = None


@dataclass(frozen=True)
class Need:
    """What one job takes up: thousandths of cores and GPUs."""

    cpu_thousandths: int = 0
    gpu_thousandths: int = 0

    @property
    def weight(self) -> float:
        """How much of a share it is, in cores."""
        return (self.cpu_thousandths + GPU_AS_CORES * self.gpu_thousandths) / 1000


@dataclass(frozen=True)
class Head:
    """The job that a team would begin next."""

    id: str
    team: str
    need: Need = Need()
    spot: bool = False


@dataclass(frozen=True)
class Load:
    """What a team's running jobs take up."""

    n_runs: int = 0
    need: Need = Need()


@dataclass(frozen=True)
class Share:
    """What a team has used lately: core-seconds, halved every hour, at an instant."""

    used: float = 0.0
    as_of: float = 0.0
    """Seconds."""
    last_begun: float = 0.0

    def at(self, now: float) -> float:
        """What still counts of it."""
        return self.used * math.exp2(-max(0.0, now - self.as_of) / HALF_LIFE_SECONDS)

    def charged(self, need: Need, seconds: float, now: float, *, begun: bool = False) -> Share:
        """The share after a job of that need took so long."""
        used = self.at(now) + max(need.weight, 0.001) * seconds
        return Share(used, now, now if begun else self.last_begun)


@dataclass(frozen=True)
class Choice:
    """What begins, and which jobs can never begin under their team's quota."""

    begins: Head | None = None
    never: tuple[Head, ...] = field(default=())


def exceeded(quota: Quota, load: Load, need: Need) -> str | None:
    """Which limit of a quota a job would exceed beside what runs: a sentence, or None."""
    limits = (
        (quota.max_runs, load.n_runs + 1, 1, "runs at a time"),
        (
            quota.max_cpu_thousandths,
            load.need.cpu_thousandths + need.cpu_thousandths,
            1000,
            "cores",
        ),
        (
            quota.max_gpu_thousandths,
            load.need.gpu_thousandths + need.gpu_thousandths,
            1000,
            "GPUs",
        ),
    )
    for most, would_be, unit, what in limits:
        if most is not None and would_be > most:
            return f"it would use {would_be / unit:g} {what}, and the quota is {most / unit:g}"
    return None


def choose(
    heads: Iterable[Head],
    loads: Mapping[str, Load],
    shares: Mapping[str, Share],
    quota_of: Callable[[str], Quota],
    now: float,
) -> Choice:
    """What begins next.

    Among teams whose next job fits their quota, the one goes first whose running jobs weigh
    least for its weight; then the one that used least lately; then the one that began
    something longest ago. Jobs on spot resources come after all others. A team's jobs never
    overtake each other here: if its next one does not fit, the team waits.
    """
    may, never = [], []
    for head in heads:
        quota = quota_of(head.team)
        if exceeded(quota, Load(), head.need) is not None:
            never.append(head)
        elif exceeded(quota, loads.get(head.team, Load()), head.need) is None:
            may.append(head)

    def order(head: Head) -> tuple[bool, float, float, float, str]:
        weight = max(1, quota_of(head.team).weight)
        share = shares.get(head.team, Share())
        running = loads.get(head.team, Load()).need.weight
        return (
            head.spot, running / weight, share.at(now) / weight, share.last_begun, head.team
        )  # fmt: skip

    return Choice(min(may, key=order, default=None), tuple(never))
