"""The job that executes a run, and what is recorded when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import Conflict, FalajError
from falaj.kernel.jobs import JobCancelled, LeaseLost
from falaj.kernel.problems import INTERNAL
from falaj.training.pipelines.execution import Execution, Surround
from falaj.training.pipelines.graph import record_graph
from falaj.training.pipelines.model import PipelineState, RunFailed

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.jobs import JobRun, Jobs
    from falaj.training.pipelines.model import Pipeline, PipelineRun
    from falaj.training.pipelines.ports import OpenRunner

Ended = Callable[["Call", "PipelineRun"], None]
"""Told in the transaction in which a run ends."""


class PipelineJob:
    """Handles ``pipelines.run``.

    Args:
        on: what every run needs.
        catalog, jobs: for the lineage of a run.
        opened: opens what runs its steps.
        ended: told when a run ends; a back-fill begins its next one then.
    """

    def __init__(
        self, on: Surround, catalog: Catalog, jobs: Jobs, opened: OpenRunner, ended: Ended
    ) -> None:
        self._on = on
        self._catalog = catalog
        self._jobs = jobs
        self._opened = opened
        self._ended = ended

    def __call__(self, job: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Run the steps that are not done; returns ``run`` and how many there are."""
        run_id = str(arguments["run"])
        run, pipeline = self._read(run_id)
        if self._ended_before(job, run):
            return {"run": run_id, "steps": len(pipeline.steps)}
        run = self._begun(job, run, pipeline)
        memory = pipeline.memory_bytes
        runner = self._opened(pipeline.compute, pipeline.parallel, memory)
        execution = Execution(self._on, job, run, pipeline, runner)
        try:
            execution.finished()
        except LeaseLost:
            raise
        except JobCancelled:
            self._end(execution, PipelineState.CANCELLED)
            raise
        except FalajError as error:
            if error.retryable:  # the job is taken up again
                self._charge(execution, error.code)
            else:
                told = {"code": error.code, "message": error.message, "hint": error.hint}
                self._end(execution, PipelineState.FAILED, told)
            raise
        except Exception:  # a fault of the platform: the job is taken up again
            self._charge(execution, INTERNAL)
            raise
        finally:
            runner.close()
        self._end(execution, PipelineState.DONE)
        return {"run": run_id, "steps": len(pipeline.steps)}

    def _read(self, run_id: str) -> tuple[PipelineRun, Pipeline]:
        runs = self._on.runs
        with self._on.calls.database.reading() as connection:
            run = runs.get(connection, run_id)
            return run, runs.pipeline(connection, run.pipeline, run.version)

    @staticmethod
    def _ended_before(job: JobRun, run: PipelineRun) -> bool:
        """True if the run is done, and a worker died before it ended the job; raises if the run
        ended otherwise, or goes on under another job."""
        if run.job != job.id:
            raise Conflict(f"The run {run.id} goes on as the job {run.job}.")
        if run.state is PipelineState.CANCELLED:
            raise JobCancelled(f"The run {run.id} was cancelled.")
        if run.state is PipelineState.FAILED:
            told = run.error or {}
            raise RunFailed(
                str(told.get("message", "")) or f"The run {run.id} has failed.",
                hint=str(told.get("hint", "")),
            )
        return run.state is PipelineState.DONE

    def _begun(self, job: JobRun, run: PipelineRun, pipeline: Pipeline) -> PipelineRun:
        """The run, allowed to go on, with the snapshot that it reads."""
        on, run_id = self._on, run.id
        snapshot = run.snapshot
        if snapshot is None and any(step.tables for step in pipeline.steps):
            snapshot = on.lake.latest()
        with on.calls.opened(
            "pipelines.execute",
            run.principal,
            resource=f"pipeline_run:{run_id}",
            arguments={"job": job.id, "pipeline": run.pipeline, "code": run.code_hash},
        ) as call:
            on.platform.check_runs(call, run.pipeline)
            job.report(0.0, "", connection=call.connection)
            if on.meters is not None:
                on.meters.taken_up(call.connection, job.id)
            on.runs.set(call.connection, run_id, state=PipelineState.RUNNING, snapshot=snapshot)
        with on.calls.database.reading() as connection:
            return on.runs.get(connection, run_id)

    def _charge(self, execution: Execution, outcome: str) -> None:
        """Charge what this attempt has held, and is not written; raises LeaseLost."""
        if execution.costs is None:
            return
        with self._on.calls.database.transaction() as connection:
            execution.job.hold(connection)
            execution.costs.ended(connection, outcome)

    def _end(
        self,
        execution: Execution,
        state: PipelineState,
        error: dict[str, Any] | None = None,
    ) -> None:
        on, job, run, pipeline = self._on, execution.job, execution.run, execution.pipeline
        with on.calls.opened(
            f"pipelines.{state}",
            run.principal,
            resource=f"pipeline_run:{run.id}",
            arguments={"pipeline": run.pipeline},
        ) as call:
            if state is PipelineState.DONE:
                job.report(1.0, "", connection=call.connection)
            else:
                job.hold(call.connection)
            if execution.costs is not None:
                execution.costs.ended(call.connection, str(state))
            on.runs.end(call, run.id, state, error=error)
            ended = on.runs.get(call.connection, run.id)
            record_graph(call, self._catalog, self._jobs, ended, pipeline)
            self._ended(call, ended)
