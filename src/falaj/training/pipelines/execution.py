"""One attempt at a run: steps that are ready are begun, what they give is kept and recorded.

One thread writes the journal. With each write it ends steps and begins the next ones in one
transaction, which also proves that this worker still holds the job; so a step is recorded once,
and a worker that was taken for dead records nothing. What was begun and not recorded is done
again, with the same idempotency keys towards the lake and the platform.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.jobs import JobCancelled
from falaj.training.costs.budgets import BudgetSpent
from falaj.training.pipelines.checks import tested
from falaj.training.pipelines.code import reached_modules
from falaj.training.pipelines.frames import TABLE, packed, table_of
from falaj.training.pipelines.model import (
    FromParameter,
    FromPlatform,
    FromStep,
    FromTable,
    KeptValue,
    Pipeline,
    PipelineRun,
    PipelineStep,
    StepFailed,
    StepLost,
    StepRecord,
    StepState,
    StepTimedOut,
    TestResult,
)
from falaj.training.pipelines.ports import StepRunner, StepTask
from falaj.training.pipelines.stepcosts import StepCosts
from falaj.training.pipelines.values import Values, cache_key, value_facts

if TYPE_CHECKING:
    from falaj.kernel.calls import Calls
    from falaj.kernel.clock import Clock
    from falaj.kernel.jobs import JobRun
    from falaj.lake.ports import Lake
    from falaj.training.costs.meters import Meters
    from falaj.training.pipelines.frames import Packed
    from falaj.training.pipelines.ports import Ask, Surroundings
    from falaj.training.pipelines.runs import PipelineRuns

_LOOK_SECONDS = 0.5
"""So often does a run that waits for its steps look whether it is to stop."""
_LONGEST_WAIT = 300.0
_MOST_GONE = 3
"""So often is what a step takes made again before the step fails."""
REPEATED = (StepFailed, StepLost, StepTimedOut)
"""What a step's retries are for."""


@dataclass(frozen=True)
class Surround:
    """What every run needs."""

    calls: Calls
    clock: Clock
    runs: PipelineRuns
    lake: Lake
    values: Values
    platform: Surroundings
    meters: Meters | None = None
    """Charge steps; None where nothing is charged."""


@dataclass
class _Made:
    """What a thread has made of a step."""

    record: StepRecord
    error: FalajError | None = None
    gone: bool = False
    """A value that the step takes was forgotten meanwhile: it is made again first."""


