"""The words of retraining: what causes it, what is trained, how far it goes by itself."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import NAME, Definition
from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.monitoring.schedulewords import CheckSchedule
from falaj.serving.model import EndpointName
from falaj.training.model import Column, Table, TimeSplit, TrainingRequest
from falaj.training.model import Name as ModelName

Name = Annotated[str, Field(pattern=NAME)]
GIVEN = "retraining"
"""The parameter that a pipeline's run is given its cause in, if it has it."""
CHOICE = "choice"
"""The line of a story that tells what is asked for next; it stands until the next move."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OnFinding(_Frozen):
    """A monitor found something, and its alert is open.

    ``finding`` is the alert's name after the monitor's, such as ``drift-wind_speed``; it may hold
    ``*`` and ``?``. What the monitor asks for before it raises an alert (in how many windows a
    feature must drift) holds here too.
    """

    on: Literal["finding"] = "finding"
    monitor: Name
    finding: str = Field("drift-*", min_length=1, max_length=200)
    seen: int = Field(1, ge=1, le=1000)
    """In so many checks, since the alert opened."""


class OnSchedule(_Frozen):
    """A time has come; of those at which no worker ran, the last one counts."""

    on: Literal["schedule"] = "schedule"
    cron: str | None = Field(None, max_length=100)
    """In UTC."""
    every: timedelta | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        self.times()
        return self

    def times(self) -> CheckSchedule:
        """Its times."""
        return CheckSchedule(cron=self.cron, every=self.every)


class OnLabels(_Frozen):
    """So many labels became known since the training set of the newest version was made."""

    on: Literal["labels"] = "labels"
    table: Table
    label: Column
    """Null while it is not known."""
    key: Column
    """What a label is of. A key with several labels counts once: a correction is no new label."""
    n: int = Field(ge=1)


Trigger = Annotated[OnFinding | OnSchedule | OnLabels, Field(discriminator="on")]


class NewestRows(_Frozen):
    """How a retraining divides its rows by time, counted back from when it begins."""

    lag: timedelta = timedelta(0)
    """Rows younger than this are left out: their labels are still on the way."""
    test: timedelta = Field(gt=timedelta(0))
    validation: timedelta = Field(gt=timedelta(0))
    train: timedelta | None = Field(None, gt=timedelta(0))
    """All that is older, if None."""

    def split(self, at: datetime) -> TimeSplit:
        """The boundaries of a retraining that begins at an instant."""
        end = at - self.lag
        learned = end - self.test - self.validation
        return TimeSplit(
            train_from=None if self.train is None else learned - self.train,
            train_until=learned,
            validation_until=end - self.test,
            test_until=end,
        )


class Standard(_Frozen):
    """How far a new version may differ from the champion and need nobody.

    Its feature service, its label, its inputs and their types are the champion's, and the
    champion gate's metric, on the same rows, is no worse.
    """

    template: Name
    """The approved ``change_template`` that permits the promotion (``model_promotion``), or the
    start of the rollout (``rollout.start``)."""
    no_worse_by: float = Field(0.0, ge=0)
    """The lower end of the interval of the difference lies at most so far below 0."""


class Retraining(Definition):
    """What has a model trained again, on what, and how far its new version goes by itself.

    It acts as whoever applied it, with the roles that the account has at that time. Gates
    run on each version. With ``standard``, a version inside the bounds is promoted by a
    standard change; any other promotion waits for another person. With ``rollout``, what is
    asked for, in the same two ways, is that rollout with the version in its challenger's place.
    """

    kind: ClassVar[str] = "retraining"
    relation: ClassVar[Relation] = Relation.DEFINES

    endpoint: EndpointName
    model: ModelName
    triggers: tuple[Trigger, ...] = Field(min_length=1, max_length=20)
    pipeline: Name | None = None
    """Trains and registers exactly one version of the model. Its parameter ``retraining``, if it
    has it, is given the cause."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    training: TrainingRequest | None = None
    """Or the training job itself; the split of its spec is replaced by ``newest``."""
    newest: NewestRows | None = None
    cool_down: timedelta = Field(timedelta(days=1), ge=timedelta(0))
    """After one has ended, no other begins for so long."""
    most: int = Field(8, ge=1, le=1000)
    within: timedelta = Field(timedelta(days=30), gt=timedelta(0))
    """At most ``most`` begin within this time; what would be more is refused, and told."""
    standard: Standard | None = None
    release: bool = False
    """Let the endpoint serve the version as soon as it is in production."""
    rollout: Name | None = None
    """Instead of its promotion, ask for the start of this declared rollout, of one challenger on
    the same endpoint. What becomes of the version is the rollout's to decide then."""
    active: bool = True

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.pipeline is None) == (self.training is None):
            raise ValueError("a retraining has either a pipeline or a training")
        if self.pipeline is None and self.parameters:
            raise ValueError("parameters are a pipeline's")
        if (self.training is None) != (self.newest is None):
            raise ValueError("a training needs `newest`, and nothing else does")
        if self.rollout is not None and self.release:
            raise ValueError("`rollout` tries the version; `release` lets it serve: choose one")
        if self.training is not None:
            if self.training.spec is None:
                raise ValueError("the training needs a spec: a set that stands has no newer rows")
            if self.training.model != self.model:
                raise ValueError(f"the training is of the model {self.training.model!r}")
        return self

    def references(self) -> list[AssetRef]:
        """The monitors, the endpoint, and the pipeline and the rollout if there are any."""
        named = [one.monitor for one in self.triggers if isinstance(one, OnFinding)]
        found = [AssetRef("endpoint", self.endpoint)]
        found += [AssetRef("monitor", one) for one in dict.fromkeys(named)]
        if self.pipeline is not None:
            found.append(AssetRef("pipeline", self.pipeline))
        if self.rollout is not None:
            found.append(AssetRef("rollout", self.rollout))
        return found


