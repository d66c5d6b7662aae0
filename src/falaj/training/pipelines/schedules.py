"""Schedules: runs by the clock, on new data, on events, as whoever scheduled the pipeline.

What was seen last (the time of each cron expression, the extent of each table) is written in the
transaction that begins the runs; events are read from the outbox in the transaction in which its
place moves on. So a time, a load or an event starts one run, whatever is killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, insert, select, update

from falaj.kernel.cron import Cron as CronTimes
from falaj.kernel.errors import Conflict, FalajError, NotFound
from falaj.kernel.telemetry import logger
from falaj.training.pipelines.backfills import SINCE, UNTIL
from falaj.training.pipelines.graph import record_run
from falaj.training.pipelines.model import Cron, NewData, OnEvent, Pipeline, Schedule, Trigger
from falaj.training.pipelines.tables import pipeline_schedules

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call, Event
    from falaj.kernel.calls import Calls
    from falaj.training.pipelines.runs import AppliedPipeline, PipelineRuns

SUBSCRIBER = "training.pipelines"
"""The name under which the outbox keeps this subscriber's place."""
ExtentOf = Callable[[str], Any]
"""How far a lake table reaches now, JSON-ready; None if there is none."""
EVENT = "event"
"""The parameter that a run which an event started is given its facts in, if it has it."""


