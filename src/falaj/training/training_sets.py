"""Training sets: a spine joined with features, split by time, pinned, and made again.

The rows are ordered by time and then by all columns of the spine, so that the same data
gives the same bytes in whatever order the lake hands them out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from sqlalchemy import insert, select

from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.training.content import canonical, content_hash
from falaj.training.encoding import as_labels, instants
from falaj.training.model import (
    TEST,
    TRAIN,
    VALIDATION,
    Recreation,
    TimeSplit,
    TrainingSet,
    TrainingSetSpec,
)
from falaj.training.tables import training_set_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.lake.ports import Lake
    from falaj.training.ports import DefinitionPins, FeatureFrames

PARTS = (TRAIN, VALIDATION, TEST)
ROW_NUMBER, SPLIT = "row_number", "split"


@dataclass(frozen=True)
class Pinned:
    """What a spec stands on: definitions with fingerprints, and inputs within the spine."""

    definitions: Mapping[str, str]
    request_fields: tuple[str, ...] = ()


class TrainingSets:
    """Builds, pins, reads and re-creates training sets.

    ``build`` and ``recreate`` do the heavy work and touch no database; ``record`` is the
    short transaction after it. ``settle`` brings what was pushed for a feature service into
    the lake.
    """

    def __init__(
        self,
        lake: Lake,
        frames: FeatureFrames,
        pins: DefinitionPins,
        catalog: Catalog,
        settle: Callable[[str], None] = lambda _service: None,
    ) -> None:
        self._lake = lake
        self._settle = settle
        self._frames = frames
        self._pins = pins
        self._catalog = catalog

    def pinned(self, connection: Connection, spec: TrainingSetSpec) -> Pinned:
        """What the spec stands on now; raises NotFound without its feature service."""
        service = spec.feature_service
        return Pinned(
            definitions=self._pins.pins(connection, service),
            request_fields=self._pins.request_fields(connection, service),
        )

    def build(
        self,
        spec: TrainingSetSpec,
        *,
        set_id: str,
        pinned: Pinned,
        created_by: str,
    ) -> TrainingSet:
        """Make the rows and write them to the lake; a repeat with the same id writes them anew.

        Args:
            set_id: a new id (``ts_…``).
            pinned: what ``pinned`` said.

        Raises:
            InvalidInput: a column is missing or has the wrong type, or a part has no rows.
            NotFound: there is no such table or feature service.
        """
        self._settle(spec.feature_service)
        snapshot = self._lake.latest()
        spine, left_out = self._spine(spec, snapshot)
        frame, features = self._frame(spec, spine, pinned.request_fields, snapshot)
        table = f"training_set_{set_id.removeprefix('ts_')}"
        written = self._lake.replace(table, frame)
        labels = as_labels(frame.column(spec.label), spec.label)
        parts = np.asarray(frame.column(SPLIT).to_pylist(), dtype=object)
        return TrainingSet(
            id=set_id,
            table=table,
            spec=spec,
            features=features,
            spine_snapshot=snapshot,
            snapshot=written.id,
            spine_hash=content_hash(spine),
            content_hash=content_hash(frame),
            definitions=dict(pinned.definitions),
            n_rows={part: int((parts == part).sum()) for part in PARTS} | left_out,
            positive_rate={
                part: float(labels[parts == part].mean()) for part in PARTS if (parts == part).any()
            },
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
        )
        self._catalog.record(
            call,
            ref,
            classification=classification,
            description=f"{sum(made.n_rows[part] for part in PARTS)} rows for "
            f"{made.spec.label} by {made.spec.feature_service}",
            owner=made.created_by,
            attributes={
                "table": made.table,
                "snapshot": made.spine_snapshot,
                "content_hash": made.content_hash,
            },
        )
        service, *tables = self.read_by(made.spec)
        for table in tables:
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
        """
        columns = list(self._lake.schema(made.table, made.snapshot).names)
        rows = self._lake.scan(
            made.table, columns=columns, order_by=[ROW_NUMBER], snapshot=made.snapshot
        )
        found = content_hash(rows)
        if found != made.content_hash:
            raise Corrupt(
                f"The rows of the training set {made.id} are not those that were pinned.",
                hint="Make a new training set, and find out who changed its table.",
                expected=made.content_hash,
                found=found,
            )
        return rows

    def recreate(self, made: TrainingSet, pinned: Pinned) -> Recreation:
        """Make the rows again from the pinned snapshot and say whether they are the same.

        Args:
            pinned: what ``pinned`` says now; a difference explains different rows.
        """
        spine, left_out = self._spine(made.spec, made.spine_snapshot)
        frame, _ = self._frame(made.spec, spine, pinned.request_fields, made.spine_snapshot)
        found = content_hash(frame)
        now = pinned.definitions
        names = sorted({*now, *made.definitions})
        parts = frame.column(SPLIT).to_pylist()
        return Recreation(
            training_set=made.id,
            identical=found == made.content_hash,
            content_hash=made.content_hash,
            recreated_hash=found,
            changed_definitions=tuple(
                name for name in names if now.get(name) != made.definitions.get(name)
            ),
            n_rows={part: parts.count(part) for part in PARTS} | left_out,
        )

    def _spine(self, spec: TrainingSetSpec, snapshot: int) -> tuple[pa.Table, dict[str, int]]:
        """The ordered spine with its ``split`` column, and counts of the rows left out."""
        if spec.spine is not None:
            spine = self._lake.scan(spec.spine, snapshot=snapshot)
        else:
            spine = self._lake.query(spec.spine_query or "", snapshot=snapshot)
        _check_columns(spine, spec)
        spine = canonical(spine)
        labels = as_labels(spine.column(spec.label), spec.label)
        at = instants(spine.column(spec.timestamp), spec.timestamp)
        split = _split(at, spec.split)
        known = ~np.isnan(labels)
        inside = split != ""
        spine = spine.append_column(SPLIT, pa.array(split, pa.string()))
        kept = spine.filter(pa.array(known & inside))
        others = [name for name in kept.column_names if name != spec.timestamp]
        kept = kept.sort_by([(name, "ascending") for name in (spec.timestamp, *others)])
        left_out = {
            "without_label": int((~known).sum()),
            "outside": int((known & ~inside).sum()),
        }
        for part in PARTS[:2]:
            if not (split[known] == part).any():
                raise InvalidInput(
                    f"No row of the spine with a label falls into the {part} part.",
                    hint="Check the boundaries of the split and the timestamps of the spine.",
                    **left_out,
                )
        return kept.combine_chunks(), left_out

    def _frame(
        self,
        spec: TrainingSetSpec,
        spine: pa.Table,
        request_fields: Sequence[str],
        snapshot: int,
    ) -> tuple[pa.Table, tuple[str, ...]]:
        asked = spine.drop_columns([SPLIT, spec.label])  # features never see the answer
        frame = self._frames.training_frame(
            asked,
            spec.feature_service,
            timestamp=spec.timestamp,
            knowledge=spec.knowledge,
            snapshot=snapshot,
        )
        if frame.num_rows != spine.num_rows:
            raise Corrupt(
                f"The feature store answered {frame.num_rows} rows to a spine of {spine.num_rows}.",
                hint="Tell the maintainers; nothing was written.",
            )
        joined = [name for name in frame.column_names if name not in asked.column_names]
        clash = {SPLIT, ROW_NUMBER, spec.label} & set(joined)
        if clash:
            raise InvalidInput(
                f"A feature is called {sorted(clash)[0]!r}, which a training set needs itself.",
                hint="Rename the feature or the label.",
            )
        result = spine
        inputs = [name for name in request_fields if name in asked.column_names]
        for name in inputs:  # as the feature store reads them
            place = result.schema.get_field_index(name)
            result = result.set_column(place, name, frame.column(name))
        for name in joined:
            result = result.append_column(name, frame.column(name))
        result = result.append_column(ROW_NUMBER, pa.array(np.arange(len(spine)), pa.int64()))
        result = canonical(result)
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
        if spec.spine is not None:
            return [spec.spine]
        # Names in SQL have no case. A word too many only asks for one table too many.
        words = set(re.findall(r"[a-z][a-z0-9_]*", (spec.spine_query or "").lower()))
        return [table for table in self._lake.tables() if table in words]

    def _link(self, call: Call, source: AssetRef, target: AssetRef, relation: Relation) -> None:
        if not self._catalog.exists(call.connection, source):
            self._catalog.record(call, source)  # a table that was written past the catalogue
        self._catalog.link(call, source, target, relation)


