"""The parts of pipelines, joined: what runs steps, and what a run may do on the platform."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from falaj.kernel.call import AssetRef, Call, Caller, Principal, PrincipalKind
from falaj.kernel.compute import task
from falaj.kernel.door import LocalDoor
from falaj.kernel.errors import Conflict, Forbidden, InvalidInput, NotFound
from falaj.kernel.jobs import Worker
from falaj.wiring.computeparts import meters

if TYPE_CHECKING:
    from falaj.kernel.jobs import Handler
    from falaj.kernel.outbox import Subscription
    from falaj.training.pipelines.backfills import Backfills
    from falaj.training.pipelines.ports import Ask, AskOnce, StepAnswer, StepRunner, StepTask
    from falaj.training.pipelines.runs import PipelineRuns
    from falaj.training.pipelines.schedules import Schedules
    from falaj.training.pipelines.service import PipelineService
    from falaj.training.pipelines.values import Values
    from falaj.wiring.assembly import Premises

WRITING = "tables.upload"
"""The action that the policy is asked about before a step's rows are written."""
WRITTEN_BY = "written_by"
"""The attribute of a table that says which pipeline writes it."""


class PipelineParts:
    """The parts of pipelines of one platform, made when they are needed."""

    def __init__(self, made: Premises) -> None:
        self._made = made
        self.platform = OnPlatform(made)

    @cached_property
    def runs(self) -> PipelineRuns:
        """The runs."""
        from falaj.training.pipelines.runs import PipelineRuns

        return PipelineRuns(self._made.jobs, self._made.definitions)

    @cached_property
    def values(self) -> Values:
        """The values between steps."""
        from falaj.training.pipelines.values import Values

        return Values(pipeline_blobs(self._made))

    @cached_property
    def backfills(self) -> Backfills:
        """The back-fills."""
        from falaj.training.pipelines.backfills import Backfills

        return Backfills(self.runs, self._made.catalog, self._made.calls)

    @cached_property
    def schedules(self) -> Schedules:
        """What starts runs by itself."""
        from falaj.training.pipelines.schedules import Schedules

        def extent(table: str) -> Any:
            try:
                return self._made.lake.extent(table).model_dump()
            except NotFound:
                return None

        made = self._made
        return Schedules(self.runs, made.calls, made.catalog, extent)

    def service(self) -> PipelineService:
        """The actions."""
        from falaj.training.pipelines.service import PipelineService

        made = self._made
        return PipelineService(
            self.runs, self.schedules, self.backfills, self.values, self.platform, made.catalog,
            made.visible, meters(made),
        )  # fmt: skip

    def handler(self) -> Handler:
        """What executes runs."""
        from falaj.training.pipelines.execution import Surround
        from falaj.training.pipelines.running import PipelineJob

        made = self._made
        on = Surround(
            made.calls, made.clock, self.runs, made.lake, self.values, self.platform, meters(made)
        )
        return PipelineJob(on, made.catalog, made.jobs, self._opened, self.backfills.ended)

    def events(self) -> Subscription:
        """Reads the outbox for what starts runs."""
        from falaj.kernel.outbox import Subscription
        from falaj.training.pipelines.schedules import SUBSCRIBER

        return Subscription(self._made.database, SUBSCRIBER, self.schedules.handle, begin="now")

    def _opened(self, compute: str, slots: int, memory_bytes: int | None) -> StepRunner:
        from falaj.training.adapters.steps_local import LocalSteps

        settings = self._made.settings
        memory = memory_bytes or settings.compute_memory_bytes
        here = LocalSteps(slots, memory_bytes=memory, must_confine=settings.pipelines.confined)
        if compute == "ray":
            return RaySteps(self._made, here, memory)
        return here


def pipeline_blobs(made: Premises) -> Any:
    """The sealed values of steps, apart from other blobs: they are forgotten sooner."""
    from falaj.lake.blobs import SealedBlobs
    from falaj.training.pipelines.values import PREFIX
    from falaj.wiring import stores

    kept = SealedBlobs(stores.blob_store(made.settings), made.keys, prefix=PREFIX)
    kept.name = PREFIX
    return kept


