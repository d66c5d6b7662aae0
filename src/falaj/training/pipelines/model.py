"""The words of pipelines: steps, what they take and give, what starts a run, runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from falaj.catalog.definitions import Definition
from falaj.catalog.model import Relation
from falaj.ingest.checks import Check, Severity
from falaj.kernel import cron
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, ErrorKind, FalajError, InvalidInput
from falaj.training.pipelines import code

RUN_JOB = "pipelines.run"
"""The kind of the job that executes a run."""
PLATFORM_ARGUMENT = "platform"
"""The argument of a step's function that is given the platform, as the run's principal."""
TABLE = r"^[a-z][a-z0-9_]{0,62}$"
NAME = r"^[a-z_][a-z0-9_]{0,62}$"
MOST_RUNS = 10_000
"""So many runs may one back-fill have."""


class StepFailed(FalajError):
    """A step of a pipeline raised what is no error of Falaj."""

    code = "step-failed"
    kind = ErrorKind.INVALID
    shown = True


class RunFailed(FalajError):
    """A run of a pipeline has failed, and its worker was lost before the job could tell why."""

    code = "pipeline-run-failed"
    kind = ErrorKind.INVALID


class StepLost(FalajError):
    """The process of a step ended before it answered: it was killed or ran out of memory."""

    code = "step-lost"
    kind = ErrorKind.UNAVAILABLE


class StepTimedOut(FalajError):
    """A step took longer than it may."""

    code = "step-timed-out"
    kind = ErrorKind.EXHAUSTED


class PersonalRows(Conflict):
    """A pipeline would read rows of persons, whose erasure its kept values would outlive."""

    code = "personal-rows"


class StepTestFailed(Conflict):
    """What a step gave does not keep the tests that the pipeline declares for it."""

    code = "step-test-failed"


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FromStep(_Words):
    """What another step of the pipeline gave."""

    take: Literal["step"] = "step"
    step: str = Field(pattern=NAME)
    output: str = ""
    """Which of its outputs, if it declares several."""


class FromParameter(_Words):
    """A parameter of the run."""

    take: Literal["parameter"] = "parameter"
    parameter: str = Field(pattern=NAME)


class FromTable(_Words):
    """The rows of a lake table at the run's snapshot, as an Arrow table."""

    take: Literal["table"] = "table"
    table: str = Field(pattern=TABLE)
    columns: tuple[str, ...] | None = None


class FromPlatform(_Words):
    """The platform, as the principal of the run."""

    take: Literal["platform"] = "platform"


Taken = Annotated[FromStep | FromParameter | FromTable | FromPlatform, Field(discriminator="take")]


class ToTable(_Words):
    """Rows that a step gives are written to a lake table, once for each run."""

    table: str = Field(pattern=TABLE)
    mode: Literal["replace", "append"] = "replace"


