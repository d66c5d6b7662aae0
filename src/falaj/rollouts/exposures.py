"""Which variant each unit met in each stretch of constant shares, from the prediction log.

Read incrementally: a process keeps what it has found, and each look reads only the rows of the
log that are new. A process that starts anew reads the rollout's rows once more. Where rows were
taken away meanwhile (erasure), everything is read anew, so nobody who was erased is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from falaj.kernel.clock import microseconds
from falaj.rollouts.metrics import case
from falaj.rollouts.model import CHAMPION, Rollout, RolloutKind
from falaj.rollouts.ports import Underway
from falaj.serving.assigning import layer_salt
from falaj.serving.assignment import position
from falaj.serving.layers import Stretch as Places
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.lake.model import Extent
    from falaj.lake.ports import Lake
    from falaj.rollouts.remembering import Stretch

_READ = ("prediction_id", "unit", "release", "variant", "requested_at", "fields")
_SETTLING_US = 2_000_000
"""So long after a change of shares nothing is an exposure: until every machine divides by it."""
_EVER = 2**63 - 1
_MOST_KEPT = 16
"""Rollouts whose exposures a process keeps; those that were looked at longest ago go first."""


@dataclass
class _Kept:
    table: pa.Table
    extent: Extent
    fields: tuple[str, ...]
    started_at: datetime
    bounds: list[int]
    newest_us: int
    """Of the rows that were read, in Unix microseconds."""


class Exposures:
    """Finds the exposures of the units of rollouts. Safe on many threads.

    Args:
        lake: holds the prediction logs.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def of(
        self, underway: Underway, stretches: Sequence[Stretch], fields: Sequence[str] = ()
    ) -> pa.Table | None:
        """The exposures of a rollout's units; None without any prediction.

        A unit has one in each stretch of constant shares in which it was seen: of the challenger
        that it met there, from then on, else of the champion. (The champion also answers for a
        challenger that fails, and while a change of shares spreads.) In a stretch that several
        became one, it is of the variant that the unit met first. Of a shadow rollout a unit has
        one for each variant, and of an interleaved one for each segment and period; there, where
        an endpoint has no unit, each prediction is one. Elsewhere rows without a unit do not
        count: nobody was assigned.

        Args:
            underway: the rollout.
            stretches: of constant shares, in their order.
            fields: of the request, by whose values units shall be told apart.

        Returns:
            columns ``unit``, ``variant``, ``at_us`` (Unix microseconds), ``until_us`` (the
            unit's next exposure, with which this one ends), ``first_us`` (its first one),
            ``period`` (of an interleaved rollout, else 0) and for each field its value as text,
            ``f0``, ``f1`` …
        """
        table = table_of(underway.rollout.endpoint)
        if not self._lake.exists(table):
            return None
        with self._lock:
            kept = self._kept.pop(underway.id, None)
        snapshot = self._lake.latest()
        extent = self._lake.extent(table, snapshot)
        if kept is not None and not self._continues(kept, table, snapshot, extent, underway):
            kept = None
        bounds = [one.since_us for one in stretches]
        if kept is not None and not (
            kept.fields == tuple(fields)
            # Of rows that were read before a change of shares was known only the first is kept.
            and all(one > kept.newest_us for one in bounds if one not in kept.bounds)
        ):
            kept = None
        fresh = self._fresh(table, snapshot, kept, underway)
        found = self._reduced(_of_layer(fresh, underway), kept, underway, stretches, fields)
        newest_us = max(_newest(fresh), kept.newest_us if kept is not None else 0)
        with self._lock:
            self._kept[underway.id] = _Kept(
                found, extent, tuple(fields), underway.started_at, bounds, newest_us
            )
            while len(self._kept) > _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
        return self._bounded(found, underway)

    def forget(self, rollout: str) -> None:
        """Keep nothing more of a rollout, by its id."""
        with self._lock:
            self._kept.pop(rollout, None)

    def _continues(
        self, kept: _Kept, table: str, snapshot: int, extent: Extent, underway: Underway
    ) -> bool:
        if extent.identity != kept.extent.identity or kept.started_at != underway.started_at:
            return False
        before = self._lake.extent(table, snapshot, before=kept.extent.end)
        return before.n_rows == kept.extent.n_rows

    def _fresh(self, table: str, snapshot: int, kept: _Kept | None, underway: Underway) -> pa.Table:
        if kept is None:
            return self._lake.scan(
                table,
                columns=_READ,
                where="release = $release AND requested_at >= $since",
                parameters={"release": underway.release, "since": underway.started_at},
                snapshot=snapshot,
            )
        found = self._lake.log(table, columns=_READ, snapshot=snapshot, since=kept.extent.end)
        return found.read_all().select(list(_READ))

    def _reduced(
        self,
        fresh: pa.Table,
        kept: _Kept | None,
        underway: Underway,
        stretches: Sequence[Stretch],
        fields: Sequence[str],
    ) -> pa.Table:
        rollout = underway.rollout
        names = ", ".join(f"f{place}" for place in range(len(fields)))
        comma = ", " if fields else ""
        # Names of fields are the declarer's: they go as parameters, never as text.
        told = ", ".join(
            f"coalesce(json_extract_string(fields, $field{n}), '') AS f{n}"
            for n in range(len(fields))
        )
        unit, period, by, rank, settled = _rule(rollout, stretches)
        stretch = case([(one.since_us, n) for n, one in enumerate(stretches)])
        old = f" UNION ALL SELECT unit, variant, at_us, period{comma}{names} FROM rollout_kept"
        rest = [one for one in ("variant", "at_us", *names.split(", ")) if one and one not in by]
        # Of two rows at one instant the lesser variant is taken, so that order never matters.
        first = ", ".join(f"arg_min({one}, ({rank}, at_us, variant)) AS {one}" for one in rest)
        sql = f"""
            SELECT {", ".join(by)}, {first} FROM (SELECT *, {stretch} AS stretch FROM (
                SELECT * FROM (SELECT {unit} AS unit, variant,
                       epoch_us(requested_at)::BIGINT AS at_us,
                       ({period})::BIGINT AS period{comma}{told}
                FROM rollout_fresh
                WHERE release = $release AND requested_at >= $since
                  AND list_contains($variants, variant) AND {unit} IS NOT NULL) WHERE {settled}
                {old if kept is not None else ""}
            )) GROUP BY {", ".join(by)}
        """
        inputs = {"rollout_fresh": fresh}
        if kept is not None:
            inputs["rollout_kept"] = kept.table
        found = self._lake.query(
            sql,
            inputs=inputs,
            parameters={
                "release": underway.release,
                "since": underway.started_at,
                "variants": list(underway.shares),
                **{f"field{n}": _path(name) for n, name in enumerate(fields)},
            },
        )
        return found.select(
            ["unit", "variant", "at_us", "period", *filter(None, names.split(", "))]
        )

    def _bounded(self, found: pa.Table, underway: Underway) -> pa.Table:
        """Exposures with their ends."""
        until = "lead(at_us) OVER (PARTITION BY unit ORDER BY at_us)"
        if underway.rollout.how is RolloutKind.SHADOW:
            until = "NULL"  # a unit meets all variants at once
        return self._lake.query(
            f"SELECT *, coalesce({until}, {_EVER})::BIGINT AS until_us,"
            " min(at_us) OVER (PARTITION BY unit) AS first_us FROM rollout_kept",
            inputs={"rollout_kept": found},
        )


