"""Kept sketches: one for each endpoint, model version, variant and minute of the prediction log.

They are made when logged rows are moved into the lake, from each segment once: which segments
are in is recorded in the transaction that adds their rows. Minutes become hours after two days
and hours become days after ninety, by addition, so that what is kept of an endpoint stays
small. A window is told from the stretches that begin inside it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sqlalchemy import delete, select, update

from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.kernel.errors import Corrupt, NotFound, Unavailable
from falaj.kernel.insertion import insert_if_absent
from falaj.kernel.telemetry import logger
from falaj.monitoring.sketches import Bins, Reals, Sketch, put_together, unpacked
from falaj.monitoring.tables import sketch_rows, sketched_segments

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import Connection

MINUTE, HOUR, DAY = 60, 3_600, 86_400
MINUTES_KEPT = timedelta(days=2)
HOURS_KEPT = timedelta(days=90)
SEGMENTS_KEPT = timedelta(days=7)
"""How long it is remembered that a segment is in; it is deleted right behind."""
_ROLLED_AT_ONCE = 2_000
_ATTEMPTS = 5
_log = logger(__name__)

_BEHIND = "~"
"""Before the name of a variant that ran as a shadow: what it said has sketches of its own. No
variant's name begins so, and the longest name has room for it."""
_ANSWERED = sketch_rows.c.variant.not_like(f"{_BEHIND}%")

BinsOf = Callable[[str, int], Bins]
"""The bins of a model's version; raises NotFound or Corrupt."""


class Key(NamedTuple):
    """What one kept sketch is of."""

    endpoint: str
    model: str
    version: int
    variant: str
    starts_at: datetime
    seconds: int
    """How long a stretch it covers."""


