"""Training sets: a spine joined with features, pinned, and made again.

The features are joined batch by batch, and each batch goes into the lake before the next
one is made: a set may be larger than memory. All of a set is written in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlalchemy import insert, select

from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.lake.content import ContentHash, canonical, content_hash
from falaj.lake.personal import n_erasures, record_rule, refuse_erased, refuse_erased_since
from falaj.training.encoding import as_labels, instants
from falaj.training.model import TEST, Recreation, TimeSplit, TrainingSet, TrainingSetSpec
from falaj.training.personal import rule_of_set
from falaj.training.ports import Pinned, Report, untold
from falaj.training.setorigins import set_origins, spine_origins
from falaj.training.spines import (
    OWN_COLUMNS,
    PARTS,
    ROW_NUMBER,
    SPLIT,
    Spine,
    batches,
    counted,
    split_rows,
    written_query,
)
from falaj.training.tables import training_set_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.features.plan import ServicePlan
    from falaj.kernel.call import Call
    from falaj.lake.ports import Lake
    from falaj.training.ports import DefinitionPins, FeatureFrames

ROWS_PER_BATCH = 200_000
"""How many rows are joined at a time."""


@dataclass
class _Made:
    """What is learned of a set while its rows flow by."""

    spine: ContentHash = field(default_factory=ContentHash)
    frame: ContentHash = field(default_factory=ContentHash)
    features: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Joining:
    """From what features are joined: definitions, a snapshot of the lake, foreign tables."""

    spec: TrainingSetSpec
    pinned: Pinned
    snapshot: int
    foreign: Mapping[str, str]


class TrainingSets:
    """Builds, pins, reads and re-creates training sets.

    ``build`` and ``recreate`` do the heavy work and touch no database; ``record`` is the
    short transaction after it.

    Args:
        rows_per_batch: how many rows are joined at a time.
        settle: brings what was pushed for a feature service into the lake.
        foreign_pins: tells the version of each foreign table that a service takes from.
    """

    def __init__(
        self,
        lake: Lake,
        frames: FeatureFrames,
        pins: DefinitionPins,
        catalog: Catalog,
        *,
        rows_per_batch: int = ROWS_PER_BATCH,
        settle: Callable[[str], None] = lambda _service: None,
        foreign_pins: Callable[[str | ServicePlan], Mapping[str, str]] = lambda _service: {},
    ) -> None:
        self._lake = lake
        self._frames = frames
        self._pins = pins
        self._catalog = catalog
        self._rows_per_batch = rows_per_batch
        self._settle = settle
        self._foreign_pins = foreign_pins

    def pinned(self, connection: Connection, spec: TrainingSetSpec) -> Pinned:
        """What the spec stands on now; raises NotFound without its feature service."""
        return self._pins.pins(connection, spec.feature_service)

    def pinned_then(self, connection: Connection, made: TrainingSet) -> Pinned:
        """What a set stood on when it was made; raises NotFound if that is not known here."""
        service = made.spec.feature_service
        return self._pins.pinned(connection, service, made.versions, made.definitions)

    def build(
        self,
        spec: TrainingSetSpec,
        *,
        set_id: str,
        pinned: Pinned,
        created_by: str,
        purpose: str | None = None,
        report: Report = untold,
    ) -> TrainingSet:
        """Make the rows and write them to the lake; a repeat with the same id writes them anew.

        Args:
            set_id: a new id (``ts_…``).
            pinned: what ``pinned`` said.
            purpose: what the set is for; the caller has checked that it is permitted.
            report: told of progress; what it raises undoes the write.

        Raises:
            InvalidInput: a column is missing or has the wrong type, or a part has no rows.
            NotFound: there is no such table or feature service.
            ErasedWhileCopied: somebody was erased meanwhile; nothing was written.
        """
        self._settle(spec.feature_service)
        n_erased = n_erasures(self._lake)
        snapshot = self._lake.latest()
        spine = Spine(tuple((table, snapshot) for table in spec.tables), spec.spine_query, snapshot)
        origins = spine_origins(self._lake, spec, snapshot)
        spine = written_query(self._lake, spec, spine)
        rows, left_out = self._split(spec, spine)
        joining = _Joining(spec, pinned, snapshot, self._foreign_pins(pinned.service))
        learned = [_Made()]
        columns = self._warm(joining, spine, rows)
        table = f"training_set_{set_id.removeprefix('ts_')}"
        answered = [] if rows is None else [name for name in rows.column_names if name != SPLIT]
        rule = rule_of_set(self._lake, table, spine, pinned.service, columns, answered=answered)
        if rule is not None:
            record_rule(self._lake, rule)

        def flow() -> Iterator[pa.Table]:
            learned[0] = _Made()  # the engine may ask for the rows a second time
            yield from self._flow(joining, spine, rows, learned[0], report)
            refuse_erased_since(self._lake, n_erased)

        written = self._lake.replace_in_batches(table, flow)
        return TrainingSet(
            id=set_id,
            table=table,
            spec=spec,
            features=learned[0].features,
            columns=learned[0].columns,
            spine_snapshot=snapshot,
            spine_tables=dict(spine.tables),
            snapshot=written.id,
            spine_hash=learned[0].spine.digest(),
            content_hash=learned[0].frame.digest(),
            definitions=dict(pinned.definitions),
            versions=dict(pinned.versions),
            purpose=purpose,
            permitted_purposes=pinned.purposes,
            foreign=dict(joining.foreign),
            origins=set_origins(learned[0].columns, origins, pinned),
            n_rows=_n_rows(rows, learned[0].frame.n_rows) | left_out,
            positive_rate=_positive_rate(spec, rows),
            known_until=_known_until(spec, rows),
            created_at=written.at,
            created_by=created_by,
        )

    def record(self, call: Call, made: TrainingSet) -> TrainingSet:
        """Keep a built set in the database and the catalogue; a repeat changes nothing."""
        known = select(training_set_rows.c.id).where(training_set_rows.c.id == made.id)
        if call.connection.execute(known).first() is not None:
            return self.get(call.connection, made.id)
        call.connection.execute(
            insert(training_set_rows).values(
                id=made.id,
                table_name=made.table,
                feature_service=made.spec.feature_service,
                created_at=made.created_at,
                created_by=made.created_by,
                content_hash=made.content_hash,
                document=made.model_dump(mode="json"),
            )
        )
        ref = AssetRef("training_set", made.id)
        classification = self._most_secret(call, made.spec)
        self._catalog.record(
            call,
            AssetRef("table", made.table),
            description=f"The rows of the training set {made.id}.",
            owner=made.created_by,
            classification=classification,
            origins=made.origins,
        )
        self._catalog.record(
            call,
            ref,
            classification=classification,
            description=_told(made),
            owner=made.created_by,
            attributes={
                "table": made.table,
                "snapshot": made.spine_snapshot,
                "content_hash": made.content_hash,
                "purpose": made.purpose,
            },
        )
        service, *tables = self.read_by(made.spec)
        own = [AssetRef("table", table) for table in made.spine_tables if table.startswith("rows_")]
        for table in own:  # rows that were handed over, or that a query gave: as secret as the set
            self._catalog.record(
                call,
                table,
                owner=made.created_by,
                classification=classification,
                origins=made.origins if made.spec.spine_query is not None else None,
            )
        for table in dict.fromkeys([*tables, *own]):
            self._link(call, table, ref, Relation.FEEDS)
        self._link(call, service, ref, Relation.DEFINES)
        call.emit("training_set.created", training_set=made.id)
        return made

    def get(self, connection: Connection, set_id: str) -> TrainingSet:
        """One training set; raises NotFound."""
        row = connection.execute(
            select(training_set_rows.c.document).where(training_set_rows.c.id == set_id)
        ).first()
        if row is None:
            raise NotFound(
                f"There is no training set {set_id!r}.", hint="`falaj training sets` shows all."
            )
        return TrainingSet.model_validate(row.document)

    def listed(self, connection: Connection, *, limit: int = 100) -> list[TrainingSet]:
        """The newest first."""
        rows = connection.execute(
            select(training_set_rows.c.document)
            .order_by(training_set_rows.c.created_at.desc(), training_set_rows.c.id.desc())
            .limit(limit)
        )
        return [TrainingSet.model_validate(row.document) for row in rows]

    def load(self, made: TrainingSet) -> pa.Table:
        """All rows in their order.

        Raises:
            Corrupt: they are not the rows that were pinned.
            SubjectsErased: somebody in it was erased.
        """
        columns = list(self._lake.schema(made.table, made.snapshot).names)
        rows = self._lake.scan(
            made.table, columns=columns, order_by=[ROW_NUMBER], snapshot=made.snapshot
        )
        found = content_hash(rows)
        if found != made.content_hash:
            refuse_erased(self._lake, f"training set {made.id}", [(made.table, made.snapshot)])
            raise Corrupt(
                f"The rows of the training set {made.id} are not those that were pinned.",
                hint="Make a new training set, and find out who changed its table.",
                expected=made.content_hash,
                found=found,
            )
        return rows

    def rows(self, made: TrainingSet, first: int, limit: int) -> pa.Table:
        """Some rows from number ``first`` on, in order, with all columns as they are pinned."""
        return self._lake.scan(
            made.table,
            where=f"{ROW_NUMBER} >= $first AND {ROW_NUMBER} < $end",
            parameters={"first": first, "end": first + limit},
            order_by=[ROW_NUMBER],
            snapshot=made.snapshot,
        )

    def recreate(
        self, made: TrainingSet, then: Pinned, now: Pinned, *, report: Report = untold
    ) -> Recreation:
        """Make the rows again, from the pinned definitions and the pinned snapshot, and say
        whether they are the same.

        Args:
            then: what ``pinned_then`` says.
            now: what ``pinned`` says; it is not used, but for telling what has changed.

        Raises:
            NotFound: the pinned snapshot has been expired.
            SubjectsErased: somebody in it was erased: it cannot be the same again.
        """
        spec, learned = made.spec, _Made()
        spine = self._spine_of(made)
        refuse_erased(
            self._lake, f"training set {made.id}", [(made.table, made.snapshot), *spine.tables]
        )
        rows, left_out = self._split(spec, spine)
        joining = _Joining(spec, then, made.spine_snapshot, made.foreign)
        for _ in self._flow(joining, spine, rows, learned, report):
            pass  # each batch is hashed as it flows by
        found = learned.frame.digest()
        names = sorted({*now.definitions, *made.definitions})
        return Recreation(
            training_set=made.id,
            identical=found == made.content_hash,
            content_hash=made.content_hash,
            recreated_hash=found,
            changed_definitions=tuple(
                name for name in names if now.definitions.get(name) != made.definitions.get(name)
            ),
            n_rows=_n_rows(rows, learned.frame.n_rows) | left_out,
        )

    def _spine_of(self, made: TrainingSet) -> Spine:
        """The spine of a set that was made, as it was read then."""
        if made.spine_tables:
            return Spine(tuple(made.spine_tables.items()), None, made.spine_snapshot)
        tables = tuple((table, made.spine_snapshot) for table in made.spec.tables)
        return Spine(tables, made.spec.spine_query, made.spine_snapshot)

    def _split(self, spec: TrainingSetSpec, spine: Spine) -> tuple[pa.Table | None, dict[str, int]]:
        if spec.split is None:
            return None, {}
        return split_rows(self._lake, spec, spine, spec.split)

    def _spine_batches(
        self, spec: TrainingSetSpec, spine: Spine, rows: pa.Table | None
    ) -> Iterator[pa.Table]:
        if rows is None:
            yield from batches(self._lake, spec, spine, self._rows_per_batch)
            return
        for start in range(0, len(rows), self._rows_per_batch):
            yield rows.slice(start, self._rows_per_batch)

    def _warm(self, joining: _Joining, spine: Spine, rows: pa.Table | None) -> list[str]:
        """Join one row, so that indexes are made before other writers of the lake wait.

        Returns the columns that the set is going to have.
        """
        first = next(self._spine_batches(joining.spec, spine, rows)).slice(0, 1)
        return list(self._joined(joining, first, 0)[0].column_names)

    def _flow(
        self,
        joining: _Joining,
        spine: Spine,
        rows: pa.Table | None,
        learned: _Made,
        report: Report,
    ) -> Iterator[pa.Table]:
        """The rows of the set, batch by batch; ``learned`` is brought up to date before each."""
        total = (
            len(rows)
            if rows is not None
            else sum(self._lake.count(table, snapshot) for table, snapshot in spine.tables)
        )
        for batch in self._spine_batches(joining.spec, spine, rows):
            done = learned.frame.n_rows
            report(done / max(total, 1), f"joined {done:,} of {total:,} rows")
            frame, features = self._joined(joining, batch, done)
            learned.spine.update(batch)
            learned.frame.update(frame)
            learned.features = features
            learned.columns = tuple(name for name in frame.column_names if name != ROW_NUMBER)
            yield frame

    def _joined(
        self, joining: _Joining, spine: pa.Table, first: int
    ) -> tuple[pa.Table, tuple[str, ...]]:
        """One batch of the spine with its features, and their names."""
        spec, pinned = joining.spec, joining.pinned
        hidden = [name for name in (SPLIT, spec.label) if name in spine.column_names]
        asked = spine.drop_columns(hidden)  # features never see the answer
        frame = self._frames.training_frame(
            asked,
            pinned.service,
            timestamp=spec.timestamp,
            knowledge=spec.knowledge,
            snapshot=joining.snapshot,
            pins=joining.foreign,
        )
        if frame.num_rows != spine.num_rows:
            raise Corrupt(
                f"The feature store answered {frame.num_rows} rows to a spine of {spine.num_rows}.",
                hint="Tell the maintainers; nothing was written.",
            )
        joined = [name for name in frame.column_names if name not in asked.column_names]
        clash = {*OWN_COLUMNS, spec.label} & set(joined)
        if clash:
            raise InvalidInput(
                f"A feature is called {sorted(map(str, clash))[0]!r}, which a training set needs"
                " itself.",
                hint="Rename the feature or the label.",
            )
        result = spine
        inputs = [name for name in pinned.request_fields if name in asked.column_names]
        for name in inputs:  # as the feature store reads them
            place = result.schema.get_field_index(name)
            result = result.set_column(place, name, frame.column(name))
        for name in joined:
            result = result.append_column(name, frame.column(name))
        numbers = np.arange(first, first + len(spine))
        result = canonical(result.append_column(ROW_NUMBER, pa.array(numbers, pa.int64())))
        features = tuple(
            name
            for name in (*inputs, *joined)
            if not pa.types.is_timestamp(result.schema.field(name).type)
        )
        if not features:
            raise InvalidInput(
                f"The feature service {spec.feature_service!r} gave no features.",
                hint="Add views to it.",
            )
        return result, features

    def read_by(self, spec: TrainingSetSpec) -> list[AssetRef]:
        """What a training set is made of: its feature service, then the tables of its spine."""
        tables = [AssetRef("table", table) for table in self._tables(spec)]
        return [AssetRef("feature_service", spec.feature_service), *tables]

    def _most_secret(self, call: Call, spec: TrainingSetSpec) -> Classification | None:
        """The highest classification of what a training set is made of."""
        known = [
            found
            for ref in self.read_by(spec)
            if self._catalog.exists(call.connection, ref)
            and (found := self._catalog.get(call.connection, ref).classification) is not None
        ]
        return max(known, key=lambda one: one.level, default=None)

    def _tables(self, spec: TrainingSetSpec) -> list[str]:
        if spec.tables:
            return list(spec.tables)
        # Names in SQL have no case. A word too many only asks for one table too many.
        words = set(re.findall(r"[a-z][a-z0-9_]*", (spec.spine_query or "").lower()))
        return [table for table in self._lake.tables() if table in words]

    def _link(self, call: Call, source: AssetRef, target: AssetRef, relation: Relation) -> None:
        if not self._catalog.exists(call.connection, source):
            self._catalog.record(call, source)  # a table that was written past the catalogue
        self._catalog.link(call, source, target, relation)


def unseen(made: TrainingSet, rows: pa.Table, of: TrainingSet) -> npt.NDArray[np.bool_]:
    """True for test rows that no model of a set can have learned from.

    Of a set that is split by time, those after its split; of another, those after its latest
    train or validation row, and its own test rows.

    Args:
        made: the set that the model learned from.
        rows: test rows.
        of: the set that they are of.
    """
    at = instants(rows.column(of.spec.timestamp), of.spec.timestamp)
    _, split = made.trainable()
    if isinstance(split, TimeSplit):
        return np.asarray(at >= microseconds(split.validation_until), dtype=np.bool_)
    if made.id == of.id:
        return np.ones(at.shape, dtype=np.bool_)
    if made.known_until is None:
        return np.zeros(at.shape, dtype=np.bool_)
    return np.asarray(at > microseconds(made.known_until), dtype=np.bool_)


def part_of(rows: pa.Table, part: str) -> pa.Table:
    """The rows of one part: train, validation or test."""
    import pyarrow.compute as pc

    return rows.filter(pc.equal(rows.column(SPLIT), part))


def _told(made: TrainingSet) -> str:
    about = f"{made.spec.label} by " if made.spec.label else ""
    return f"{counted(made.n_rows)} rows for {about}{made.spec.feature_service}"


def _n_rows(rows: pa.Table | None, n_all: int) -> dict[str, int]:
    if rows is None:
        return {"all": n_all}
    parts = rows.column(SPLIT).to_pylist()
    return {part: parts.count(part) for part in PARTS}


def _positive_rate(spec: TrainingSetSpec, rows: pa.Table | None) -> Mapping[str, float]:
    if rows is None or spec.label is None or spec.task != "binary":
        return {}
    labels = as_labels(rows.column(spec.label), spec.label)
    parts = np.asarray(rows.column(SPLIT).to_pylist(), dtype=object)
    return {part: float(labels[parts == part].mean()) for part in PARTS if (parts == part).any()}


def _known_until(spec: TrainingSetSpec, rows: pa.Table | None) -> datetime | None:
    if rows is None:
        return None
    at = instants(rows.column(spec.timestamp), spec.timestamp)
    parts = np.asarray(rows.column(SPLIT).to_pylist(), dtype=object)
    known = int(at[parts != TEST].max())
    return from_microseconds(known)
