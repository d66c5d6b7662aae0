"""The words of tuning: studies, their trials, what samples and what prunes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.kernel.errors import Conflict
from falaj.training.model import Name

TUNE_JOB = "training.tune"
STUDY_TAG, TRIAL_TAG, STATE_TAG = "falaj.study", "falaj.trial", "falaj.trial_state"
Metric = Annotated[str, Field(min_length=1, max_length=200)]
Direction = Literal["minimize", "maximize"]
Number = Annotated[int, Field(ge=0, le=1_000_000)]


class StudyTaken(Conflict):
    """Another process works on the study."""

    code = "study-taken"


class Pruner(BaseModel):
    """What ends a trial that promises little, judged by the values that it has reported.

    ``median``: worse than the median of earlier trials at the same step. ``halving``: not
    among the best part of its rung (successive halving). ``hyperband``: several brackets of
    halving, after Li et al., 2018.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["none", "median", "halving", "hyperband"] = "none"
    n_startup_trials: int = Field(5, ge=0)
    """``median``: so many trials are never pruned."""
    n_warmup_steps: int = Field(0, ge=0)
    """``median``: nothing is pruned before this step."""
    interval_steps: int = Field(1, ge=1)
    """``median``: pruned at every so many steps."""
    min_resource: int = Field(1, ge=1)
    """``halving`` and ``hyperband``: the step of the first rung."""
    max_resource: int | None = Field(None, ge=1)
    """``hyperband``: the last step of a trial; found from the first finished trial if None."""
    reduction_factor: int = Field(3, ge=2)
    """``halving`` and ``hyperband``: one of so many goes on at each rung."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.max_resource is not None and self.max_resource < self.min_resource:
            raise ValueError("max_resource is less than min_resource")
        return self


class StudySpec(BaseModel):
    """What a study looks for, and how.

    ``n_trials`` is how many trials it has in all, also those of earlier processes, the
    pruned and the failed ones. The same seed and one worker give the same trials, also when
    the study is interrupted and taken up again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    experiment: Name | None = None
    """The study's name if it is not given."""
    n_trials: int = Field(ge=1, le=100_000)
    metrics: tuple[Metric, ...] = ("value",)
    """A name for each value that a trial gives."""
    directions: tuple[Direction, ...] = ("minimize",)
    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    pruner: Pruner = Pruner()
    seed: int | None = Field(None, ge=0, le=2**31 - 1)
    """Chosen when the study is begun if it is not given."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.directions or len(self.directions) != len(self.metrics):
            raise ValueError("a study has one direction for each of its metrics")
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError("the metrics of a study have different names")
        if self.pruner.kind != "none" and len(self.directions) > 1:
            raise ValueError("a study of several metrics cannot be pruned")
        return self


class TrialState(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """True if the trial will not change any more."""
        return self is not TrialState.RUNNING


class TrialRecord(BaseModel):
    """One trial: what was tried, and what it gave."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    number: Number
    state: TrialState
    attempt: int = 1
    """How often it was begun: a trial whose process was lost is begun again."""
    values: tuple[float, ...] | None = None
    """One for each metric of the study."""
    params: dict[str, Any] = {}
    distributions: dict[str, str] = {}
    """What each parameter was drawn from, as Optuna writes it."""
    intermediate: dict[int, float] = {}
    """Values that were reported on the way, by step."""
    constraints: dict[str, float] = {}
    """Kept where all of them are 0 or less."""
    user_attrs: dict[str, Any] = {}
    system_attrs: dict[str, Any] = {}
    reason: str = ""
    """Why it failed."""
    started_at: datetime | None = None
    ended_at: datetime | None = None
    run: str | None = None
    """The nested run; given by the platform."""

    @property
    def feasible(self) -> bool:
        """True if it keeps all of its constraints."""
        return all(value <= 0 for value in self.constraints.values())


class Study(BaseModel):
    """A study: a run whose nested runs are its trials."""

    run: str
    """The run of the study, which names it in all actions."""
    spec: StudySpec
    created_at: datetime
    created_by: str
    tuner: str | None = None
    """Which process works on it now."""
    n_trials: dict[str, int] = {}
    """How many of its trials are in each state."""
    attrs: dict[str, Any] = {}
    """What the sampler keeps with the study."""


class Best(BaseModel):
    """How good the best trial was after each trial, of one metric."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    metric: str
    direction: Direction
    numbers: tuple[int, ...] = ()
    """The complete trials, in the order of their ends."""
    values: tuple[float, ...] = ()
    """What each of them gave."""
    best: tuple[float | None, ...] = ()
    """The best feasible value so far."""


class StudyInsight(BaseModel):
    """What a study has shown: data for plots of its history, front and importances."""

    model_config = ConfigDict(ser_json_inf_nan="strings")

    run: str
    name: str
    n_trials: dict[str, int]
    best_trials: tuple[TrialRecord, ...] = ()
    """The best feasible trial; of several metrics, those that none is better than (Pareto)."""
    history: tuple[Best, ...] = ()
    importance: dict[str, dict[str, float]] = {}
    """For each metric, how much each parameter moved it; sums to 1. Empty below two trials."""


def best_of(spec: StudySpec, trials: Sequence[TrialRecord]) -> tuple[TrialRecord, ...]:
    """The complete, feasible trials that no other one is better than in every metric.

    Of one metric that is the best trial, the earliest of equal ones.
    """
    signs = [1 if direction == "minimize" else -1 for direction in spec.directions]
    found = [
        (tuple(sign * value for sign, value in zip(signs, trial.values, strict=True)), trial)
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.values is not None and trial.feasible
    ]
    if len(signs) == 1:
        best = min(found, key=lambda one: (one[0], one[1].number), default=None)
        return () if best is None else (best[1],)
    return tuple(
        trial for values, trial in found if not any(_dominates(other, values) for other, _ in found)
    )


def history_of(spec: StudySpec, trials: Sequence[TrialRecord]) -> tuple[Best, ...]:
    """The history of each metric, in the order in which the trials ended."""
    ended = [one for one in trials if one.state is TrialState.COMPLETE and one.values is not None]
    ended.sort(key=lambda one: (one.ended_at is None, one.ended_at, one.number))
    found = []
    for place, (metric, direction) in enumerate(zip(spec.metrics, spec.directions, strict=True)):
        better = min if direction == "minimize" else max
        best: list[float | None] = []
        for trial in ended:
            before = best[-1] if best else None
            value = (trial.values or ())[place]
            if not trial.feasible or math.isnan(value):
                best.append(before)
            else:
                best.append(value if before is None else better(before, value))
        found.append(
            Best(
                metric=metric,
                direction=direction,
                numbers=tuple(trial.number for trial in ended),
                values=tuple((trial.values or ())[place] for trial in ended),
                best=tuple(best),
            )
        )
    return tuple(found)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