class KeptSketches:
    """Makes, keeps, rolls up and reads sketches.

    Args:
        database: where they are kept.
        bins_of: the frozen bins of a model version.
        clock: tells how old they are.
    """

    def __init__(self, database: Database, bins_of: BinsOf, clock: Clock) -> None:
        self._database = database
        self._bins_of = lru_cache(200)(bins_of)
        self._clock = clock

    def take(self, segment: str, rows: pa.Table) -> None:
        """Add the rows of a segment of the prediction log, unless it is in already.

        Rows whose features are unknown (the person was erased) are left out; so are those of
        a model version whose bundle cannot be read, which the log tells.

        Args:
            segment: names the rows; the same name is the same rows.
            rows: of the schema of the prediction log.
        """
        if not rows.num_rows:
            return
        found = self._sketched(rows)
        with self._database.transaction() as connection:
            noted = {"segment": segment, "at": self._clock.now()}
            if insert_if_absent(connection, sketched_segments, noted):
                for key, sketch in sorted(found.items()):
                    self._added(connection, key, sketch)

    def take_later(self, segment: str, rows: pa.Table) -> None:
        """``take`` in a thread of its own, for whoever moves rows inside a transaction.

        An erasure does: its transaction is the one writer that SQLite has, so that ``take``
        would wait for it for ever. What a process that is killed meanwhile had still to add
        is missing in the counts.
        """
        threading.Thread(target=self._tried, args=(segment, rows), name="falaj-sketch").start()

    def _tried(self, segment: str, rows: pa.Table) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self.take(segment, rows)
            except Unavailable as error:
                if attempt == _ATTEMPTS:
                    _log.error("rows have no sketch", segment=segment, error=str(error))
            else:
                return

    def window(
        self,
        connection: Connection,
        endpoint: str,
        model: str,
        version: int,
        since: datetime,
        until: datetime,
        *,
        variant: str | None = None,
        shadow: bool = False,
    ) -> Sketch:
        """The sketch of all that was answered in [since, until), to the minute.

        Args:
            variant: what this one answered alone; None for all that answered.
            shadow: what the variant said behind the answers, and nothing else.

        For parts of the window that lie further back it is to the hour or to the day, as
        these are kept: a stretch counts if it begins inside the window.

        Raises:
            NotFound, Corrupt: the bundle cannot be read.
        """
        table = sketch_rows.c
        query = select(table.data).where(
            table.endpoint == endpoint,
            table.model == model,
            table.version == version,
            table.starts_at >= since,
            table.starts_at < until,
        )
        if variant is not None:
            query = query.where(table.variant == (_BEHIND + variant if shadow else variant))
        else:
            query = query.where(_ANSWERED)
        kept = list(connection.execute(query).scalars())
        return put_together(self._bins_of(model, version), kept)

    def score_edges(self, model: str, version: int) -> Reals:
        """The edges of the bins of a version's scores; raises NotFound, Corrupt."""
        return self._bins_of(model, version).score_edges

    def minutes(
        self,
        connection: Connection,
        endpoint: str,
        model: str,
        version: int,
        since: datetime,
        until: datetime,
    ) -> list[tuple[datetime, Sketch]]:
        """The sketch of each minute of [since, until) that is still kept as one, in order.

        Raises:
            NotFound, Corrupt: the bundle cannot be read.
        """
        table = sketch_rows.c
        query = select(table.starts_at, table.data).where(
            table.endpoint == endpoint,
            table.model == model,
            table.version == version,
            table.seconds == MINUTE,
            table.starts_at >= since,
            table.starts_at < until,
            _ANSWERED,
        )
        bins = self._bins_of(model, version)
        found: dict[datetime, list[bytes]] = {}
        for row in connection.execute(query.order_by(table.starts_at)):
            found.setdefault(row.starts_at, []).append(row.data)
        return [(at, put_together(bins, kept)) for at, kept in found.items()]

    def roll_up(self) -> int:
        """Put old minutes together as hours, and old hours as days; returns how many went.

        Work of a bounded size; call it again until it returns 0.
        """
        now, n = self._clock.now(), 0
        for seconds, longer, kept in ((MINUTE, HOUR, MINUTES_KEPT), (HOUR, DAY, HOURS_KEPT)):
            with self._database.transaction() as connection:
                n += self._rolled(connection, seconds, longer, now - kept)
        with self._database.transaction() as connection:
            old = sketched_segments.c.at < now - SEGMENTS_KEPT
            connection.execute(delete(sketched_segments).where(old))
        return n

    def _sketched(self, rows: pa.Table) -> dict[Key, Sketch]:
        rows = rows.filter(rows.column("features").is_valid()).combine_chunks()
        if not rows.num_rows:
            return {}
        minutes = rows.column("predicted_for").cast("int64").to_numpy() // (MINUTE * 1_000_000)
        named = [rows.column(name) for name in ("endpoint", "model", "version")]
        columns = [one.combine_chunks().dictionary_encode() for one in (*named, _variants(rows))]
        places = np.column_stack([*(one.indices.to_numpy() for one in columns), minutes])
        groups, group_of = np.unique(places, axis=0, return_inverse=True)
        scores = rows.column("score").to_numpy()
        found: dict[Key, Sketch] = {}
        for number, group in enumerate(groups):
            words = [
                one.dictionary[int(place)].as_py()
                for one, place in zip(columns, group[:-1], strict=True)
            ]
            starts_at = datetime.fromtimestamp(int(group[-1]) * MINUTE, UTC)
            endpoint, model, version, variant = words
            key = Key(endpoint, model, version, variant, starts_at, MINUTE)
            chosen = np.flatnonzero(group_of.reshape(-1) == number)
            sketch = self._made(key, rows.column("features").take(chosen), scores[chosen])
            if sketch is not None:
                found[key] = sketch
        return found

    def _made(self, key: Key, features: Any, scores: Any) -> Sketch | None:
        try:
            bins = self._bins_of(key.model, key.version)
        except (NotFound, Corrupt) as error:
            _log.error(
                "rows of the prediction log have no sketch",
                model=key.model, version=key.version, rows=len(scores), error=str(error),
            )  # fmt: skip
            return None
        matrix = features.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        matrix = np.asarray(matrix, dtype=np.float32).reshape(len(scores), -1)
        return Sketch.of(bins, matrix, np.asarray(scores, dtype=np.float64))

    def _added(self, connection: Connection, key: Key, sketch: Sketch) -> None:
        """Add to what is kept; whoever adds to the same stretch meanwhile is waited for."""
        values = {**key._asdict(), "n": sketch.n, "data": sketch.packed()}
        this = [sketch_rows.c[name] == value for name, value in key._asdict().items()]
        query = select(sketch_rows.c.data).where(*this).with_for_update()
        kept = None
        while kept is None:  # who is waited for may have rolled the row up and deleted it
            if insert_if_absent(connection, sketch_rows, values):
                return
            kept = connection.execute(query).scalar_one_or_none()
        both = unpacked(kept) + sketch
        connection.execute(update(sketch_rows).where(*this).values(n=both.n, data=both.packed()))

    def _rolled(self, connection: Connection, seconds: int, longer: int, before: datetime) -> int:
        edge = datetime.fromtimestamp(int(before.timestamp()) // longer * longer, UTC)
        table = sketch_rows.c
        old = (table.seconds == seconds, table.starts_at < edge)
        query = select(sketch_rows).where(*old).order_by(table.starts_at).with_for_update()
        rows = list(connection.execute(query.limit(_ROLLED_AT_ONCE)))
        groups: dict[Key, list[Any]] = {}
        for row in rows:
            start = int(row.starts_at.timestamp()) // longer * longer
            at = datetime.fromtimestamp(start, UTC)
            key = Key(row.endpoint, row.model, row.version, row.variant, at, longer)
            groups.setdefault(key, []).append(row)
        for key, parts in groups.items():
            sketches = [unpacked(part.data) for part in parts]
            whole = sketches[0]
            for one in sketches[1:]:
                whole += one
            for part in parts:
                same = [table[name] == getattr(part, name) for name in Key._fields]
                connection.execute(delete(sketch_rows).where(*same))
            self._added(connection, key, whole)
        return len(rows)


def _variants(rows: pa.Table) -> Any:
    """The variant of each row as its sketch is named by."""
    import pyarrow as pa
    import pyarrow.compute as pc

    variants = rows.column("variant")
    behind = pc.binary_join_element_wise(pa.scalar(_BEHIND), variants, "")
    return pc.if_else(rows.column("shadow").fill_null(False), behind, variants)
