"""Runs of pipelines in the metadata database: begun, recorded step by step, ended.

All functions work in the transaction of their call. The record of a step is written in the same
transaction as the proof that the worker still holds the run's job, so each step is recorded once,
whoever was killed when.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, delete, insert, select, update

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.insertion import insert_if_absent, upsert
from falaj.kernel.jobs import JobState, job_rows
from falaj.training.pipelines.model import (
    RUN_JOB,
    Pipeline,
    PipelineRun,
    PipelineState,
    StepRecord,
)
from falaj.training.pipelines.tables import pipeline_cache, pipeline_runs, pipeline_steps

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions
    from falaj.kernel.call import Call
    from falaj.kernel.jobs import Jobs

_STATES = {
    JobState.WAITING: PipelineState.WAITING,
    JobState.RUNNING: PipelineState.RUNNING,
    JobState.DONE: PipelineState.DONE,
    JobState.FAILED: PipelineState.FAILED,
    JobState.CANCELLED: PipelineState.CANCELLED,
}


@dataclass(frozen=True)
class AppliedPipeline:
    """A version of a pipeline, with its number and whoever applied it."""

    pipeline: Pipeline
    version: int
    by: str


class PipelineRuns:
    """The runs of pipelines.

    Args:
        jobs: executes them.
        definitions: holds the pipelines.
    """

    def __init__(self, jobs: Jobs, definitions: Definitions) -> None:
        self._jobs = jobs
        self._definitions = definitions

    def pipeline(self, connection: Connection, name: str, version: int | None = None) -> Pipeline:
        """A pipeline as it stands, or an earlier version of it; raises NotFound."""
        found = self._definitions.definition(connection, Pipeline.kind, name, version)
        assert isinstance(found, Pipeline)  # noqa: S101 - of its kind
        return found

    def version(self, connection: Connection, name: str) -> int:
        """The version of a pipeline as it stands; raises NotFound."""
        return self._definitions.version(connection, Pipeline.kind, name).version

    def applied(
        self, connection: Connection, name: str, version: int | None = None
    ) -> AppliedPipeline:
        """A version of a pipeline, the current one if none is named, and who applied it.

        All of it is of one row, so that what is checked is what is begun; raises NotFound.
        """
        kept = self._definitions.version(connection, Pipeline.kind, name, version)
        found = self._definitions.parsed(kept)
        assert isinstance(found, Pipeline)  # noqa: S101 - of its kind
        return AppliedPipeline(found, kept.version, kept.by)

    def begin(
        self,
        call: Call,
        name: str,
        parameters: Mapping[str, Any],
        *,
        trigger: str = "asked",
        version: int | None = None,
        backfill: str | None = None,
        place: int | None = None,
        purpose: str | None = None,
    ) -> PipelineRun:
        """Record a run and submit its job, as the call's principal.

        Raises:
            NotFound: there is no such pipeline.
            InvalidInput: it has no such parameter.
        """
        kept = self._definitions.version(call.connection, Pipeline.kind, name, version)
        pipeline = self.pipeline(call.connection, name, kept.version)
        unknown = sorted(set(parameters) - set(pipeline.parameters))
        if unknown:
            raise InvalidInput(
                f"The pipeline {name!r} has no parameter {unknown[0]!r}.",
                hint=f"It has: {', '.join(sorted(pipeline.parameters)) or 'none'}.",
            )
        run_id = new_id("prun")
        job = self._jobs.submit(call, RUN_JOB, {"run": run_id, "pipeline": name})
        call.connection.execute(
            insert(pipeline_runs).values(
                id=run_id,
                pipeline=name,
                version=kept.version,
                code_hash=pipeline.code_hash,
                state=PipelineState.WAITING,
                parameters={**pipeline.parameters, **parameters},
                trigger=trigger,
                backfill=backfill,
                place=place,
                principal=call.principal.id,
                purpose=purpose or call.caller.purpose,
                job=job.id,
                created_at=call.now,
            )
        )
        call.note(run=run_id, code=pipeline.code_hash, trigger=trigger)
        call.emit("pipeline.begun", run=run_id, pipeline=name, trigger=trigger)
        return self.get(call.connection, run_id)

    def again(self, call: Call, run_id: str) -> PipelineRun:
        """Let a run that failed or was cancelled go on; steps that are done stay done.

        Raises:
            Conflict: it has not ended, or it is done.
        """
        run = self.get(call.connection, run_id)
        if run.state not in (PipelineState.FAILED, PipelineState.CANCELLED):
            raise Conflict(f"The run {run_id} is {run.state}.", hint="Start another run.")
        job = self._jobs.submit(call, RUN_JOB, {"run": run_id, "pipeline": run.pipeline})
        call.connection.execute(
            update(pipeline_runs)
            .where(pipeline_runs.c.id == run_id)
            .values(state=PipelineState.WAITING, job=job.id, error=None, ended_at=None)
        )
        call.emit("pipeline.begun", run=run_id, pipeline=run.pipeline, trigger="retry")
        return self.get(call.connection, run_id)

    def cancel(self, call: Call, run_id: str) -> PipelineRun:
        """Ask a run to stop: one that waits ends at once, others within a second.

        Raises:
            Conflict: it has ended.
        """
        run = self.get(call.connection, run_id)
        if run.state.ended:
            raise Conflict(f"The run {run_id} has ended already ({run.state}).")
        job = self._jobs.cancel(call.connection, run.job)
        if job.state is JobState.CANCELLED:
            self.end(call, run_id, PipelineState.CANCELLED)
        return self.get(call.connection, run_id)

    def get(self, connection: Connection, run_id: str) -> PipelineRun:
        """One run with its steps; raises NotFound."""
        row = connection.execute(_RUNS.where(pipeline_runs.c.id == run_id)).first()
        if row is None:
            raise NotFound(
                f"There is no run {run_id!r} of a pipeline.",
                hint="`falaj pipelines runs` lists them.",
            )
        return _run(row).model_copy(update={"steps": self.steps(connection, run_id)})

    def listed(
        self,
        connection: Connection,
        *,
        pipeline: str | None = None,
        backfill: str | None = None,
        limit: int = 100,
    ) -> list[PipelineRun]:
        """The newest runs first, without their steps."""
        runs = pipeline_runs.c
        query = _RUNS.order_by(runs.created_at.desc(), runs.id.desc()).limit(limit)
        if pipeline is not None:
            query = query.where(runs.pipeline == pipeline)
        if backfill is not None:
            query = query.where(runs.backfill == backfill)
        return [_run(row) for row in connection.execute(query)]

    def steps(self, connection: Connection, run_id: str) -> list[StepRecord]:
        """The recorded steps of a run, in the order in which they were begun."""
        rows = connection.execute(
            select(pipeline_steps)
            .where(pipeline_steps.c.run == run_id)
            .order_by(pipeline_steps.c.started_at, pipeline_steps.c.step)
        )
        names = list(StepRecord.model_fields)
        return [StepRecord.model_validate({n: getattr(row, n) for n in names}) for row in rows]

    @staticmethod
    def record(connection: Connection, run_id: str, records: Sequence[StepRecord]) -> None:
        """Write the records of steps, in the place of what stood of them before."""
        rows = {}
        for record in records:  # the last word on a step is what stands
            values = record.model_dump(mode="json")
            values |= {"started_at": record.started_at, "ended_at": record.ended_at}
            rows[record.step] = {"run": run_id, **values}
        upsert(connection, pipeline_steps, list(rows.values()))

    @staticmethod
    def set(connection: Connection, run_id: str, **values: Any) -> None:
        """Write facts of a run."""
        connection.execute(
            update(pipeline_runs).where(pipeline_runs.c.id == run_id).values(**values)
        )

    def end(self, call: Call, run_id: str, state: PipelineState, **values: Any) -> None:
        """Record how a run ended, and tell of it."""
        self.set(call.connection, run_id, state=state, ended_at=call.now, **values)
        run = self.get(call.connection, run_id)
        call.note(run=run_id, state=str(state))
        call.emit(f"pipeline.{state}", run=run_id, pipeline=run.pipeline, trigger=run.trigger)

    # ---- the cache

    @staticmethod
    def cached(connection: Connection, key: str) -> tuple[str, dict[str, Any]] | None:
        """The run and the outputs that are kept under a key."""
        row = connection.execute(
            select(pipeline_cache.c.run, pipeline_cache.c.outputs).where(
                pipeline_cache.c.key == key
            )
        ).first()
        return None if row is None else (row.run, row.outputs)

    @staticmethod
    def used(connection: Connection, key: str, now: datetime) -> None:
        """Note that what is kept under a key was taken."""
        connection.execute(
            update(pipeline_cache).where(pipeline_cache.c.key == key).values(used_at=now)
        )

    @staticmethod
    def keep_cached(connection: Connection, key: str, values: Mapping[str, Any]) -> None:
        """Keep what a step gave under a key, in the place of what stood there."""
        connection.execute(delete(pipeline_cache).where(pipeline_cache.c.key == key))
        insert_if_absent(connection, pipeline_cache, {"key": key, **values})

    @staticmethod
    def forget_cached(connection: Connection, key: str) -> None:
        """Take a key out of the cache."""
        connection.execute(delete(pipeline_cache).where(pipeline_cache.c.key == key))


_RUNS = select(
    pipeline_runs,
    job_rows.c.state.label("job_state"),
    job_rows.c.error.label("job_error"),
    job_rows.c.ended_at.label("job_ended_at"),
).outerjoin(job_rows, job_rows.c.id == pipeline_runs.c.job)


def _run(row: Row[Any]) -> PipelineRun:
    """A run; where its job ended without it (its worker was lost too often), as that did."""
    values = {name: getattr(row, name, None) for name in PipelineRun.model_fields}
    values["steps"] = []
    if row.job_state is not None and not PipelineState(row.state).ended:
        values["state"] = _STATES[JobState(row.job_state)]
        if JobState(row.job_state).ended:
            values |= {"error": row.job_error, "ended_at": row.job_ended_at}
    return PipelineRun.model_validate(values)