class OnPlatform:
    """What a run does on the platform, as its principal; fulfils ``Surroundings``."""

    def __init__(self, made: Premises) -> None:
        self._made = made

    def caller(self, principal: str, purpose: str | None = None) -> Caller:
        """The principal as it stands now: its account's roles, and no second factor.

        Raises:
            Forbidden: it is no active account.
        """
        kind, _, name = principal.partition(":")
        authentication = self._made.authentication
        with self._made.database.reading() as connection:
            row = authentication.active(connection, name, PrincipalKind(kind))
            if row is None:
                raise Forbidden(
                    f"{principal} is no active account any more, so nothing runs on its behalf.",
                    hint="Let somebody else run or schedule the pipeline.",
                )
            roles = authentication.accounts.get(connection, name).roles
        own = Principal(principal, PrincipalKind(kind), tuple(role.value for role in roles))
        return Caller(own, purpose=purpose, via="job")

    def asking(self, principal: str, purpose: str | None) -> AskOnce:
        """See ``Surroundings.asking``."""
        made = self._made

        def ask(name: str, values: list[Any], named: dict[str, Any], key: str) -> Any:
            action = made.backend.services.actions.get(name)
            if action is None:
                raise NotFound(
                    f"The platform has no action {name!r}.", hint="`falaj --help` lists them."
                )
            try:
                arguments = action.signature.bind(*values, **named).arguments
            except TypeError as error:
                raise InvalidInput(f"{name}: {error}.", hint="Correct the call.") from None
            door = LocalDoor(made.backend, self.caller(principal, purpose))
            once = key if action.mutates else None
            answer = door.call(action, arguments, idempotency_key=once)
            return action.result.dump_python(answer, mode="json")

        return ask

    def check_runs(self, call: Call, pipeline: str) -> None:
        """See ``Surroundings.check_runs``."""
        made = self._made
        caller = self.caller(call.principal.id)
        resource = made.catalog.load(call.connection, AssetRef("pipeline", pipeline))
        decision = made.policy.decide(caller, "pipelines.run", resource, stepped_up=False)
        if not decision.allowed:
            raise Forbidden(
                f"{caller.principal.id} may not run {pipeline!r} any more.",
                hint="Let somebody else run or schedule the pipeline.",
            )

    def read(self, call: Call, table: str, columns: tuple[str, ...] | None) -> None:
        """See ``Surroundings.read``."""
        from falaj.lake.personal import rule_of
        from falaj.training.pipelines.model import PersonalRows
        from falaj.wiring.readingparts import guarded_lake

        made = self._made
        if rule_of(made.lake, table) is not None:
            raise PersonalRows(
                f"The table {table!r} holds rows of persons, which no pipeline reads as a whole.",
                hint="Let a step call the platform: training and scoring keep such rows sealed.",
            )
        own = self._as_caller(call)
        resource = made.catalog.load(call.connection, AssetRef("table", table))
        if not made.may(own, "tables.read", resource):
            raise Forbidden(
                f"{call.principal.id} may not read the table {table!r} for a pipeline.",
                hint="Ask its owner for access.",
            )
        guarded_lake(made).check_clear(own, table, columns, todo="run a pipeline on")

    def written(self, call: Call, pipeline: str, table: str, inputs: set[str]) -> None:
        """See ``Surroundings.written``."""
        from falaj.lake.service import record_table
        from falaj.training.pipelines.graph import highest

        made, ref = self._made, AssetRef("table", table)
        resource = made.catalog.load(call.connection, ref)  # of a new table, one that is not
        if not made.may(self._as_caller(call), WRITING, resource):
            raise Forbidden(
                f"{call.principal.id} may not write the table {table!r} by a pipeline.",
                hint="Ask its owner for access, or let somebody else run the pipeline.",
            )
        stands = made.catalog.exists(call.connection, ref)
        by = made.catalog.get(call.connection, ref).attributes.get(WRITTEN_BY) if stands else None
        if by != pipeline and (by is not None or made.lake.exists(table)):
            raise Conflict(
                f"The table {table!r} is {f'written by {by!r}' if by else 'somebody else’s'}.",
                hint="Let the pipeline write a table of its own.",
            )
        level = highest(call, made.catalog, inputs)
        if not stands:
            record_table(call, made.catalog, table)
        made.catalog.record(call, ref, classification=level, attributes={WRITTEN_BY: pipeline})

    def _as_caller(self, call: Call) -> Call:
        """The call as a caller with roles: one that a job opens has none."""
        if call.caller.principal.roles:
            return call
        caller = self.caller(call.principal.id, call.caller.purpose)
        return Call(caller, call.action, call.now, call.connection, notes=call.notes)