class PipelineStep(_Words):
    """One function of a pipeline; made by ``step``."""

    name: str = Field(pattern=NAME)
    function: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")
    source: str = Field(max_length=100_000)
    """The text that is run: the function and what it uses of its module."""
    takes: dict[str, Taken] = {}
    """By the function's argument."""
    outputs: tuple[str, ...] = ()
    """The keys of the dict that it returns, if it gives several values; else it gives one."""
    writes: ToTable | None = None
    tests: tuple[Check, ...] = ()
    """Held against the rows that it gives, before anything takes them."""
    retries: int = Field(2, ge=0, le=100)
    backoff_seconds: float = Field(1.0, ge=0, le=3600)
    """Before the first retry; doubled with each, up to five minutes."""
    timeout_seconds: float = Field(3600.0, gt=0, le=7 * 86_400)
    cached: bool = True
    """Whether a run may take what an earlier one gave for the same code and inputs."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.writes is not None and self.outputs:
            raise ValueError("a step that writes a table gives that table and nothing else")
        if self.tests and self.outputs:
            raise ValueError("a step with tests gives one table")
        if any(test.severity is Severity.QUARANTINE for test in self.tests):
            raise ValueError("a test of a step warns or fails: it sets no rows aside")
        if len(set(self.outputs)) != len(self.outputs):
            raise ValueError("an output is named twice")
        return self

    @property
    def needs(self) -> set[str]:
        """The steps that must be done before it."""
        return {one.step for one in self.takes.values() if isinstance(one, FromStep)}

    @property
    def tables(self) -> set[str]:
        """The lake tables that it reads."""
        return {one.table for one in self.takes.values() if isinstance(one, FromTable)}

    @property
    def uses_platform(self) -> bool:
        """True if its function calls the platform."""
        return any(isinstance(one, FromPlatform) for one in self.takes.values())


class Cron(_Words):
    """Runs at the times of a cron expression, in a time zone."""

    on: Literal["cron"] = "cron"
    expression: str = Field(max_length=100)
    """Minute, hour, day of the month, month, day of the week; ``*``, lists, ranges, steps."""
    zone: str = "UTC"
    missed: Literal["last", "all", "none"] = "last"
    """Of the times at which no worker ran: one run for the last of them, one for each (a hundred
    at most), or no run."""

    @model_validator(mode="after")
    def _parses(self) -> Self:
        try:
            cron.Cron(self.expression, self.zone)
        except InvalidInput as error:
            raise ValueError(f"{error.message} {error.hint}") from None
        return self


class NewData(_Words):
    """Runs when rows of a lake table came, changed or went."""

    on: Literal["data"] = "data"
    table: str = Field(pattern=TABLE)


class OnEvent(_Words):
    """Runs when the platform tells of an event, once for each."""

    on: Literal["event"] = "event"
    event: str = Field(pattern=r"^[a-z_]+\.[a-z_]+$")
    """Such as ``model_version.registered`` or ``alert.raised``."""
    where: dict[str, str | int | float | bool] = {}
    """What the event's facts must be."""


Trigger = Annotated[Cron | NewData | OnEvent, Field(discriminator="on")]


class DeclaredStep(PipelineStep):
    """A step before its pipeline is known, with the modules that it imports."""

    arguments: tuple[str, ...] = ()
    modules: dict[str, str] = {}

    def made(self, names: list[str], parameters: Mapping[str, Any]) -> PipelineStep:
        """The step, with what each argument takes."""
        takes: dict[str, Taken] = {}
        for argument in self.arguments:
            if argument in self.takes:
                takes[argument] = self.takes[argument]
            elif argument == PLATFORM_ARGUMENT:
                takes[argument] = FromPlatform()
            elif argument in names:
                takes[argument] = FromStep(step=argument)
            elif argument in parameters:
                takes[argument] = FromParameter(parameter=argument)
            else:
                raise InvalidInput(
                    f"The step {self.name!r} takes {argument!r}, which is neither a step nor a "
                    "parameter of its pipeline.",
                    hint="Say what it takes: step(function, takes={…: FromTable(…)}).",
                )
        given = self.model_dump(exclude={"arguments", "modules", "takes"})
        return PipelineStep(**given, takes=takes)


