"""Which variant of a rollout each row of a request meets, under the present split."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from falaj.serving.assignment import position
from falaj.serving.layers import Shares, alternated

if TYPE_CHECKING:
    from falaj.serving.model import Release
    from falaj.serving.splits import Split


def layer_salt(layer: str) -> str:
    """By which the units of a layer are placed."""
    return f"layer\x00{layer}"


def holdout_salt(endpoint: str) -> str:
    """By which the units are placed that no rollout of an endpoint may have."""
    return f"holdout\x00{endpoint}"


class Assigner:
    """The rule of one release and one split; pure, and safe on many threads.

    A row without a unit meets the champion. Most rows of a rollout meet the champion by the
    rollout's own salt, so whether a unit is held out, or in another stretch of the layer, is
    looked up only of the others: it costs one hash for a row, and up to three for one that
    meets a challenger.

    Args:
        release: of a rollout.
        split: the present one; None: all meet the champion.
    """

    def __init__(self, release: Release, split: Split | None) -> None:
        given = release.assignment
        if given is None:
            raise ValueError("a release without an assignment divides nobody")
        now = {} if split is None or split.release != release.id else split.shares
        self.split = split
        self.salt = given.salt
        self.present = tuple(min(now.get(name, 0.0), last) for name, last in given.final.items())
        self.on = any(share > 0 for share in self.present)
        """False if nobody meets a challenger."""
        self.leaves_champion = bool(
            given.holdout or given.layer or given.segment or sum(self.present) < 1 - 1e-9
        )
        """True if some units meet the champion: else there are only those it stands in for."""
        self._unit = attrgetter(release.unit) if release.unit else None
        self._segment = attrgetter(given.segment) if given.segment else None
        self._period_us = 0 if given.period is None else round(given.period.total_seconds() * 1e6)
        self._holdout = given.holdout
        self._holdout_salt = holdout_salt(release.endpoint)
        self._layer = None if given.layer is None else given.layer.stretch
        self._layer_salt = "" if given.layer is None else layer_salt(given.layer.name)
        divided = self._segment is None and not release.variants[-1].shadow
        self._shares = (
            Shares(given.salt, tuple(given.final.values()), self.present) if divided else None
        )

    def variants(self, rows: Sequence[Any], at_us: int) -> list[int] | None:
        """The place of the variant that each row meets; None if all meet the champion.

        Args:
            rows: as the plan decodes them.
            at_us: now, by the worker's clock; it decides about periods.
        """
        if not self.on:
            return None
        if self._segment is not None:
            segment, period = self._segment, at_us // self._period_us
            return [self._of_segment(row, segment(row), period) for row in rows]
        unit, shares = self._unit, self._shares
        if unit is None or shares is None:
            return None
        return [self._of_unit(unit(row), shares) for row in rows]

    def takes_part(self, unit: Any) -> bool:
        """True if a unit is neither held out nor elsewhere in the layer."""
        if self._holdout and position(self._holdout_salt, unit) < self._holdout:
            return False
        return self._layer is None or self._layer.holds(position(self._layer_salt, unit))

    def shadowed(self, rows: Sequence[Any], ids: Sequence[str], challenger: int) -> list[int]:
        """The places of the rows that a shadow runs on as well.

        All shadows of a release have the same rows, as far as their shares go.

        Args:
            rows: as the plan decodes them.
            ids: of their predictions; they stand for the units where the release has none.
            challenger: its place among the challengers.
        """
        share, unit = self.present[challenger], self._unit
        if share <= 0:
            return []
        units = ids if unit is None else [unit(row) for row in rows]
        return [
            place
            for place, one in enumerate(units)
            if one is not None
            and (share >= 1 or position(self.salt, one) < share)
            and (unit is None or self.takes_part(one))
        ]

    def _of_unit(self, unit: Any, shares: Shares) -> int:
        if unit is None:
            return 0
        challenger = shares.challenger_of(unit)
        if challenger is None or not self.takes_part(unit):
            return 0
        return challenger + 1

    def _of_segment(self, row: Any, segment: Any, period: int) -> int:
        """In a rollout by segments a share is a switch: with none, the champion stands in."""
        if segment is None:
            return 0
        which = alternated(self.salt, segment, period, len(self.present) + 1)
        if which == 0 or self.present[which - 1] <= 0:
            return 0
        unit = None if self._unit is None else self._unit(row)
        if self._unit is not None and (unit is None or not self.takes_part(unit)):
            return 0
        return which