@dataclass
class Execution:
    """One attempt at one run.

    Args:
        on: what every run needs.
        job: its lease and progress.
        run: as it was begun; its snapshot is set.
        pipeline: the version that it pins.
        runner: runs the steps.
    """

    on: Surround
    job: JobRun
    run: PipelineRun
    pipeline: Pipeline
    runner: StepRunner
    records: dict[str, StepRecord] = field(default_factory=dict)
    _keys: dict[str, str] = field(default_factory=dict)
    _hits: list[str] = field(default_factory=list)
    _applied_by: str = ""
    _stopped: threading.Event = field(default_factory=threading.Event)
    _last: dict[str, int] = field(default_factory=dict)
    """The last attempt that was made at each step, which its retries move on."""
    _gone: Counter[str] = field(default_factory=Counter)
    costs: StepCosts | None = None
    """The accounts of its steps; set when it begins, if steps are charged."""

    def finished(self) -> None:
        """Run what is not done.

        Raises:
            JobCancelled, LeaseLost: stop; FalajError: what a step raised, which is recorded.
        """
        self.records = {one.step: one for one in self.run.steps}
        if self.on.meters is not None:
            self.costs = StepCosts(self.on.meters, self.run, self.pipeline)
        self._forget_lost()
        order = self.pipeline.order()
        active: dict[Future[_Made], str] = {}
        news: list[StepRecord] = []
        with ThreadPoolExecutor(self.pipeline.parallel, thread_name_prefix="falaj-step") as pool:
            try:
                while True:
                    begun = self._begun(order, set(active.values()), news)
                    if news or begun:
                        self._recorded([*news, *begun])
                        news = []
                    for record in begun:
                        step = self.pipeline.step(record.step)
                        active[pool.submit(self._made, step, record)] = record.step
                    if not active:
                        if begun or self._more(order):
                            continue
                        return
                    news = self._collected(active)
            except BaseException:
                self._stopped.set()
                self.runner.stop()
                raise

    def _more(self, order: Iterable[str]) -> bool:
        """True if steps came from the cache in this round, so that others may be ready now."""
        return any(not self._is_done(name) for name in order)

    def _is_done(self, name: str) -> bool:
        record = self.records.get(name)
        return record is not None and record.state is StepState.DONE

    def _forget_lost(self) -> None:
        """Steps whose values are gone are done again, if a step that is not done takes them."""
        changed = True
        while changed:
            changed = False
            for step in self.pipeline.steps:
                if self._is_done(step.name):
                    continue
                for needed in step.needs:
                    record = self.records.get(needed)
                    if (
                        self._is_done(needed)
                        and record
                        and not self.on.values.there(record.outputs)
                    ):
                        self.records[needed] = StepRecord(
                            step=needed, state=StepState.FAILED, attempts=record.attempts
                        )
                        changed = True

    # ---- the journal

    def _begun(
        self, order: list[str], active: set[str], news: list[StepRecord]
    ) -> list[StepRecord]:
        """The records of steps to begin now; what the cache has goes to the news instead."""
        begun: list[StepRecord] = []
        for name in order:
            if len(active) + len(begun) >= self.pipeline.parallel:
                break
            step = self.pipeline.step(name)
            known = self.records.get(name)
            if self._is_done(name) or name in active:
                continue
            if not all(self._is_done(needed) for needed in step.needs):
                continue
            if known is not None and known.state is StepState.COMPUTED:
                if self.on.values.there(known.outputs):
                    begun.append(known)
                    continue
                known = None
            hit = self._hit(step)
            if hit is not None:
                self.records[name] = hit
                news.append(hit)
                if hit.state is StepState.COMPUTED:
                    begun.append(hit)
                continue
            crashed = known is not None and known.state is StepState.RUNNING
            attempts = (known.attempts if known else 0) + (0 if crashed else 1)
            record = StepRecord(
                step=name,
                state=StepState.RUNNING,
                attempts=attempts,
                started_at=self.on.clock.now(),
            )
            self.records[name] = record
            begun.append(record)
        return begun

    def _recorded(self, records: list[StepRecord]) -> None:
        """Write records in one transaction, in which the job's lease is renewed.

        Raises:
            BudgetSpent: a step was to begin, and the team has nothing left; what ended is written.
        """
        refused: BudgetSpent | None = None
        n_done = sum(self._is_done(step.name) for step in self.pipeline.steps)
        running = [one.step for one in records if one.state is not StepState.DONE]
        told = f"{n_done} of {len(self.pipeline.steps)} steps" + (
            f"; {', '.join(running[:3])}" if running else ""
        )
        with self.on.calls.database.transaction() as connection:
            self.job.report(n_done / len(self.pipeline.steps), told, connection=connection)
            if self.costs is not None:
                try:
                    if any(one.state is StepState.RUNNING for one in records):
                        self.costs.check(connection)
                except BudgetSpent as error:
                    refused = error
                    records = [one for one in records if one.state is not StepState.RUNNING]
                self.costs.recorded(connection, records)
            self.on.runs.record(connection, self.run.id, records)
            for record in records:
                if record.state is StepState.DONE and record.step in self._keys:
                    self._cached(connection, record)
            for key in self._hits:
                self.on.runs.used(connection, key, self.on.clock.now())
            self._hits = []
        if refused is not None:
            raise refused

    def _cached(self, connection: Any, record: StepRecord) -> None:
        """Keep what a step gave for later runs, if it was computed here."""
        step = self.pipeline.step(record.step)
        if not step.cached or record.from_run is not None:
            return
        values = {
            "pipeline": self.run.pipeline,
            "step": record.step,
            "run": self.run.id,
            "outputs": {name: one.model_dump() for name, one in record.outputs.items()},
            "used_at": self.on.clock.now(),
        }
        self.on.runs.keep_cached(connection, self._keys[record.step], values)

    def _collected(self, active: dict[Future[_Made], str]) -> list[StepRecord]:
        """Wait until steps end; their records. Raises what the first of them raised."""
        done, _ = wait(active, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
        if not done:
            n_done = sum(self._is_done(step.name) for step in self.pipeline.steps)
            names = ", ".join(sorted(active.values())[:3])
            self.job.report(n_done / len(self.pipeline.steps), names)
            if self.costs is not None:
                self.costs.alive(self.on.calls.database)
            return []
        news, failed = [], None
        for future in done:
            active.pop(future)
            made = future.result()
            if made.gone:
                if self.costs is not None:
                    self.costs.gone(made.record.step)
                self._forget_lost()
                continue
            self.records[made.record.step] = made.record
            news.append(made.record)
            failed = failed or made.error
        if failed is not None:
            self._stopped.set()
            for name in active.values():
                stopped = {"code": JobCancelled.code, "message": "another step failed"}
                known = self.records[name]
                attempts = self._last.get(name, known.attempts)
                record = known.model_copy(
                    update={"state": StepState.FAILED, "attempts": attempts, "error": stopped}
                )
                if self.records[name].state is StepState.RUNNING:
                    news.append(record)
            self._recorded(news)
            raise failed
        return news

    # ---- what a step takes

    def _hit(self, step: PipelineStep) -> StepRecord | None:
        """The record of a step that an earlier run has computed, if its values are still there."""
        if not step.cached:
            return None
        inputs = {name: self._facts(taken) for name, taken in step.takes.items()}
        with self.on.calls.database.reading() as connection:
            if not self._applied_by:
                version = self.run.version
                self._applied_by = self.on.runs.applied(connection, self.run.pipeline, version).by
            key = self._keys[step.name] = cache_key(
                self.pipeline,
                step,
                inputs,
                principal=self.run.principal,
                applied_by=self._applied_by,
            )
            found = self.on.runs.cached(connection, key)
        if found is None:
            return None
        try:
            for taken in step.takes.values():
                if isinstance(taken, FromTable):
                    self._check_readable(taken)
        except FalajError:
            return None  # what may not be read any more is refused where steps fail
        run, kept = found
        outputs = {name: KeptValue.model_validate(one) for name, one in kept.items()}
        if not self.on.values.there(outputs):
            return None  # somebody has deleted it: it is made again
        results: list[TestResult] = []
        if step.tests:
            try:
                results = self._tested(step, self.on.values.fetched(outputs[""]))
            except FalajError:
                return None  # the tests have changed since: fail where steps fail
        self._hits.append(key)
        now = self.on.clock.now()
        return StepRecord(
            step=step.name,
            state=StepState.COMPUTED if step.writes else StepState.DONE,
            attempts=0,
            started_at=now,
            ended_at=now,
            seconds=0.0,
            outputs=outputs,
            from_run=run,
            tests=results,
        )

    def _facts(self, taken: Any) -> Any:
        """What the key of the cache says of an input."""
        if isinstance(taken, FromStep):
            return value_facts(self.records[taken.step].outputs[taken.output])
        if isinstance(taken, FromParameter):
            return ["parameter", json.dumps(self.run.parameters[taken.parameter], sort_keys=True)]
        if isinstance(taken, FromTable):
            extent = self.on.lake.extent(taken.table, self.run.snapshot)
            return ["table", taken.table, taken.columns, extent.identity, extent.n_rows, extent.end]
        return ["platform"]

    def _taken(self, step: PipelineStep) -> dict[str, Packed] | None:
        """What a step takes; None if a value was forgotten since it was looked for."""
        found: dict[str, Packed] = {}
        for argument, taken in step.takes.items():
            if isinstance(taken, FromStep):
                kept = self.records[taken.step].outputs[taken.output]
                try:
                    found[argument] = self.on.values.fetched(kept)
                except NotFound:
                    self._gone[step.name] += 1
                    if self._gone[step.name] > _MOST_GONE:
                        raise
                    return None
            elif isinstance(taken, FromParameter):
                found[argument] = packed(self.run.parameters[taken.parameter])
            elif isinstance(taken, FromTable):
                found[argument] = packed(self._rows(taken))
        return found

    def _rows(self, taken: FromTable) -> Any:
        """The rows of a table, read as the run's principal."""
        self._check_readable(taken)
        return self.on.lake.scan(taken.table, columns=taken.columns, snapshot=self.run.snapshot)

    def _check_readable(self, taken: FromTable) -> None:
        """Raise unless the run's principal, as it stands now, may read a table."""
        with self.on.calls.opened(
            "pipelines.read_table",
            self.run.principal,
            resource=f"table:{taken.table}",
            arguments={"run": self.run.id},
        ) as call:
            self.on.platform.read(call, taken.table, taken.columns)

    # ---- what a step does, in a thread of its own

    def _made(self, step: PipelineStep, record: StepRecord) -> _Made:
        """Run one step, or write the table of one that is computed."""
        try:
            if record.state is StepState.COMPUTED:
                return self._written(step, record)
            inputs = self._taken(step)
            if inputs is None:
                return _Made(record, gone=True)
            return self._computed(step, record, inputs)
        except FalajError as error:
            told = {"code": error.code, "message": error.message, "hint": error.hint}
            tests = error.details.get("tests", []) if error.details else []
            return _Made(
                record.model_copy(
                    update={
                        "state": StepState.FAILED,
                        "attempts": self._last.get(step.name, record.attempts),
                        "ended_at": self.on.clock.now(),
                        "error": told,
                        "tests": [TestResult.model_validate(one) for one in tests],
                    }
                ),
                error,
            )

    def _computed(self, step: PipelineStep, record: StepRecord, inputs: dict[str, Packed]) -> _Made:
        attempt, jobs = record.attempts, list[str]()
        self._last[step.name] = attempt
        while True:
            ask = self._ask(step, attempt, jobs)
            task = StepTask(
                step=step.name,
                function=step.function,
                source=step.source,
                modules=self._modules(step),
                inputs=inputs,
                outputs=step.outputs,
                platform=next(
                    (name for name, one in step.takes.items() if isinstance(one, FromPlatform)), ""
                ),
                timeout_seconds=step.timeout_seconds,
            )
            try:
                answer = self.runner.run(task, ask)
                if self.costs is not None:
                    self.costs.used(step.name, answer)
                break
            except REPEATED as error:
                made = attempt - record.attempts
                if made >= step.retries or error.details.get("fatal") or self._stopped.is_set():
                    raise
                pause = min(step.backoff_seconds * 2**made, _LONGEST_WAIT)
                if self._stopped.wait(pause):
                    raise
                attempt += 1
                self._last[step.name] = attempt
                if self._stopped.is_set():  # what was recorded of it may know of this attempt
                    raise
        results = self._tested(step, answer.outputs[""]) if step.tests else []
        if step.writes is not None and answer.outputs[""]["form"] != TABLE:
            raise StepFailed(
                f"The step {step.name!r} writes {step.writes.table!r} and gave no table.",
                hint="Return an Arrow table, or a polars or pandas frame.",
            )
        now = self.on.clock.now()
        values = {
            "state": StepState.COMPUTED if step.writes else StepState.DONE,
            "attempts": attempt,
            "ended_at": now,
            "seconds": round(answer.seconds, 6),
            "outputs": self.on.values.kept(answer.outputs),
            "tests": results,
            "jobs": jobs,
        }
        return _Made(record.model_copy(update=values))

    def _modules(self, step: PipelineStep) -> Mapping[str, str]:
        return reached_modules(step.source, self.pipeline.modules) if self.pipeline.modules else {}

    def _tested(self, step: PipelineStep, given: Packed) -> list[TestResult]:
        def lookup(table: str, columns: Any) -> Any:
            try:
                return self.on.lake.scan(table, columns=columns, snapshot=self.run.snapshot)
            except NotFound:
                return None

        return tested(step.name, given, step.tests, now=self.on.clock.now(), lookup=lookup)

    def _ask(self, step: PipelineStep, attempt: int, jobs: list[str]) -> Ask | None:
        """What the step's function may ask the platform; None if it takes no platform.

        A question that is repeated after a crash has the same idempotency key, so that the door
        gives the first answer and does nothing twice.
        """
        if not step.uses_platform:
            return None
        asking = self.on.platform.asking(self.run.principal, self.run.purpose)
        asked: dict[str, int] = {}

        def ask(action: str, values: list[Any], named: dict[str, Any]) -> Any:
            what = json.dumps([action, values, named], sort_keys=True, default=str)
            digest = hashlib.sha256(what.encode()).hexdigest()[:24]
            asked[digest] = asked.get(digest, 0) + 1
            key = f"{self.run.id}/{step.name}/{attempt}/{digest}/{asked[digest]}"
            answer = asking(action, values, named, key)
            begun = str(answer.get("id", "")) if isinstance(answer, dict) else ""
            if begun.startswith("job_") and begun not in jobs:
                jobs.append(begun)
            return answer

        return ask

    def _written(self, step: PipelineStep, record: StepRecord) -> _Made:
        """Write the rows of a computed step into its table, once for this run."""
        to = step.writes
        assert to is not None  # noqa: S101 - only such steps are computed
        rows = table_of(self.on.values.fetched(record.outputs[""])["data"])
        read = set[str]().union(*(one.tables for one in self.pipeline.steps))
        with self.on.calls.opened(
            "pipelines.write_table",
            self.run.principal,
            resource=f"table:{to.table}",
            arguments={"run": self.run.id, "step": step.name, "rows": rows.num_rows},
        ) as call:
            self.on.platform.written(call, self.run.pipeline, to.table, read)
        key = f"pipeline/{self.run.id}/{step.name}"
        if to.mode == "append":
            snapshot = self.on.lake.append(to.table, rows, key=key, add_columns=True)
        else:
            snapshot = self.on.lake.replace(to.table, rows, key=key)
        return _Made(
            record.model_copy(
                update={
                    "state": StepState.DONE,
                    "ended_at": self.on.clock.now(),
                    "snapshot": snapshot.id,
                }
            )
        )


__all__ = ["Execution", "Surround"]
