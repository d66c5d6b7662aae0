"""The feature store: one definition, read for training and for serving.

Offline it reads source tables of the lake; online it keeps an ``OnlineStore`` up to date
by ``push`` and ``materialize``. Nothing here asks who may do it: the service does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from falaj.features.answers import Ack, FeatureItem, Materialized, Pushed
from falaj.features.columns import arrow_type, table_of
from falaj.features.foreign_join import Foreign
from falaj.features.index.indexes import Indexes
from falaj.features.model import (
    Entity,
    FeatureService,
    FeatureView,
    Knowledge,
    OnDemandFeatures,
)
from falaj.features.offline import Offline
from falaj.features.online import OnlineReader
from falaj.features.plan import ServicePlan
from falaj.features.ports import OnlineStore, Secrets, Write
from falaj.features.streams.rebuilding import Rebuilder
from falaj.features.streams.streams import Streams
from falaj.features.vectors import Vectors
from falaj.features.versions import (
    AppliedDefinitions,
    AppliedViews,
    State,
    live_plans,
)
from falaj.features.views import Events, ViewPlan
from falaj.features.viewstorage import ViewStorage, once_mark
from falaj.ingest.ports import EventLog
from falaj.kernel.clock import Clock, microseconds
from falaj.kernel.errors import InvalidInput
from falaj.lake.ports import Lake
from falaj.trust.subjectciphers import SubjectCiphers

Report = Callable[[float, str], None]
"""Is told how far a piece of work is (0 to 1) and what it does; may raise to stop it."""


def untold(share: float, message: str) -> None:
    """A report that nobody hears."""


_ROWS_PER_WRITE = 100_000

__all__ = ["AppliedDefinitions", "FeatureStore", "spine_of"]


_LONGEST_KEY = 1000
"""Characters of the idempotency key of a push."""


def _ack(given: Ack | str) -> Ack:
    if given not in set(Ack):
        raise InvalidInput(f"{given!r} is no acknowledgement.", hint=f"Use {', '.join(Ack)}.")
    return Ack(given)


def _check_key(key: str | None) -> None:
    if key is None:
        return
    if not 0 < len(key) <= _LONGEST_KEY or not key.isprintable():
        raise InvalidInput(
            f"The key of a push has {len(key)} characters, or some that cannot be printed.",
            hint=f"Use 1 to {_LONGEST_KEY} printable characters, such as an identifier.",
        )


class FeatureStore:
    """Computes features offline and keeps them online.

    Args:
        definitions: the applied definitions.
        lake: the source tables.
        online: the latest values and tiles.
        keys: secrets for views that are personal or sensitive.
        clock: tells when a write happens.
        log: where pushed events stand first; without one, each push goes into the lake
            before it is acknowledged.
        locks: a folder for lock files that all processes of the machine share.
        offline: reads the lake for training; by default with indexes held in memory.
        subjects: keys of persons for views that have a subject.
    """

    def __init__(
        self,
        definitions: AppliedViews,
        lake: Lake,
        online: OnlineStore,
        keys: Secrets,
        clock: Clock,
        *,
        log: EventLog | None = None,
        locks: Path | None = None,
        offline: Offline | None = None,
        subjects: SubjectCiphers | None = None,
    ) -> None:
        self.definitions = definitions
        self.lake = lake
        self.online = online
        self.offline = offline or Offline(Indexes(lake), Foreign(definitions, None))
        self._keys = keys
        self._subjects = subjects
        self._clock = clock
        self.streams = Streams(
            definitions,
            lake,
            online,
            self.storage,
            clock,
            log=log,
            locks=locks,
            version=definitions.stamp if isinstance(definitions, AppliedDefinitions) else None,
            subjects=subjects,
        )
        self._readers: dict[tuple[str, ...], OnlineReader] = {}
        self._storages: dict[bytes, ViewStorage] = {}

    # ── plans ────────────────────────────────────────────────────────────────────────

    def plan(self, service: str) -> ServicePlan:
        """A service, compiled from the current definitions; raises NotFound, InvalidInput."""
        found = self.definitions.get(FeatureService.kind, service)
        if not isinstance(found, FeatureService):
            raise InvalidInput(f"{service!r} is not a feature service.")
        return ServicePlan.of(found, self.definitions)

    def view_plan(self, name: str) -> ViewPlan:
        """A view, compiled from the current definitions; raises NotFound, InvalidInput."""
        view = self.definitions.get(FeatureView.kind, name)
        if not isinstance(view, FeatureView):
            raise InvalidInput(f"{name!r} is not a feature view.")
        entity = self.definitions.get(Entity.kind, view.entity)
        if not isinstance(entity, Entity):
            raise InvalidInput(f"{view.entity!r} is not an entity.")
        return ViewPlan.of(view, entity)

    def storage(self, plan: ViewPlan) -> ViewStorage:
        """The view's place in the online store."""
        found = self._storages.get(plan.storage_id)
        if found is None:
            found = self._storages[plan.storage_id] = ViewStorage(plan, self._keys, self._subjects)
        return found

    def reader(self, plan: ServicePlan) -> OnlineReader:
        """A reader of a compiled service, kept while its definitions stay the same."""
        parts = (plan.service, *(use.plan.view for use in plan.views),
                 *(use.definition for use in plan.on_demand), *plan.entities)  # fmt: skip
        key = tuple(part.fingerprint for part in parts)
        if key not in self._readers:
            self._readers[key] = OnlineReader(plan, self.online, self._keys, self._subjects)
        return self._readers[key]

    # ── offline ──────────────────────────────────────────────────────────────────────

    def training_frame(
        self,
        spine: pa.Table,
        service: str | ServicePlan,
        *,
        timestamp: str = "timestamp",
        knowledge: Knowledge | str = Knowledge.RECORDED,
        snapshot: int | None = None,
        pins: Mapping[str, str] | None = None,
    ) -> pa.Table:
        """The spine with the features of a service, as known at each row's instant.

        Args:
            spine: n rows with the entity keys, the request fields and an instant.
            service: the name of a feature service, or its plan.
            timestamp: the spine's column of instants (with a zone; none may be null).
            knowledge: ``recorded`` hides rows that were recorded later than the instant.
            snapshot: the lake snapshot to read; by default the latest.
            pins: the version of each foreign table to read, as ``foreign_pins`` gave it; by
                default the version that is there.

        Returns:
            Exactly one row for each spine row, in order: the spine's columns, then one
            column ``view__feature`` for each feature of the service.

        Raises:
            NotFound: no such service. InvalidInput: a column is not there or of another type.
            ForeignChanged: a foreign table is not what a pin says.
        """
        plan = self.plan(service) if isinstance(service, str) else service
        if snapshot is None:
            self.settle(plan)
        return self.offline.frame(
            spine, plan, timestamp=timestamp, knowledge=knowledge, snapshot=snapshot, pins=pins
        )

    def settle(self, service: str | ServicePlan) -> None:
        """Bring what was pushed to the streams of a service into the lake; quick if nothing was."""
        plan = self.plan(service) if isinstance(service, str) else service
        for table in sorted({use.plan.view.source for use in plan.views}):
            if self.offline.foreign.table(table) is None:
                self.streams.settle(table)

    def foreign_pins(self, service: str | ServicePlan) -> dict[str, str]:
        """The version of each foreign table that a service takes from, as it is now."""
        plan = self.plan(service) if isinstance(service, str) else service
        return self.offline.foreign.pins(use.plan for use in plan.views)

    def events(self, plan: ViewPlan, snapshot: int | None = None) -> Events:
        """All events of a view, in the order of the log of its source."""
        return self.offline.events(plan, snapshot)

    # ── online ───────────────────────────────────────────────────────────────────────

    def read_online(
        self,
        service: str | ServicePlan,
        rows: Sequence[Mapping[str, Any]],
        at: datetime | None = None,
    ) -> Vectors:
        """The vectors of a service for some requests, from the online store.

        Args:
            rows: the entity keys and request fields of each.
            at: the instant to answer for; by default now.

        Raises:
            NotFound: no such service. InvalidInput: a key or field is missing or wrong.
        """
        plan = self.plan(service) if isinstance(service, str) else service
        at = self._clock.now() if at is None else at
        if at.tzinfo is None:
            raise InvalidInput(
                "`at` has no time zone.", hint="Give it one: datetime(…, tzinfo=UTC)."
            )
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise InvalidInput(
                    f"Row {number} is {type(row).__name__}, not values by name.",
                    hint='Give each row as {"key": value, …}.',
                )
        return self.reader(plan).read(rows, microseconds(at))

    def push(
        self,
        table: str,
        rows: pa.Table | pa.RecordBatch,
        *,
        key: str | None = None,
        ack: Ack | str = Ack.ONLINE,
        stored: bool = False,
    ) -> Pushed:
        """Add rows to a source table, and to the online rows of every view of it.

        Args:
            table: the source table.
            rows: new rows, with all columns that the stream declares, or the views read.
            key: makes the push happen once: a repeat changes nothing. Without one, every
                push counts.
            ack: what to wait for.
            stored: True if the rows are in the lake already; then only online is written.

        Raises:
            InvalidInput: a column or a type is wrong for the stream or one of the views;
                nothing is written anywhere.
            ContractBroken: a row breaks a contract of the table; nothing is written.
            LimitExceeded: a key is too long, the disk is full, or too much waits in the
                log; nothing is written anywhere.
        """
        ack = _ack(ack)
        _check_key(key)
        key = self.recognised(table, key)
        if not stored:
            return self.streams.push(table, rows, key=key, ack=ack)
        plans = self.views_of(table)
        if self.offline.foreign.table(table) is not None:
            raise InvalidInput(
                f"{table!r} is a foreign table: nothing is pushed to it.",
                hint="Whoever owns it writes it; `falaj features materialize VIEW` reads it.",
            )
        found = [(self.storage(plan), plan.events(rows)) for plan in plans]
        now = microseconds(self._clock.now())
        appliers = [storage.applier(events, now) for storage, events in found]
        done = self.online.write(
            Write(
                newer=[row for storage, events in found for row in storage.latest_rows(events)],
                merges=[applier(0) for applier in appliers if applier is not None],
                once=once_mark(table, key) if key else None,
            )
        )
        return Pushed(
            snapshot=None,
            views=tuple(plan.name for plan in plans),
            n_events=rows.num_rows,
            repeated=not done.applied,
        )

    def recognised(self, table: str, key: str | None) -> str | None:
        """What a push is recognised and recorded by: its key, or, of a table about persons, a
        keyed hash of it, since a key may name one. Raises InvalidInput: no such stream."""
        if key is None or self.streams.plans.of(table).subject is None:
            return key
        secret = self._keys.derive("push-keys", 32)
        return hashlib.blake2b(key.encode(), key=secret, digest_size=20).hexdigest()

    def push_records(
        self,
        table: str,
        rows: Sequence[Mapping[str, Any]],
        *,
        key: str | None = None,
        ack: Ack | str = Ack.ONLINE,
        stored: bool = False,
    ) -> Pushed:
        """``push`` of rows as JSON gives them: typed by the views and by the lake's table.

        Raises:
            InvalidInput: a value does not have its column's type, or a time has no zone.
        """
        plan = self.streams.plans.of(table)
        types = plan.types
        if not rows:  # then no value tells the type of a column that only a filter names
            named = (name for view in plan.views for name in view.source_columns)
            types = {**dict.fromkeys(named, pa.null()), **types}
        return self.push(table, table_of(rows, types), key=key, ack=ack, stored=stored)

    def items(self, kind: str) -> list[FeatureItem]:
        """The definitions of one kind with what they offer or take."""
        found = []
        states: dict[str, dict[str, State]] = {}
        for one in self.definitions.view_versions() if kind == FeatureView.kind else ():
            states.setdefault(one.view.name, {})[str(one.version)] = one.state
        for item in self.definitions.all(kind):
            features: dict[str, str] = {}
            if isinstance(item, FeatureView):
                features = {
                    **{one.name: one.dtype.value for one in item.features},
                    **{one.name: one.output.value for one in item.aggregates},
                }
            elif isinstance(item, OnDemandFeatures):
                features = {output.name: output.dtype.value for output in item.outputs}
            elif isinstance(item, FeatureService):
                found_plan = ServicePlan.of(item, self.definitions)
                features = {name: dtype.value for name, dtype in found_plan.outputs.items()}
            found.append(
                FeatureItem(
                    kind=kind,
                    name=item.name,
                    description=item.description,
                    features=features,
                    versions=(own := states.get(item.name, {})),
                    standing=", ".join(f"{number} {state}" for number, state in own.items()),
                )
            )
        return found

    def views_of(self, table: str) -> list[ViewPlan]:
        """The live versions of all views that read a source table, one for each set of online
        rows; raises InvalidInput if there is none."""
        plans = [plan for plan in live_plans(self.definitions) if plan.view.source == table]
        if not plans:
            raise InvalidInput(
                f"No feature view reads the table {table!r}.",
                hint="Apply a view with this source, or load the table with a pipeline.",
            )
        return plans

    def let_go(self, before: datetime) -> int:
        """Remove the tiles of all live window views that no read at or after an instant needs.

        Returns how many rows were removed. Reads of earlier instants then miss them.
        """
        windows = [self.storage(plan).window for plan in live_plans(self.definitions)]
        before_us = microseconds(before)
        return sum(one.expired(self.online, before_us) for one in windows if one is not None)

    def materialize(
        self, view: str, upto: datetime | None = None, *, report: Report = untold
    ) -> Materialized:
        """Bring the online rows of a view, in all its live versions, up to what the lake and
        the event log hold.

        Latest values are put if newer. Window views are rebuilt; what is pushed at the
        same time is neither lost nor counted twice.

        Args:
            view: its name.
            upto: leave out what happened or was recorded later.
            report: told of progress; what it raises ends the work. What was put until then
                stands: each write is whole, and a second run does the rest.

        Raises:
            NotFound: no such view. InvalidInput: its source does not fit it.
            ErasedMeanwhile: a person was erased meanwhile; it is to be done again.
        """
        self.view_plan(view)  # says NotFound
        plans = list(live_plans(self.definitions, name=view))
        done = []
        for place, plan in enumerate(plans):

            def part(share: float, told: str, place: int = place) -> None:
                report((place + share) / len(plans), told)

            done.append(self._materialized(plan, upto, part))
        return done[0]

    def _materialized(self, plan: ViewPlan, upto: datetime | None, report: Report) -> Materialized:
        report(0.0, f"reading the source of {plan.name}")
        streamed = self.offline.foreign.table(plan.view.source) is None
        rebuilder = Rebuilder(self.streams)
        if streamed:
            rebuilder.feed(plan)
            self.streams.settle(plan.view.source)
        storage, snapshot = self.storage(plan), self.lake.latest()
        standing = rebuilder.standing(plan.view.source, snapshot) if streamed else []
        since = self._erasures(plan)
        events = self.events(plan, snapshot)
        now = microseconds(self._clock.now())
        limit = None if upto is None else microseconds(upto)
        if limit is not None:
            events = events.known_by(limit)
            now = min(now, limit)
        n_entities = 0
        report(0.4, f"read {len(events):,} events of {plan.name}")
        for rows in storage.latest_batches(events, _ROWS_PER_WRITE, since):
            self.online.write(Write(newer=rows))
            n_entities += len(rows)
            share = 0.4 + 0.6 * min(n_entities / max(len(events), 1), 1.0)
            report(share, f"put {n_entities:,} entities of {plan.name} online")
        rebuilt = storage.rebuilt(self.online, events, now, snapshot, since)
        if rebuilt is not None:
            report(0.8, f"putting the windows of {rebuilt.n_entities:,} entities online")
            if streamed:
                rebuilder.rebuild(plan, storage, rebuilt.merge, standing, limit)
            else:
                self.online.write(Write(merges=[rebuilt.merge]))
            rebuilt.finish()
            n_entities = rebuilt.n_entities
        return Materialized(
            view=plan.name, snapshot=snapshot, n_events=len(events), n_entities=n_entities
        )

    def _erasures(self, plan: ViewPlan) -> int | None:
        """How many persons have been erased, if a view is about persons."""
        if plan.view.subject is None or self._subjects is None:
            return None
        return self._subjects.erasures()


def spine_of(
    rows: Sequence[Mapping[str, Any]], at_us: Sequence[int], plan: ServicePlan
) -> pa.Table:
    """A spine of requests, its instants in the column ``timestamp``, for a recomputation."""
    types = dict(plan.request_fields)
    for use in plan.views:
        types.update(zip(use.key_columns, use.plan.keys.values(), strict=True))
    columns = {
        name: pa.array([row.get(name) for row in rows], arrow_type(dtype))
        for name, dtype in types.items()
    }
    columns["timestamp"] = pa.array(np.asarray(at_us, np.int64)).cast(pa.timestamp("us", "UTC"))
    return pa.table(columns)
