"""The actions on pipelines: run them, follow them, schedule them, fill ranges of dates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import NotFound
from falaj.training.pipelines.frames import PLAIN, TABLE, table_of, unpacked
from falaj.training.pipelines.graph import RUN, record_run, run_ref
from falaj.training.pipelines.model import (
    Backfill,
    Pipeline,
    PipelineRun,
    Schedule,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.ports import Resource
    from falaj.training.costs.meters import Meters
    from falaj.training.pipelines.backfills import Backfills
    from falaj.training.pipelines.ports import Surroundings
    from falaj.training.pipelines.runs import PipelineRuns
    from falaj.training.pipelines.schedules import Schedules
    from falaj.training.pipelines.values import Values

    Visible = Callable[[Call, Resource], bool]

Limit = Annotated[int, Field(ge=1, le=1000)]
Parameters = dict[str, Any]
RunList = list[PipelineRun]
BackfillList = list[Backfill]
ScheduleList = list[Schedule]
MOST_ROWS_SHOWN = 100


class PipelineService(Service):
    """Pipelines: functions that run durably as one graph, asked for or by themselves."""

    name = "pipelines"

    def __init__(
        self,
        runs: PipelineRuns,
        schedules: Schedules,
        backfills: Backfills,
        values: Values,
        platform: Surroundings,
        catalog: Catalog,
        visible: Visible,
        meters: Meters,
    ) -> None:
        self._runs = runs
        self._schedules = schedules
        self._backfills = backfills
        self._values = values
        self._platform = platform
        self._catalog = catalog
        self._visible = visible
        self._meters = meters

    @action(post="/pipelines/{name}/runs", on="pipeline")
    def run(self, name: str, *, parameters: Parameters = {}) -> PipelineRun:  # noqa: B006
        """Begin a run of a pipeline as it is applied now; its code is pinned by its hash."""
        self._check_tables(name)
        self._check_budget()
        run = self._runs.begin(self.call, name, parameters)
        record_run(self.call, self._catalog, run, self._pipeline(name, run.version))
        return run

    @action(get="/pipeline-runs")
    def runs(self, pipeline: str | None = None, limit: Limit = 50) -> RunList:
        """The newest runs first, of all pipelines or of one, without their steps."""
        found = self._runs.listed(self.call.connection, pipeline=pipeline, limit=limit)
        return [run for run in found if self._may_see(run.id)]

    @action(get="/pipeline-runs/{run}", on=RUN)
    def get(self, run: str) -> PipelineRun:
        """One run: its state, and each step with attempts, times, tests and what went wrong."""
        return self._runs.get(self.call.connection, run)

    @action(get="/pipeline-runs/{run}/values/{step}", on="pipeline_step")
    def read(self, run: str, step: str, *, output: str = "") -> Any:
        """What a step gave: plain data as it is, of a table the first hundred rows.

        Only for those who may read, whole and in clear, each table that it was made of.
        """
        self._seen(run)
        self._check_sources(run, step)
        for record in self._runs.steps(self.call.connection, run):
            if record.step == step and output in record.outputs:
                kept = record.outputs[output]
                break
        else:
            raise NotFound(
                f"The step {step!r} of {run} has given nothing of that name.",
                hint="`falaj pipelines get` shows what each step gave.",
            )
        given = self._values.fetched(kept)
        if given["form"] == TABLE:
            return table_of(given["data"]).slice(0, MOST_ROWS_SHOWN).to_pylist()
        if given["form"] == PLAIN:
            return unpacked(given, _NO_FOLDER, "")
        return None if not given["data"] else {"file": kept.name, "size": kept.size}

    @action(post="/pipeline-runs/{run}/cancellation", on=RUN)
    def cancel(self, run: str) -> PipelineRun:
        """Ask a run to stop; steps that are done stay done."""
        return self._runs.cancel(self.call, run)

    @action(post="/pipeline-runs/{run}/retries", on=RUN)
    def retry(self, run: str) -> PipelineRun:
        """Let a run that failed or was cancelled go on with the steps that are not done."""
        found = self._runs.get(self.call.connection, run)
        self._check_tables(found.pipeline)
        self._check_budget()
        return self._runs.again(self.call, run)

    @action(post="/pipelines/{name}/schedule", on="pipeline")
    def schedule(self, name: str) -> Schedule:
        """Let a pipeline's triggers start runs from now on, as you."""
        self._check_tables(name)
        return self._schedules.begin(self.call, self._pipeline(name))

    @action(post="/pipelines/{name}/pause", on="pipeline")
    def pause(self, name: str) -> Schedule:
        """Let a pipeline's triggers start no more runs; what runs goes on."""
        return self._schedules.pause(self.call, self._pipeline(name))

    @action(get="/pipeline-schedules")
    def schedules(self) -> ScheduleList:
        """The pipelines that were scheduled, as whom they run, and when next."""
        found = self._schedules.listed(self.call.connection)
        return [one for one in found if self._may_see_ref(AssetRef("pipeline", one.pipeline))]

    @action(post="/pipelines/{name}/backfills", on="pipeline")
    def backfill(
        self,
        name: str,
        since: datetime,
        until: datetime,
        *,
        every: timedelta = timedelta(days=1),
        parallel: Annotated[int, Field(ge=1, le=64)] = 1,
        parameters: Parameters = {},  # noqa: B006 - never changed; the default of a signature
    ) -> Backfill:
        """Run a pipeline once for each stretch of a range of dates, some at a time.

        It needs the parameters ``since`` and ``until``, which each run is given.
        """
        self._check_tables(name)
        self._check_budget()
        return self._backfills.begin(
            self.call, self._pipeline(name), since, until,
            every=every, parallel=parallel, parameters=parameters,
        )  # fmt: skip

    @action(get="/pipeline-backfills")
    def backfills(self, pipeline: str | None = None, limit: Limit = 50) -> BackfillList:
        """The back-fills, the newest first, with how many of their runs are done."""
        found = self._backfills.listed(self.call.connection, pipeline=pipeline, limit=limit)
        return [one for one in found if self._may_see_ref(AssetRef("pipeline", one.pipeline))]

    @action(post="/pipeline-backfills/{backfill}/retries", on="backfill")
    def resume_backfill(self, backfill: str) -> Backfill:
        """Let a back-fill go on: runs that failed are tried again, the others follow."""
        found = self._backfills.get(self.call.connection, backfill)
        self._check_own(found)
        self._check_budget()
        return self._backfills.resume(self.call, backfill)

    @action(post="/pipeline-backfills/{backfill}/cancellation", on="backfill")
    def cancel_backfill(self, backfill: str) -> Backfill:
        """Begin no more runs of a back-fill, and ask those that run to stop."""
        found = self._backfills.get(self.call.connection, backfill)
        self._check_own(found)
        return self._backfills.cancel(self.call, backfill)

    def _pipeline(self, name: str, version: int | None = None) -> Pipeline:
        return self._runs.pipeline(self.call.connection, name, version)

    def _check_budget(self) -> None:
        """Raise BudgetSpent if nothing is left to the caller's team; each step asks again."""
        self._meters.admit(self.call.connection, self.call.principal.id)

    def _check_own(self, found: Backfill) -> None:
        """What the caller may not know of is missing."""
        if not self._may_see_ref(AssetRef("pipeline", found.pipeline)):
            raise NotFound(f"There is no back-fill {found.id!r}.", hint="Check its id.")

    def _check_tables(self, name: str) -> None:
        """Raise unless the caller may read what the pipeline reads."""
        for step in self._pipeline(name).steps:
            for taken in step.takes.values():
                if taken.take == "table":
                    self._platform.read(self.call, taken.table, taken.columns)

    def _check_sources(self, run: str, step: str) -> None:
        """Raise unless the caller may read what a step, and all steps before it, have read.

        A value shows its inputs in another form, so it is as secret as they are now.
        """
        found = self._runs.get(self.call.connection, run)
        pipeline = self._pipeline(found.pipeline, found.version)
        for one in pipeline.upstream(step):
            for taken in one.takes.values():
                if taken.take == "table":
                    self._platform.read(self.call, taken.table, taken.columns)

    def _seen(self, run: str) -> None:
        if not self._may_see(run):
            raise NotFound(
                f"There is no run {run!r} of a pipeline.", hint="`falaj pipelines runs` lists them."
            )

    def _may_see(self, run: str) -> bool:
        return self._may_see_ref(run_ref(run))

    def _may_see_ref(self, ref: AssetRef) -> bool:
        return self._visible(self.call, self._catalog.load(self.call.connection, ref))


_NO_FOLDER: Any = None
"""Plain data needs none."""
