"""Which variant each unit met first since a rollout began, from the prediction log.

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

from falaj.rollouts.model import RolloutKind
from falaj.rollouts.ports import Underway
from falaj.serving.assigning import layer_salt
from falaj.serving.assignment import position
from falaj.serving.layers import Stretch
from falaj.serving.names import table_of

if TYPE_CHECKING:
    from falaj.lake.model import Extent
    from falaj.lake.ports import Lake

_READ = ("prediction_id", "unit", "release", "variant", "requested_at", "fields")
_MOST_KEPT = 16
"""Rollouts whose exposures a process keeps; those that were looked at longest ago go first."""


@dataclass
class _Kept:
    table: pa.Table
    extent: Extent
    fields: tuple[str, ...]
    started_at: datetime


class Exposures:
    """Finds the first exposures of the units of rollouts. Safe on many threads.

    Args:
        lake: holds the prediction logs.
    """

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()

    def of(self, underway: Underway, fields: Sequence[str] = ()) -> pa.Table | None:
        """The exposures of a rollout's units, one row for each; None without any prediction.

        A unit counts once, for the variant that it met first; of a shadow rollout once for each
        variant, and of an interleaved one once for each segment and period; there, where an
        endpoint has no unit, each prediction is one. Elsewhere rows without a unit do not count:
        nobody was assigned.

        Args:
            fields: of the request, by whose values units shall be told apart.

        Returns:
            columns ``unit``, ``variant``, ``at_us`` (Unix microseconds), ``period`` (of an
            interleaved rollout, else 0) and for each field its value as text, ``f0``, ``f1`` …
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
        if kept is not None and kept.fields != tuple(fields):
            kept = None
        fresh = self._fresh(table, snapshot, kept, underway)
        found = self._reduced(_of_layer(fresh, underway), kept, underway, fields)
        with self._lock:
            self._kept[underway.id] = _Kept(found, extent, tuple(fields), underway.started_at)
            while len(self._kept) > _MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
        return found

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
        self, fresh: pa.Table, kept: _Kept | None, underway: Underway, fields: Sequence[str]
    ) -> pa.Table:
        rollout = underway.rollout
        names = ", ".join(f"f{place}" for place in range(len(fields)))
        comma = ", " if fields else ""
        # Names of fields are the declarer's: they go as parameters, never as text.
        told = ", ".join(
            f"coalesce(json_extract_string(fields, $field{n}), '') AS f{n}"
            for n in range(len(fields))
        )
        whole = rollout.how in (RolloutKind.SHADOW, RolloutKind.INTERLEAVED)
        unit = "coalesce(unit, prediction_id)" if whole else "unit"
        period = "0::BIGINT"
        by = ["unit", "period"]
        if rollout.how is RolloutKind.INTERLEAVED:
            length = max(int(rollout.period.total_seconds() * 1e6), 1)
            period = f"(epoch_us(requested_at) // {length})::BIGINT"
            by += ["f0"]
        if rollout.how is RolloutKind.SHADOW:
            by += ["variant"]
        old = f" UNION ALL SELECT unit, variant, at_us, period{comma}{names} FROM rollout_kept"
        rest = [one for one in ("variant", *names.split(", ")) if one and one not in by]
        # Of two rows at one instant the lesser variant is taken, so that order never matters.
        first = ", ".join(f"arg_min({one}, (at_us, variant)) AS {one}" for one in rest)
        sql = f"""
            SELECT {", ".join(by)}, min(at_us) AS at_us{", " if first else ""}{first} FROM (
                SELECT {unit} AS unit, variant,
                       epoch_us(requested_at)::BIGINT AS at_us, {period} AS period{comma}{told}
                FROM rollout_fresh
                WHERE release = $release AND requested_at >= $since
                  AND list_contains($variants, variant) AND {unit} IS NOT NULL
                {old if kept is not None else ""}
            ) GROUP BY {", ".join(by)}
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


def _of_layer(rows: pa.Table, underway: Underway) -> pa.Table:
    """The rows of units that lie in the rollout's stretch of its layer.

    All others meet the champion here, and may meet a challenger of another rollout of the layer
    elsewhere: they are no champion's units to compare with. Rows without a unit stay.
    """
    layer = underway.rollout.layer
    if layer is None:
        return rows
    import pyarrow.compute as pc

    salt, own = layer_salt(layer), Stretch(underway.low, underway.high)
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