class Schedules:
    """What starts runs by itself.

    Args:
        runs: begins them.
        calls: opens calls as whoever scheduled a pipeline.
        catalog: where each run is an asset.
        extent: how far a table reaches.
    """

    def __init__(
        self, runs: PipelineRuns, calls: Calls, catalog: Catalog, extent: ExtentOf
    ) -> None:
        self._runs = runs
        self._calls = calls
        self._catalog = catalog
        self._extent = extent
        self._log = logger(__name__)

    def begin(self, call: Call, pipeline: Pipeline) -> Schedule:
        """Let the pipeline's triggers start runs from now on, as the caller.

        Raises:
            Conflict: it declares no triggers.
        """
        if not pipeline.triggers:
            raise Conflict(
                f"The pipeline {pipeline.name!r} declares nothing that starts it.",
                hint='Declare triggers=(Cron("0 6 * * *", zone="Asia/Dubai"),) and apply it.',
            )
        seen = {
            one.table: self._extent(one.table)
            for one in pipeline.triggers
            if isinstance(one, NewData)
        }
        values = {
            "active": True,
            "principal": call.principal.id,
            "since": call.now,
            "seen": {"tables": seen, "times": {}},
            "code_hash": pipeline.run_hash,
        }
        self._put(call.connection, pipeline.name, values)
        call.emit("pipeline.scheduled", pipeline=pipeline.name)
        return self._get(call.connection, pipeline.name)

    def pause(self, call: Call, pipeline: Pipeline) -> Schedule:
        """Start no more runs; raises NotFound if it was never scheduled."""
        self._get(call.connection, pipeline.name)
        call.connection.execute(
            update(pipeline_schedules)
            .where(pipeline_schedules.c.pipeline == pipeline.name)
            .values(active=False)
        )
        call.emit("pipeline.paused", pipeline=pipeline.name)
        return self._get(call.connection, pipeline.name)

    def listed(self, connection: Connection) -> list[Schedule]:
        """All schedules, by pipeline."""
        query = select(pipeline_schedules).order_by(pipeline_schedules.c.pipeline)
        return [self._schedule(connection, row) for row in connection.execute(query)]

    def run_once(self) -> int:
        """Begin the runs that are due by the clock or by new data; returns how many."""
        with self._calls.database.reading() as connection:
            active = list(
                connection.execute(
                    select(pipeline_schedules).where(pipeline_schedules.c.active.is_(True))
                )
            )
        return sum(self._due(row) for row in active)

    def handle(self, connection: Connection, event: Event) -> None:
        """Begin the runs that an event starts; fits ``kernel.outbox.Subscription``."""
        rows = connection.execute(
            select(pipeline_schedules).where(pipeline_schedules.c.active.is_(True))
        ).all()
        for row in rows:
            if event.at < row.since:
                continue
            found = self._allowed(connection, row)
            for trigger in found.pipeline.triggers if found else ():
                if isinstance(trigger, OnEvent) and _fits(trigger, event):
                    facts = {"type": event.type, "id": event.id, **event.payload}
                    with self._opened(connection, row, trigger) as call:
                        self._run(call, found, trigger, {EVENT: facts})
                    break

    def _due(self, row: Row[Any]) -> int:
        """Begin what one pipeline is due; a pipeline that cannot be asked holds up no other."""
        try:
            with self._calls.database.reading() as connection:
                found = self._allowed(connection, row)
            if found is None:
                return 0
            pipeline = found.pipeline
            begun = 0
            for trigger in pipeline.triggers:
                if isinstance(trigger, Cron):
                    begun += self._by_clock(row.pipeline, pipeline, trigger)
                elif isinstance(trigger, NewData):
                    begun += self._by_data(row, pipeline, trigger)
        except FalajError as error:
            self._log.warning("schedule not kept", pipeline=row.pipeline, error=str(error))
            return 0
        return begun

    def _by_clock(self, name: str, pipeline: Pipeline, trigger: Cron) -> int:
        times = CronTimes(trigger.expression, trigger.zone)
        key = f"{trigger.expression} {trigger.zone}"

        def due(row: Row[Any], now: datetime) -> tuple[list[dict[str, Any]], dict[str, Any]]:
            kept = row.seen["times"].get(key)
            last = datetime.fromisoformat(kept) if kept else row.since
            found = times.until(last, now)
            if not found:
                return [], {}
            slots = list(zip([last, *found], found, strict=False))
            if trigger.missed != "all":
                slots = slots[-1:]
            # A time is missed if the next one, or a minute, has passed before anybody looked.
            on_time = (now - found[-1]).total_seconds() <= 60
            if trigger.missed == "none" and not on_time:
                slots = []
            given = [{SINCE: a.isoformat(), UNTIL: b.isoformat()} for a, b in slots]
            return given, {"times": {**row.seen["times"], key: found[-1].isoformat()}}

        return self._begun(name, pipeline, trigger, due)

    def _by_data(self, before: Row[Any], pipeline: Pipeline, trigger: NewData) -> int:
        extent = self._extent(trigger.table)  # read after what was seen before it

        def due(row: Row[Any], _now: datetime) -> tuple[list[dict[str, Any]], dict[str, Any]]:
            seen = row.seen["tables"].get(trigger.table)
            if extent is None or seen == extent:
                return [], {}
            if seen != before.seen["tables"].get(trigger.table):
                return [], {}  # another looked meanwhile, perhaps later: the next look tells
            return [{}], {"tables": {**row.seen["tables"], trigger.table: extent}}

        return self._begun(before.pipeline, pipeline, trigger, due)

    def _begun(self, name: str, pipeline: Pipeline, trigger: Trigger, due: Any) -> int:
        """Begin runs and note what was seen, in one transaction; asked without it first.

        What may run is asked again in that transaction: somebody may have applied something else,
        or scheduled the pipeline anew, since ``pipeline`` was read. Then the next look decides.
        """
        now = self._calls.now()
        with self._calls.database.reading() as connection:
            row = connection.execute(_of(name)).first()
            if row is None or not row.active or due(row, now) == ([], {}):
                return 0
        with self._calls.database.transaction() as connection:
            row = connection.execute(_of(name).with_for_update()).one()
            found = self._allowed(connection, row)
            if not row.active or found is None or found.pipeline != pipeline:
                return 0
            given, seen = due(row, now)
            if seen:
                connection.execute(
                    update(pipeline_schedules)
                    .where(pipeline_schedules.c.pipeline == name)
                    .values(seen={**row.seen, **seen})
                )
            for parameters in given:
                with self._opened(connection, row, trigger) as call:
                    self._run(call, found, trigger, parameters)
        return len(given)

    def _opened(self, connection: Connection, row: Row[Any], trigger: Trigger) -> Any:
        return self._calls.joined(
            connection,
            "pipelines.trigger",
            row.principal,
            resource=f"pipeline:{row.pipeline}",
            arguments=trigger.model_dump(mode="json"),
        )

    def _run(
        self,
        call: Call,
        found: AppliedPipeline | None,
        trigger: Trigger,
        given: Mapping[str, Any],
    ) -> None:
        """Begin a run of exactly the version that was allowed."""
        if found is None:
            return
        pipeline = found.pipeline
        fitting = {name: value for name, value in given.items() if name in pipeline.parameters}
        run = self._runs.begin(
            call, pipeline.name, fitting, trigger=trigger.on, version=found.version
        )
        record_run(call, self._catalog, run, pipeline)

    def _allowed(self, connection: Connection, row: Row[Any]) -> AppliedPipeline | None:
        """The pipeline as it stands; None if it is not to run as the one who scheduled it.

        Whoever may apply definitions could else have anything run with somebody else's rights:
        other code, or the same code with other parameters, inputs or tables to write.
        """
        found = self._runs.applied(connection, row.pipeline)
        if found.pipeline.run_hash == row.code_hash or found.by == row.principal:
            return found
        return None

    @staticmethod
    def _put(connection: Connection, name: str, values: Mapping[str, Any]) -> None:
        done = connection.execute(
            update(pipeline_schedules).where(pipeline_schedules.c.pipeline == name).values(**values)
        )
        if not done.rowcount:
            connection.execute(insert(pipeline_schedules).values(pipeline=name, **values))

    def _get(self, connection: Connection, name: str) -> Schedule:
        row = connection.execute(_of(name)).first()
        if row is None:
            raise NotFound(
                f"The pipeline {name!r} was never scheduled.",
                hint="`falaj pipelines schedule` does that.",
            )
        return self._schedule(connection, row)

    def _schedule(self, connection: Connection, row: Row[Any]) -> Schedule:
        found = self._allowed(connection, row)
        pipeline = found.pipeline if found else None
        waits = "" if found else "it was changed by somebody else: schedule it anew"
        now = self._calls.now()
        times = [
            next(CronTimes(one.expression, one.zone).after(now))
            for one in (pipeline.triggers if pipeline else ())
            if isinstance(one, Cron)
        ]
        return Schedule(
            pipeline=row.pipeline,
            active=row.active,
            principal=row.principal,
            since=row.since,
            next_at=min(times) if times and row.active else None,
            waits=waits,
        )


def _of(name: str) -> Any:
    return select(pipeline_schedules).where(pipeline_schedules.c.pipeline == name)


def _fits(trigger: OnEvent, event: Event) -> bool:
    return event.type == trigger.event and all(
        event.payload.get(name) == value for name, value in trigger.where.items()
    )