def part_of(rows: pa.Table, part: str) -> pa.Table:
    """The rows of one part: train, validation or test."""
    import pyarrow.compute as pc

    return rows.filter(pc.equal(rows.column(SPLIT), part))


def _check_columns(spine: pa.Table, spec: TrainingSetSpec) -> None:
    for name in (spec.timestamp, spec.label):
        if name not in spine.column_names:
            raise InvalidInput(
                f"The spine has no column {name!r}.",
                hint=f"It has: {', '.join(spine.column_names)}.",
            )
    for name in (SPLIT, ROW_NUMBER):
        if name in spine.column_names:
            raise InvalidInput(
                f"The spine has a column {name!r}, which a training set needs itself.",
                hint="Rename it.",
            )
    if spine.num_rows == 0:
        raise InvalidInput("The spine is empty.", hint="Check its table or query.")


def _split(at: Any, split: TimeSplit) -> Any:
    """The part of each instant (microseconds), or an empty text outside of all."""
    parts = np.full(at.shape, "", dtype=object)
    test = microseconds(split.validation_until)
    validation = microseconds(split.train_until)
    parts[at < validation] = TRAIN
    parts[(at >= validation) & (at < test)] = VALIDATION
    parts[at >= test] = TEST
    if split.train_from is not None:
        parts[at < microseconds(split.train_from)] = ""
    if split.test_until is not None:
        parts[at >= microseconds(split.test_until)] = ""
    return parts