def _rule(rollout: Rollout, stretches: Sequence[Stretch]) -> tuple[str, str, list[str], str, str]:
    """SQL: what is a unit, and a period; by what an exposure is one; which row comes before
    others, whenever it was; and which rows count."""
    if rollout.how is RolloutKind.SHADOW:
        return "coalesce(unit, prediction_id)", "0", ["unit", "period", "variant"], "0", "true"
    if rollout.how is RolloutKind.INTERLEAVED:
        length = max(int(rollout.period.total_seconds() * 1e6), 1)
        period = f"epoch_us(requested_at) // {length}"
        return "coalesce(unit, prediction_id)", period, ["unit", "period", "f0"], "0", "true"
    constant = [n for n, one in enumerate(stretches) if one.shares is not None]
    rank = f"(variant = '{CHAMPION}' AND list_contains({constant}::INTEGER[], stretch))"
    began = case([(one.since_us, one.since_us) for one in stretches])
    settled = f"at_us - {began} >= {_SETTLING_US}"
    return "unit", "0", ["unit", "period", "stretch"], rank, settled


def _newest(rows: pa.Table) -> int:
    import pyarrow.compute as pc

    newest = pc.max(rows.column("requested_at")).as_py()
    return 0 if newest is None else microseconds(newest)


def _of_layer(rows: pa.Table, underway: Underway) -> pa.Table:
    """The rows of units that lie in the rollout's stretch of its layer.

    All others meet the champion here, and may meet a challenger of another rollout of the layer
    elsewhere: they are no champion's units to compare with. Rows without a unit stay.
    """
    layer = underway.rollout.layer
    if layer is None:
        return rows
    import pyarrow.compute as pc

    salt, own = layer_salt(layer), Places(underway.low, underway.high)
    others = [
        unit
        for unit in pc.unique(rows.column("unit")).to_pylist()
        if unit is not None and not own.holds(position(salt, unit))
    ]
    return rows.filter(pc.invert(pc.is_in(rows.column("unit"), pa.array(others, pa.string()))))


def _path(field: str) -> str:
    """A field's path in JSON, whatever its name."""
    quoted = field.replace("\\", "\\\\").replace('"', '\\"')
    return f'$."{quoted}"'
