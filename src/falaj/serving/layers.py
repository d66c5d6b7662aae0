"""Who takes part in what: layers, holdouts, and shares that grow without moving anybody.

A unit stands at a place in [0, 1) that is a hash of a salt and its id: uniform, the same on
every machine, and independent between salts. In a *layer* rollouts exclude each other: each
owns a stretch of the layer's places. Two layers have salts of their own, so that what meets a
unit in one tells nothing of the other. A *holdout* is a stretch of a layer of its own: its
units meet the champion everywhere.

Inside a rollout the place is taken from the rollout's own salt. Each challenger has a stretch
that begins where its final share ends up and grows from there; whoever stands in none of them
meets the champion. So raising a share moves units from the champion to a challenger and no
unit from one challenger to another, or back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from falaj.kernel.errors import InvalidInput
from falaj.serving.assignment import position

_SLACK = 1e-12


@dataclass(frozen=True)
class Stretch:
    """Places from ``low`` (with it) to ``high`` (without it)."""

    low: float
    high: float

    def holds(self, place: float) -> bool:
        """True if the place lies in it."""
        return self.low <= place < self.high


@dataclass(frozen=True)
class Layer:
    """Rollouts that exclude each other, each with a stretch of the units."""

    name: str
    stretches: Mapping[str, Stretch]
    """By rollout."""

    def __post_init__(self) -> None:
        taken = sorted(self.stretches.values(), key=lambda one: one.low)
        edge = 0.0
        for one in taken:
            if not 0 <= one.low < one.high <= 1 + _SLACK or one.low < edge - _SLACK:
                raise InvalidInput(
                    f"The stretches of the layer {self.name!r} overlap or leave [0, 1).",
                    hint="Give rollouts of one layer shares that sum to at most 1.",
                )
            edge = one.high

    def rollout_of(self, unit: object) -> str | None:
        """The rollout of this layer that a unit takes part in."""
        place = position(f"layer\x00{self.name}", unit)
        for name, stretch in self.stretches.items():
            if stretch.holds(place):
                return name
        return None

    def with_rollout(self, name: str, share: float) -> Layer:
        """A layer with one more rollout, in the first free stretch that is wide enough.

        Raises:
            InvalidInput: no stretch is left for it, or it has one already.
        """
        if name in self.stretches:
            raise InvalidInput(f"The layer {self.name!r} has {name!r} already.")
        edge = 0.0
        for one in sorted(self.stretches.values(), key=lambda one: one.low):
            if one.low - edge >= share - _SLACK:
                break
            edge = one.high
        if not 0 < share <= 1 or edge + share > 1 + _SLACK:
            raise InvalidInput(
                f"The layer {self.name!r} has no room for a share of {share:g}.",
                hint="Use another layer, or end a rollout of this one.",
            )
        return Layer(self.name, {**self.stretches, name: Stretch(edge, min(edge + share, 1.0))})


@dataclass(frozen=True)
class Shares:
    """How a rollout divides its units: final shares of the challengers, and present ones.

    Attributes:
        salt: of the rollout.
        final: the largest share that each challenger will ever get, in order.
        present: the share that it has now.
    """

    salt: str
    final: Sequence[float]
    present: Sequence[float]

    def __post_init__(self) -> None:
        fits = len(self.final) == len(self.present) and all(
            0 <= now <= last for now, last in zip(self.present, self.final, strict=True)
        )
        if not fits or sum(self.final) > 1 + _SLACK:
            raise InvalidInput(
                f"Shares of {list(self.present)} do not fit final ones of {list(self.final)}.",
                hint="Each present share lies between 0 and its final one; those sum to at most 1.",
            )

    @cached_property
    def stretches(self) -> tuple[tuple[float, float, int], ...]:
        """From where to where each challenger is met now, and its place in the order; those
        that nobody meets are left out."""
        found, begin = [], 0.0
        for index, (last, now) in enumerate(zip(self.final, self.present, strict=True)):
            if now > 0:
                found.append((begin, begin + now, index))
            begin += last
        return tuple(found)

    def challenger_of(self, unit: object) -> int | None:
        """Which challenger a unit meets, by its place in the order; None: the champion."""
        place = position(self.salt, unit)
        for low, high, index in self.stretches:
            if low <= place < high:
                return index
        return None


def alternated(salt: str, segment: object, period: int, n: int) -> int:
    """Which of n variants a whole segment meets in a period, by the period's number.

    Of every n periods in a row, counted from a multiple of n, a segment meets each variant in
    exactly one; in which order is drawn anew each time, for each segment by itself.
    """
    block, place = divmod(period, n)
    order = sorted(range(n), key=lambda one: position(f"{salt}\x00{block}\x00{one}", segment))
    return order[place]
