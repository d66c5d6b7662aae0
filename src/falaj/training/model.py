"""The words of training: splits, training sets, runs and what they carry."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from falaj.kernel.errors import InvalidInput
from falaj.training.options import Calibrating, Checkpointing, ClassWeights, CrossValidation
from falaj.training.resources import RunRequest
from falaj.training.splits import GroupSplit, StratifiedSplit
from falaj.training.targets import ClassName, Target, Task, check_classes

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")]
Workspace = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
ExperimentName = Annotated[str, Field(min_length=1, max_length=500)]
Column = Annotated[str, Field(min_length=1, max_length=100)]
Table = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
DEFAULT_WORKSPACE = "default"
TRAIN_JOB = "training.train"
PREPARE_JOB = "training.prepare"
RECREATE_JOB = "training.recreate"
CONTEXT_TAG = "mlflow.data.context"
"""The tag of a dataset that says what it was for."""
REPRODUCE_JOB = "runs.reproduce"
BUNDLE_TAG = "falaj.bundle"
"""The tag of a run that names the bundle which it packaged."""


class TimeSplit(BaseModel):
    """Boundaries in time: a row belongs to the part whose interval holds its timestamp.

    Train is ``[train_from, train_until)``, validation ``[train_until, validation_until)``,
    test ``[validation_until, test_until)``; rows outside are left out and counted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    train_from: AwareDatetime | None = None
    train_until: AwareDatetime
    validation_until: AwareDatetime
    test_until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        given = [self.train_from, self.train_until, self.validation_until, self.test_until]
        known = [at for at in given if at is not None]
        if any(later <= earlier for earlier, later in pairwise(known)):
            raise ValueError("the boundaries of a split must grow: train, validation, test")
        return self


Split = TimeSplit | GroupSplit | StratifiedSplit
"""How the rows of a set are cut into parts."""


class TrainingSetSpec(BaseModel):
    """What a training set is made of.

    The spine is a lake table (or several, one after the other), or a query over lake
    tables: one row for each example, with the keys of the entities, the instant at which
    the question is asked, the label, and any columns that slices are cut by. Every other
    column of the frame is a feature.

    With a ``split`` the rows are ordered by time and cut into parts, and those without a
    label are left out. Without one the set has a row for each row of the spine, in its
    order. A set that a model shall be trained on needs both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_service: Name
    label: Column | None = None
    task: Task = "binary"
    """What the label is: 0 and 1, a number (``regression``), or one of several ``classes``."""
    classes: tuple[ClassName, ...] = ()
    """Of the task ``classes``: every word of the label."""
    spine: Table | tuple[Table, ...] | None = None
    """A lake table, or tables with the same columns."""
    spine_query: Annotated[str, Field(min_length=1, max_length=20_000)] | None = None
    """A SELECT over lake tables, instead of a table."""
    timestamp: Column = "timestamp"
    knowledge: Literal["recorded", "event"] = "recorded"
    split: Split | None = None

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables of the spine, in order; none if it is a query."""
        if self.spine is None:
            return ()
        return (self.spine,) if isinstance(self.spine, str) else self.spine

    @property
    def target(self) -> Target:
        """What a model of this set predicts."""
        return Target(task=self.task, classes=self.classes)

    def trainable(self) -> tuple[str, Split]:
        """The label and the split.

        Raises:
            InvalidInput: there is none, so that no model can be trained on such a set.
        """
        if self.label is None or self.split is None:
            lacking = "label" if self.label is None else "split"
            raise InvalidInput(
                f"A training set of {self.feature_service!r} without a {lacking} is nothing to"
                " train a model on.",
                hint="Prepare one with `label` and `split` in its spec.",
            )
        return self.label, self.split

    @model_validator(mode="after")
    def _one_spine(self) -> Self:
        if (not self.spine) == (self.spine_query is None):
            raise ValueError("give either spine (a table) or spine_query (a SELECT), not both")
        if self.label == self.timestamp:
            raise ValueError("the label and the timestamp cannot be the same column")
        check_classes(self.task, self.classes)
        if self.task == "regression" and isinstance(self.split, StratifiedSplit):
            raise ValueError("a stratified split is of labels with classes; numbers have none")
        return self