class RetrainingState(StrEnum):
    """Where a retraining stands; the last five are its ends."""

    BEGUN = "begun"
    TRAINING = "training"
    JUDGING = "judging"
    """Its gates run."""
    PROMOTING = "promoting"
    WAITING = "waiting"
    """For a person, who approves or rejects its change."""
    RELEASING = "releasing"
    DONE = "done"
    DECLINED = "declined"
    """Its change was rejected or withdrawn."""
    NOT_PASSED = "not_passed"
    """Its version failed its gates."""
    FAILED = "failed"
    REFUSED = "refused"
    """It was not begun: as many as are permitted had been."""

    @property
    def ended(self) -> bool:
        """True if it does not go on."""
        return list(RetrainingState).index(self) >= list(RetrainingState).index(self.DONE)


class Cause(BaseModel):
    """Why a retraining began."""

    model_config = ConfigDict(frozen=True)

    on: str
    """``finding``, ``schedule``, ``labels`` or ``asked``."""
    keys: tuple[str, ...]
    """What it stands for; no other retraining begins for one of them."""
    text: str
    """In a sentence."""
    alerts: tuple[str, ...] = ()
    reports: tuple[str, ...] = ()


class Told(BaseModel):
    """One link of the chain from a finding to a release."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    what: str
    text: str
    refs: tuple[str, ...] = ()
    """The assets and records, as ``kind:key``."""


class RetrainingRun(BaseModel):
    """One retraining: its cause, how far it is, and what came of it."""

    id: str
    retraining: str
    definition_version: int
    principal: str
    """As whom it acts."""
    state: RetrainingState
    cause: Cause
    begun_at: datetime
    ended_at: datetime | None = None
    champion: int | None = None
    """The version that served when it began."""
    job: str | None = None
    """That is waited for now, or was last."""
    pipeline_run: str | None = None
    run: str | None = None
    model: str
    version: int | None = None
    gate_report: str | None = None
    change: str | None = None
    standard: bool = False
    """Whether the change was a standard one, which needed nobody."""
    release: str | None = None
    error: dict[str, Any] | None = None
    story: list[Told] = []

    @property
    def choice(self) -> Told | None:
        """What is asked for next, or was asked for and is not told yet; None if that is open."""
        return next((one for one in self.story if one.what == CHOICE), None)


class RetrainingStatus(BaseModel):
    """A declared retraining, and how it stands."""

    retraining: Retraining
    principal: str
    running: RetrainingRun | None = None
    last: RetrainingRun | None = None
    next_not_before: datetime | None = None
    """The end of its cool-down, if that lasts."""