@task
def run_step(item: Any) -> Any:
    """Run one step in a confined process beside the one that Ray gave it to."""
    from falaj.training.adapters.steps_local import LocalSteps
    from falaj.training.pipelines.ports import StepTask

    runner = LocalSteps(1, memory_bytes=item["memory"], must_confine=item["confined"])
    try:
        answer = runner.run(StepTask(**item["task"]), None)
    finally:
        runner.close()
    return {
        "outputs": dict(answer.outputs),
        "seconds": answer.seconds,
        "cpu_seconds": answer.cpu_seconds,
        "peak_bytes": answer.peak_bytes,
    }


class RaySteps:
    """Runs steps on Ray, but for those that call the platform; fulfils ``StepRunner``."""

    def __init__(self, made: Premises, here: StepRunner, memory_bytes: int | None) -> None:
        self._made = made
        self._here = here
        self._memory = memory_bytes
        self._lock = threading.Lock()
        self._compute: Any = None
        self._stopped = False

    def run(self, task: StepTask, ask: Ask | None) -> StepAnswer:
        """See ``StepRunner.run``."""
        from falaj.kernel.compute import TaskLost
        from falaj.training.pipelines.model import StepLost
        from falaj.training.pipelines.ports import StepAnswer

        if ask is not None:
            return self._here.run(task, ask)
        item = {
            "task": {**task.told(), "timeout_seconds": task.timeout_seconds},
            "memory": self._memory,
            "confined": self._made.settings.pipelines.confined,
        }
        try:
            (answer,) = self._opened().ordered(run_step, [item])
        except TaskLost as error:
            raise StepLost(error.message, hint=error.hint) from None
        return StepAnswer(**answer)

    def stop(self) -> None:
        """See ``StepRunner.stop``."""
        self._stopped = True
        self._here.stop()
        with self._lock:
            compute, self._compute = self._compute, None
        if compute is not None:
            compute.close()

    def close(self) -> None:
        """See ``StepRunner.close``."""
        self.stop()
        self._here.close()

    def _opened(self) -> Any:
        from falaj.training.pipelines.model import StepLost

        with self._lock:
            if self._stopped:
                raise StepLost("The run was stopped.")
            if self._compute is None:
                if not self._made.settings.compute.startswith("ray:"):
                    raise InvalidInput(
                        "The pipeline asks for Ray, and the setting compute names none.",
                        hint='Set compute = "ray:" or "ray://host:10001".',
                    )
                self._compute = self._made.compute.opened()
            return self._compute


def work_on_pipelines(made: Premises, stopped: threading.Event) -> list[threading.Thread]:
    """Threads that execute runs until ``stopped`` is set, beside the worker of other jobs.

    A step may wait for a job that it began: that job needs a worker which is not busy with the
    run.
    """
    from falaj.training.pipelines.model import RUN_JOB

    handlers = {RUN_JOB: made.handlers[RUN_JOB]}
    threads = []
    for number in range(made.settings.pipelines.at_once):
        worker = Worker(
            made.jobs, handlers, name=f"{made.process}-{os.getpid()}-pipelines-{number}"
        )
        thread = threading.Thread(
            target=worker.run_until, args=(stopped,), name=f"falaj-pipelines-{number}", daemon=True
        )
        thread.start()
        threads.append(thread)
    return threads


def chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What must be done again and again for pipelines."""
    from datetime import timedelta

    from falaj.training.pipelines.forgetting import Forgetting
    from falaj.wiring.seldom import Seldom

    parts = made.pipelines
    keep = timedelta(days=made.settings.pipelines.keep_days)
    forgetting = Forgetting(made.calls, lambda: pipeline_blobs(made), keep)
    events = parts.events()
    return {
        "pipeline events": events.deliver,
        "pipeline schedules": Seldom(parts.schedules.run_once, every_seconds=2.0),
        "pipeline back-fills": Seldom(parts.backfills.mend, every_seconds=10.0),
        "pipeline values": Seldom(forgetting.run_once, every_seconds=3600.0),
    }