class Pipeline(Definition):
    """Functions with declared inputs and outputs, run durably as one graph.

    ``Pipeline.of`` makes it of functions. What starts runs by itself (``triggers``) does nothing
    until somebody schedules the pipeline: its runs are then that person's.
    """

    kind: ClassVar[str] = "pipeline"
    relation: ClassVar[Relation] = Relation.FEEDS

    steps: tuple[PipelineStep, ...] = Field(min_length=1, max_length=500)
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Defaults of what a run may be given: plain data."""
    modules: dict[str, str] = Field(default_factory=dict)
    """Texts of modules beside the declaring one that the steps import."""
    triggers: tuple[Trigger, ...] = ()
    parallel: int = Field(1, ge=1, le=64)
    """So many steps of one run at a time."""
    memory_bytes: int | None = Field(None, ge=2**28)
    """So much memory may one step have; else the setting ``compute_memory_bytes``."""
    compute: Literal["local", "ray"] = "local"
    """Where steps run; those that call the platform run beside the worker in any case."""

    @field_validator("parameters")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("parameters are plain data: text, numbers, lists, dicts") from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = {step.name: step for step in self.steps}
        if len(named) != len(self.steps):
            raise ValueError("two steps have one name")
        written = [step.writes.table for step in self.steps if step.writes]
        if len(set(written)) != len(written):
            raise ValueError("two steps write one table")
        for step in self.steps:
            for argument, taken in step.takes.items():
                problem = self._problem(taken, named, written)
                if problem:
                    raise ValueError(f"{step.name}({argument}): {problem}")
        try:
            self.order()
        except CycleError as error:
            raise ValueError(f"steps in a circle: {' → '.join(error.args[1])}") from None
        return self

    def _problem(
        self, taken: Taken, named: Mapping[str, PipelineStep], written: list[str]
    ) -> str | None:
        if isinstance(taken, FromStep):
            if taken.step not in named:
                return f"there is no step {taken.step!r}"
            outputs = named[taken.step].outputs
            if (taken.output or None) not in (outputs or (None,)):
                return f"the step {taken.step!r} gives {', '.join(outputs) or 'one value'}"
        if isinstance(taken, FromParameter) and taken.parameter not in self.parameters:
            return f"there is no parameter {taken.parameter!r}; give it a default in `parameters`"
        if isinstance(taken, FromTable) and taken.table in written:
            return f"take what the step that writes {taken.table!r} gives"
        return None

    def order(self) -> list[str]:
        """The names of the steps, each after those that it needs."""
        sorter = TopologicalSorter({step.name: sorted(step.needs) for step in self.steps})
        return list(sorter.static_order())

    def step(self, name: str) -> PipelineStep:
        """One step by name; raises KeyError."""
        return next(one for one in self.steps if one.name == name)

    def upstream(self, name: str) -> list[PipelineStep]:
        """A step and all those that it needs, directly or not; none if there is no such step."""
        steps = {one.name: one for one in self.steps}
        found: dict[str, PipelineStep] = {}
        left = [name] if name in steps else []
        while left:
            one = steps[left.pop()]
            if one.name not in found:
                found[one.name] = one
                left += one.needs
        return list(found.values())

    def references(self) -> list[AssetRef]:
        """The tables that it reads."""
        read = sorted(set[str]().union(*(step.tables for step in self.steps)))
        return [AssetRef("table", table) for table in read]

    @property
    def code_hash(self) -> str:
        """SHA-256 in hex of all text that its runs execute."""
        told = {"modules": self.modules, "steps": {one.name: one.source for one in self.steps}}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @property
    def run_hash(self) -> str:
        """SHA-256 in hex of all that decides what a run does: everything but the triggers.

        Texts alone do not say it: the same text with other defaults of parameters, inputs,
        target or function does something else.
        """
        told = {name: value for name, value in self.document().items() if name != "triggers"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    @classmethod
    def of(cls, name: str, *steps: DeclaredStep | Callable[..., Any], **values: Any) -> Self:
        """A pipeline of functions.

        Args:
            name: of the pipeline.
            steps: functions, or what ``step`` made of one. An argument of a function takes what
                the step of that name gives, else the parameter of that name; ``platform`` is
                the platform.
            values: the other fields.

        Raises:
            InvalidInput: the text of a function cannot be read, or names what it cannot take.
        """
        given = [one if isinstance(one, DeclaredStep) else step(one) for one in steps]
        names = [one.name for one in given]
        parameters = values.get("parameters", {})
        modules: dict[str, str] = {}
        made = []
        for one in given:
            modules |= one.modules
            made.append(one.made(names, parameters))
        return cls(name=name, steps=tuple(made), modules=modules, **values)


def step(
    function: Callable[..., Any], *, takes: Mapping[str, Taken | str] | None = None, **values: Any
) -> DeclaredStep:
    """A step of a pipeline that runs a function.

    Args:
        function: a plain ``def`` of a module. What it uses of its module (functions, constants,
            imports) is carried along as text.
        takes: what arguments take, where their names do not say it: ``FromTable``, the name of
            a step or ``step.output``.
        values: other fields of ``PipelineStep``: ``outputs``, ``writes``, ``tests``, ``retries`` …

    Raises:
        InvalidInput: its text cannot be read, or ``takes`` names what is no argument.
    """
    sliced = code.sliced(function)
    given: dict[str, Taken] = {}
    for argument, taken in (takes or {}).items():
        if argument not in sliced.arguments:
            raise InvalidInput(f"{sliced.name} has no argument {argument!r}.", hint="Correct it.")
        if isinstance(taken, str):
            of, _, output = taken.partition(".")
            taken = FromStep(step=of, output=output)  # noqa: PLW2901 - the same, in full
        given[argument] = taken
    if PLATFORM_ARGUMENT in sliced.arguments:
        values.setdefault("cached", False)  # what it did to the platform is no value
    return DeclaredStep(
        name=values.pop("name", sliced.name),
        function=sliced.name,
        source=sliced.source,
        arguments=sliced.arguments,
        modules=sliced.modules,
        takes=given,
        **values,
    )


class PipelineState(StrEnum):
    """Where a run, or a back-fill, stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if it does not go on by itself."""
        return self in (PipelineState.DONE, PipelineState.FAILED, PipelineState.CANCELLED)


class StepState(StrEnum):
    """Where a step of a run stands."""

    RUNNING = "running"
    COMPUTED = "computed"  # its value is kept; its table is not written yet
    DONE = "done"
    FAILED = "failed"


class KeptValue(BaseModel):
    """A value that a step gave, sealed in the blob store."""

    model_config = ConfigDict(frozen=True)

    form: Literal["none", "plain", "table", "file"]
    digest: str = ""
    size: int = 0
    name: str = ""
    """Of a file."""


class TestResult(BaseModel):
    """What one test of a step found."""

    check: str
    passed: bool
    severity: str
    n_rows: int
    n_violations: int = 0
    measured: str | None = None


class StepRecord(BaseModel):
    """One step of a run, as it was recorded."""

    step: str
    state: StepState
    attempts: int
    started_at: datetime | None = None
    ended_at: datetime | None = None
    seconds: float | None = None
    outputs: dict[str, KeptValue] = {}
    from_run: str | None = None
    """The run whose value was taken, if it was not computed here."""
    tests: list[TestResult] = []
    snapshot: int | None = None
    """Of the lake, after it wrote its table."""
    jobs: list[str] = []
    """Jobs that it began on the platform."""
    error: dict[str, Any] | None = None


class PipelineRun(BaseModel):
    """One execution of a pipeline."""

    id: str
    pipeline: str
    version: int
    """Of the definition."""
    code_hash: str
    state: PipelineState
    parameters: dict[str, Any]
    trigger: str
    """``asked``, ``cron``, ``data``, ``event`` or ``backfill``."""
    backfill: str | None = None
    principal: str
    purpose: str | None = None
    job: str
    snapshot: int | None = None
    """The lake snapshot at which it reads tables."""
    created_at: datetime
    ended_at: datetime | None = None
    error: dict[str, Any] | None = None
    steps: list[StepRecord] = []

    @property
    def followed_job(self) -> str:
        """The job that tells how far it is."""
        return self.job


class Schedule(BaseModel):
    """Whether a pipeline's triggers start runs, and as whom."""

    pipeline: str
    active: bool
    principal: str
    since: datetime
    next_at: datetime | None = None
    """The next time of its cron expressions."""
    waits: str = ""
    """Why it starts nothing, though it is active."""


class Backfill(BaseModel):
    """Runs over a range of dates, some at a time."""

    id: str
    pipeline: str
    version: int
    state: PipelineState
    since: datetime
    until: datetime
    every: timedelta
    parallel: int
    principal: str
    created_at: datetime
    n_runs: int
    n_done: int = 0
    n_failed: int = 0
    n_running: int = 0
