"""Back-fills: a pipeline over a range of dates, so many runs at a time, from anywhere on.

A back-fill is a row, its runs are rows with their place in the range. In the transaction in
which one of them ends the next one begins, so that no kill at any moment loses the thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, func, insert, select, update

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.training.pipelines.graph import record_run
from falaj.training.pipelines.model import (
    MOST_RUNS,
    Backfill,
    Pipeline,
    PipelineRun,
    PipelineState,
)
from falaj.training.pipelines.tables import pipeline_backfills, pipeline_runs

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.calls import Calls
    from falaj.training.pipelines.runs import PipelineRuns

SINCE, UNTIL = "since", "until"
_OPEN = (PipelineState.WAITING, PipelineState.RUNNING)


class Backfills:
    """The back-fills of pipelines.

    Args:
        runs: begins their runs.
        catalog: where each run is an asset.
        calls: opens calls as whoever began a back-fill.
    """

    def __init__(self, runs: PipelineRuns, catalog: Catalog, calls: Calls) -> None:
        self._runs = runs
        self._catalog = catalog
        self._calls = calls

    def begin(
        self,
        call: Call,
        pipeline: Pipeline,
        since: datetime,
        until: datetime,
        *,
        every: timedelta,
        parallel: int,
        parameters: Mapping[str, Any],
    ) -> Backfill:
        """Record a back-fill and begin its first runs.

        Args:
            since, until: the range, with time zones; the last stretch may be shorter.
            every: the length of a stretch.
            parallel: so many runs at a time.
            parameters: of every run, besides ``since`` and ``until``.

        Raises:
            InvalidInput: the range is empty, without a zone or too long, or the pipeline has
                not the two parameters.
        """
        for instant in (since, until):
            if instant.tzinfo is None:
                raise InvalidInput("The range has no time zone.", hint="2025-01-01T00:00:00Z")
        if not {SINCE, UNTIL} <= set(pipeline.parameters):
            raise InvalidInput(
                f"The pipeline {pipeline.name!r} has no parameters `since` and `until`.",
                hint="Declare them with a default each; a run is given its stretch in them.",
            )
        if since >= until or every <= timedelta(0):
            raise InvalidInput("The range is empty.", hint="Give `since` before `until`.")
        n_runs = -(-(until - since) // every)
        if n_runs > MOST_RUNS:
            raise InvalidInput(
                f"That would be {n_runs:,} runs; at most {MOST_RUNS:,} may be one back-fill.",
                hint="Take longer stretches, or a shorter range.",
            )
        backfill_id = new_id("backfill")
        version = self._runs.version(call.connection, pipeline.name)
        call.connection.execute(
            insert(pipeline_backfills).values(
                id=backfill_id,
                pipeline=pipeline.name,
                version=version,
                state=PipelineState.RUNNING,
                since=since,
                until=until,
                every_seconds=every.total_seconds(),
                parallel=parallel,
                parameters=dict(parameters),
                principal=call.principal.id,
                purpose=call.caller.purpose,
                created_at=call.now,
                n_runs=n_runs,
            )
        )
        call.note(backfill=backfill_id, n_runs=n_runs)
        call.emit("pipeline.backfill_begun", backfill=backfill_id, pipeline=pipeline.name)
        self._fill(call, backfill_id)
        return self.get(call.connection, backfill_id)

    def ended(self, call: Call, run: PipelineRun) -> None:
        """Begin what follows a run that has ended, in the same transaction."""
        if run.backfill is not None:
            self._fill(call, run.backfill)

    def resume(self, call: Call, backfill_id: str) -> Backfill:
        """Try the runs again that failed or were cancelled, and go on.

        Raises:
            Conflict: it is done.
        """
        found = self.get(call.connection, backfill_id)
        if found.state is PipelineState.DONE:
            raise Conflict(f"The back-fill {backfill_id} is done.", hint="Begin another one.")
        self._set(call.connection, backfill_id, PipelineState.RUNNING)
        runs = self._runs.listed(call.connection, backfill=backfill_id, limit=MOST_RUNS)
        ended = [
            one for one in runs if one.state in (PipelineState.FAILED, PipelineState.CANCELLED)
        ]
        for run in ended:  # no more than may run at a time
            self._runs.again(call, run.id)
        self._fill(call, backfill_id)
        return self.get(call.connection, backfill_id)

    def cancel(self, call: Call, backfill_id: str) -> Backfill:
        """Begin no more runs, and ask those that run to stop.

        Raises:
            Conflict: it has ended.
        """
        found = self.get(call.connection, backfill_id)
        if found.state.ended:
            raise Conflict(f"The back-fill {backfill_id} has ended already ({found.state}).")
        self._set(call.connection, backfill_id, PipelineState.CANCELLED)
        for run in self._runs.listed(call.connection, backfill=backfill_id, limit=MOST_RUNS):
            if not run.state.ended:
                self._runs.cancel(call, run.id)
        return self.get(call.connection, backfill_id)

    def get(self, connection: Connection, backfill_id: str) -> Backfill:
        """One back-fill, with how many of its runs are done; raises NotFound."""
        row = connection.execute(
            select(pipeline_backfills).where(pipeline_backfills.c.id == backfill_id)
        ).first()
        if row is None:
            raise NotFound(
                f"There is no back-fill {backfill_id!r}.",
                hint="`falaj pipelines backfills` lists them.",
            )
        return self._counted(connection, row)

    def listed(
        self, connection: Connection, *, pipeline: str | None = None, limit: int = 50
    ) -> list[Backfill]:
        """The newest back-fills first."""
        table = pipeline_backfills
        query = select(table).order_by(table.c.created_at.desc(), table.c.id.desc()).limit(limit)
        if pipeline is not None:
            query = query.where(table.c.pipeline == pipeline)
        return [self._counted(connection, row) for row in connection.execute(query)]

    def mend(self) -> int:
        """Go on with back-fills whose runs ended without a word: their worker was lost too
        often. Returns how many there were."""
        with self._calls.database.reading() as connection:
            query = select(pipeline_backfills).where(
                pipeline_backfills.c.state == PipelineState.RUNNING
            )
            standing = list(connection.execute(query))
            stuck = [row for row in standing if self._counted(connection, row).n_running == 0]
        for row in stuck:
            with self._calls.opened(
                "pipelines.begin_run", row.principal, resource=f"backfill:{row.id}"
            ) as call:
                self._fill(call, row.id)
        return len(stuck)

    def _fill(self, call: Call, backfill_id: str) -> None:
        """Begin runs until so many are open as may be; end the back-fill after the last one."""
        row = call.connection.execute(
            select(pipeline_backfills)
            .where(pipeline_backfills.c.id == backfill_id)
            .with_for_update()
        ).one()
        if row.state != PipelineState.RUNNING:
            return
        counted = self._counted(call.connection, row)
        last = call.connection.execute(
            select(func.max(pipeline_runs.c.place)).where(pipeline_runs.c.backfill == backfill_id)
        ).scalar()
        place = -1 if last is None else int(last)
        if counted.n_failed:
            if not counted.n_running:
                self._set(call.connection, backfill_id, PipelineState.FAILED)
                call.emit("pipeline.backfill_failed", backfill=backfill_id, pipeline=row.pipeline)
            return  # what fails is looked at before more of it is begun
        for _ in range(row.parallel - counted.n_running):
            place += 1
            if place >= row.n_runs:
                break
            self._begin_run(row, place, call)
        if counted.n_done == row.n_runs:
            self._set(call.connection, backfill_id, PipelineState.DONE)
            call.emit("pipeline.backfill_done", backfill=backfill_id, pipeline=row.pipeline)

    def _begin_run(self, row: Row[Any], place: int, call: Call) -> None:
        every = timedelta(seconds=row.every_seconds)
        since = row.since + place * every
        stretch = {SINCE: since.isoformat(), UNTIL: min(since + every, row.until).isoformat()}
        with self._calls.joined(
            call.connection,
            "pipelines.begin_run",
            row.principal,
            resource=f"backfill:{row.id}",
            arguments=stretch,
        ) as own:
            run = self._runs.begin(
                own, row.pipeline, {**row.parameters, **stretch}, trigger="backfill",
                version=row.version, backfill=row.id, place=place, purpose=row.purpose,
            )  # fmt: skip
            pipeline = self._runs.pipeline(own.connection, row.pipeline, row.version)
            record_run(own, self._catalog, run, pipeline)

    def _counted(self, connection: Connection, row: Row[Any]) -> Backfill:
        runs = self._runs.listed(connection, backfill=row.id, limit=MOST_RUNS)
        values = {name: getattr(row, name, None) for name in Backfill.model_fields}
        values |= {
            "every": timedelta(seconds=row.every_seconds),
            "n_done": sum(one.state is PipelineState.DONE for one in runs),
            "n_failed": sum(
                one.state in (PipelineState.FAILED, PipelineState.CANCELLED) for one in runs
            ),
            "n_running": sum(one.state in _OPEN for one in runs),
        }
        return Backfill.model_validate(values)

    @staticmethod
    def _set(connection: Connection, backfill_id: str, state: PipelineState) -> None:
        connection.execute(
            update(pipeline_backfills)
            .where(pipeline_backfills.c.id == backfill_id)
            .values(state=state)
        )
