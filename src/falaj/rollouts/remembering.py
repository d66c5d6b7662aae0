"""What is remembered between two looks: stretches of constant shares, counts, progress."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from falaj.kernel.errors import Corrupt
from falaj.rollouts.deciding import Progress
from falaj.rollouts.model import CHAMPION, RolloutKind
from falaj.rollouts.ports import Underway

_MOST_STRETCHES = 64
_LAYOUT, _BY_REQUESTS = 2, 1
"""The layout; and one of before errors and latency were counted by units: these are then counted
from the next look on."""


@dataclass
class Stretch:
    """A time in which the shares were constant.

    Attributes:
        since_us: its start, Unix microseconds.
        shares: by variant; None where several stretches became one.
    """

    since_us: int
    shares: dict[str, float] | None


@dataclass
class Memory:
    """What a judge remembers of a rollout."""

    looks: int = 0
    stretches: list[Stretch] = field(default_factory=list)
    builtin: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By guardrail and challenger."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """Of declared quantiles, frozen."""
    progress: dict[str, Progress] = field(default_factory=dict)
    """By challenger."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """By guardrail of fairness and challenger: groups in the order in which they had units
    enough."""

    @classmethod
    def read(cls, told: Mapping[str, object]) -> Memory:
        """Of what ``told`` gave; an empty one before the first look.

        Raises:
            Corrupt: it is something else.
        """
        if not told:
            return cls()
        known: Any = told
        try:
            if known["layout"] not in (_LAYOUT, _BY_REQUESTS):
                raise ValueError(f"layout {known['layout']}")
            return cls(
                looks=int(known["looks"]),
                stretches=[Stretch(int(since), shares) for since, shares in known["stretches"]],
                builtin=known["builtin"] if known["layout"] == _LAYOUT else {},
                thresholds=known["thresholds"],
                progress={name: Progress.read(one) for name, one in known["progress"].items()},
                groups={name: list(one) for name, one in known.get("groups", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Corrupt(
                f"What is remembered of the rollout's looks cannot be read: {error!r}.",
                hint="Stop the rollout and start it again.",
            ) from error

    def told(self) -> dict[str, object]:
        """As JSON."""
        return {
            "layout": _LAYOUT,
            "looks": self.looks,
            "stretches": [[one.since_us, one.shares] for one in self.stretches],
            "builtin": self.builtin,
            "thresholds": self.thresholds,
            "progress": {name: one.told() for name, one in self.progress.items()},
            "groups": self.groups,
        }

    def note_shares(self, underway: Underway) -> bool:
        """Begin a stretch with each change since the last look; True if there was any.

        A person who resumes a paused rollout begins one too, with the same shares.

        Of very many stretches (a bandit has one for each look) the oldest two that lie
        together become one.
        """
        changes = underway.changes or [(underway.shares_since, underway.shares)]
        known = self.stretches[-1].since_us if self.stretches else -1
        for at, shares in changes:
            begun = Stretch(microseconds(at), shares_of_all(underway, shares))
            if not self.stretches or begun.since_us > self.stretches[-1].since_us:
                self.stretches.append(begun)
            elif begun.since_us == self.stretches[-1].since_us:
                self.stretches[-1] = begun  # nobody met what held for no time
        changed = self.stretches[-1].since_us > known
        while len(self.stretches) > _MOST_STRETCHES:
            # The shortest pair, so that what is joined differs least in time.
            ends = [one.since_us for one in self.stretches[2:]]
            spans = [end - one.since_us for one, end in zip(self.stretches, ends, strict=False)]
            place = spans.index(min(spans))
            joined = Stretch(self.stretches[place].since_us, None)
            self.stretches[place : place + 2] = [joined]
        return changed

    def bounds(self) -> list[int]:
        """Where the stretches begin, in Unix microseconds."""
        return [one.since_us for one in self.stretches]


def shares_of_all(underway: Underway, shares: Mapping[str, float]) -> dict[str, float]:
    """Which share of the units that are compared meets each variant, with these shares.

    Whoever is held out meets the champion, and stands in the prediction log as such: by chance,
    so the comparison is as good as among the others. Units elsewhere in the rollout's layer are
    not compared: they may meet another rollout's challenger.
    """
    rollout = underway.rollout
    part = 1 - rollout.holdout
    if rollout.how is RolloutKind.SHADOW:
        return dict(shares)
    met = {name: share * part for name, share in shares.items() if name != CHAMPION}
    return {CHAMPION: 1 - sum(met.values()), **met}


def microseconds(instant: datetime) -> int:
    """Unix microseconds of an instant."""
    return round(instant.timestamp() * 1e6)