class TrainingSet(BaseModel):
    """A pinned training set: rows in the lake, and everything needed to make them again."""

    id: str
    table: str
    """The lake table, with the spine's columns, the features, ``split`` and ``row_number``."""
    spec: TrainingSetSpec
    features: tuple[str, ...]
    spine_snapshot: int
    """The snapshot of the lake that spine and features were read from."""
    spine_tables: dict[str, int] = {}
    """The tables of the spine, one after the other, with the snapshot at which each was read."""
    snapshot: int
    """The snapshot of the lake that first holds the table."""
    spine_hash: str
    content_hash: str
    definitions: dict[str, str]
    """``kind:name`` of each definition that took part, with its fingerprint."""
    versions: dict[str, int] = {}
    """The version of each of them."""
    columns: tuple[str, ...] = ()
    """The spine's columns and the features, in order."""
    purpose: str | None = None
    """What it was asked for."""
    permitted_purposes: tuple[str, ...] | None = None
    """What its features may be used for; None means anything."""
    foreign: dict[str, str] = {}
    """The version of each foreign table that was read."""
    origins: dict[str, tuple[str, ...]] = {}
    """The columns of lake tables (``table/column``) that each column comes from."""
    n_rows: dict[str, int]
    """Rows by part, and ``without_label`` and ``outside`` for rows left out; ``all`` of a
    set that is not split."""
    positive_rate: dict[str, float]
    known_until: datetime | None = None
    """The latest timestamp of its train and validation rows; None of a set that is not split,
    or was made before this was kept."""
    created_at: datetime
    created_by: str

    def trainable(self) -> tuple[str, Split]:
        """Its label and split; raises InvalidInput as ``TrainingSetSpec.trainable`` does."""
        return self.spec.trainable()


class Recreation(BaseModel):
    """What came of making a training set again."""

    training_set: str
    identical: bool
    content_hash: str
    recreated_hash: str
    changed_definitions: tuple[str, ...] = ()
    """Definitions that are no longer what they were; the pinned versions were used."""
    n_rows: dict[str, int]


class PackageDifference(BaseModel):
    """A distribution whose version changed; None where it was or is not installed."""

    package: str
    then: str | None
    now: str | None


class Reproduction(BaseModel):
    """What came of training a run's model again."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    run: str
    model_identical: bool
    """The native model, its encoding and its calibration are the same to the byte."""
    promised: bool
    """Whether the trainer promises that, with the same packages on the same kind of machine, and
    on one worker."""
    data: Recreation
    environment: tuple[PackageDifference, ...]
    """Each distribution that differs from the lock that was kept with the run."""
    python: tuple[str, str]
    """Python's version then and now."""
    code_identical: bool
    """The source of the trainer is what it was."""
    seed: int
    digest: str
    """Of the native model."""
    reproduced_digest: str
    metrics: dict[str, tuple[float | None, float | None]]
    """Of the run, and of the model that was made again."""


class RunState(StrEnum):
    """Where a run stands; the words are MLflow's."""

    SCHEDULED = "scheduled"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    KILLED = "killed"

    @property
    def is_end(self) -> bool:
        """True if a run that stands there has ended."""
        return self not in (RunState.SCHEDULED, RunState.RUNNING)


class MetricPoint(BaseModel):
    """One value of a metric; NaN and infinities are kept as they are."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    key: Annotated[str, Field(min_length=1, max_length=250)]
    value: float
    step: int = 0
    at: datetime | None = None
    """When it was measured; the time of the call if it is not given."""


class Environment(BaseModel):
    """What a run ran on."""

    python: str
    platform: str
    machine: str
    n_cpus: int
    packages: dict[str, str]


class CodeVersion(BaseModel):
    """Which code a run ran: a commit if it stands in a checkout, its content in any case."""

    commit: str | None = None
    dirty: bool | None = None
    """True if the checkout had changes that no commit holds."""
    content_hash: str
    """SHA-256 over the source of the trainer."""
    entry: str


class Artifact(BaseModel):
    """One file of a run, kept encrypted under its digest."""

    path: Annotated[str, Field(min_length=1, max_length=500)]
    digest: str
    size: int


class ArtifactEntry(BaseModel):
    """What lies in a folder of a run or logged model: a file, or another folder."""

    path: str
    is_folder: bool = False
    size: int | None = None
    """In bytes; None for a folder."""
    digest: str | None = None


class DatasetInput(BaseModel):
    """A dataset that went into a run, as its program describes it."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    digest: Annotated[str, Field(min_length=1, max_length=64)]
    source_type: Annotated[str, Field(max_length=64)] = ""
    source: Annotated[str, Field(max_length=65_535)] = ""
    """Where it comes from; JSON in most clients."""
    columns: Annotated[str, Field(max_length=1_048_575)] | None = None
    """Its schema; JSON in most clients."""
    profile: Annotated[str, Field(max_length=16_777_215)] | None = None
    tags: dict[Annotated[str, Field(max_length=255)], Annotated[str, Field(max_length=500)]] = {}

    @property
    def context(self) -> str | None:
        """What it was for, if that is said: ``training``, ``validation`` …"""
        return self.tags.get(CONTEXT_TAG)


class OutputModel(BaseModel):
    """A logged model that came out of a run, at a step."""

    id: Annotated[str, Field(min_length=1, max_length=64)]
    step: int = 0


class ModelMetric(BaseModel):
    """One value of a metric that is of a logged model, and perhaps of a dataset."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    model: Annotated[str, Field(min_length=1, max_length=64)]
    key: Annotated[str, Field(min_length=1, max_length=250)]
    value: float
    step: int = 0
    at: AwareDatetime
    dataset_name: Annotated[str, Field(max_length=500)] = ""
    dataset_digest: Annotated[str, Field(max_length=64)] = ""


class Run(BaseModel):
    """One attempt: what went in, what came out."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    id: str
    experiment: str
    experiment_id: str = ""
    workspace: str = DEFAULT_WORKSPACE
    name: str
    state: RunState
    parent: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    started_by: str
    training_set: str | None = None
    snapshot: int | None = None
    """The lake snapshot of the data."""
    environment: Environment | None = None
    code: CodeVersion | None = None
    params: dict[str, str] = {}
    metrics: dict[str, float] = {}
    """The last value of each metric."""
    measured: dict[str, tuple[int, datetime]] = {}
    """Of each metric: the step and the instant of its last value."""
    tags: dict[str, str] = {}
    artifacts: tuple[Artifact, ...] = ()
    datasets: tuple[DatasetInput, ...] = ()
    """What data went into it, as far as its program has said."""
    input_models: tuple[str, ...] = ()
    """Logged models that went into it."""
    output_models: tuple[OutputModel, ...] = ()
    """Logged models that came out of it."""
    open_ended: bool = False
    """True if it takes values after its end too."""
    said_user: str | None = None
    """Who its program says that it works for; nobody has checked it."""
    deleted_at: datetime | None = None


class Experiment(BaseModel):
    """A name under which runs are gathered."""

    id: str
    name: str
    workspace: str = DEFAULT_WORKSPACE
    created_at: datetime
    created_by: str = ""
    updated_at: datetime | None = None
    """When its name, its tags or its end changed last."""
    deleted_at: datetime | None = None
    tags: dict[str, str] = {}
    n_runs: int = 0


class Stage(StrEnum):
    """Which of the kept and the deleted are asked for."""

    ACTIVE = "active"
    DELETED = "deleted"
    ALL = "all"


class RunPage(BaseModel):
    """Runs that a search has found, and where the next ones are."""

    runs: list[Run]
    next_page: str | None = None


class ExperimentPage(BaseModel):
    """Experiments that a search has found, and where the next ones are."""

    experiments: list[Experiment]
    next_page: str | None = None


class RunDifference(BaseModel):
    """Runs side by side: what differs, by name, one value for each run in order."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    runs: tuple[str, ...]
    params: dict[str, tuple[str | None, ...]]
    metrics: dict[str, tuple[float | None, ...]]
    data: dict[str, tuple[str | None, ...]]
    environment: dict[str, tuple[str | None, ...]]


class Isolation(BaseModel):
    """An isolation forest of the training rows, kept with the model: it tells which requests are
    unlike them (``explain=anomaly``)."""

    n_trees: int = Field(100, ge=10, le=500)
    rows_per_tree: int = Field(256, ge=16, le=4096)
    share: float = Field(0.01, gt=0, lt=0.5)
    """Of the training rows, so many are anomalies by definition; it sets the limit."""


class TrainingRequest(RunRequest, BaseModel):
    """What a training job is asked to do."""

    model: Name
    trainer: str = "lightgbm"
    params: dict[str, Any] = {}
    seed: int = Field(7, ge=0, le=2**31 - 1)
    experiment: Name | None = None
    """The model's name if it is not given."""
    run_name: Name | None = None
    training_set: str | None = None
    spec: TrainingSetSpec | None = None
    features: tuple[Column, ...] | None = None
    """Only these features of the set; all of them if it is not given."""
    class_weights: ClassWeights | None = None
    calibration: Calibrating | None = None
    isolation: Isolation | None = None
    """A forest that tells anomalies among requests; none if it is not given."""
    cross_validation: CrossValidation | None = None
    checkpoint: Checkpointing = Checkpointing()

    @model_validator(mode="after")
    def _one_set(self) -> Self:
        if (self.training_set is None) == (self.spec is None):
            raise ValueError("give either training_set (an id) or spec, not both")
        return self
