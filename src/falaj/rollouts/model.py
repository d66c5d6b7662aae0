"""The words of rollouts: what is declared, where a rollout stands, and what was seen of it."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import NAME, Definition
from falaj.kernel.call import AssetRef
from falaj.serving.model import EndpointName

Name = Annotated[str, Field(pattern=NAME)]
Share = Annotated[float, Field(gt=0, le=1)]
Error = Annotated[float, Field(gt=0, lt=0.5)]
Spending = Literal["obrien_fleming", "pocock"]
"""How a group sequential design spends its error over the looks."""
CHAMPION = "champion"
BUILT_IN = ("error_rate", "latency")
"""Metrics that need no declaration: they are read from what the workers count."""
LEAST_PERIODS = 20
"""Of an interleaved rollout, before errors and latency are judged."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RolloutKind(StrEnum):
    """How units meet the challengers."""

    SHADOW = "shadow"
    """Challengers run after the answer; nobody sees what they say."""
    CANARY = "canary"
    """A share that grows by steps while no guardrail is breached."""
    AB = "ab"
    """Fixed shares until the success metric decides."""
    BANDIT = "bandit"
    """Shares that follow what pays, with a floor for each."""
    INTERLEAVED = "interleaved"
    """Whole segments alternate between the variants from period to period."""


class RolloutState(StrEnum):
    """Where a rollout stands; the last three are its ends."""

    RUNNING = "running"
    PAUSED = "paused"
    """Shares stay as they are; nothing is decided but guardrails."""
    SUCCEEDED = "succeeded"
    ROLLED_BACK = "rolled_back"
    STOPPED = "stopped"
    """Ended by a person, or at its longest time without a decision."""


class MetricKind(StrEnum):
    """What the values of a metric are, and so how variants are compared."""

    PROPORTION = "proportion"
    """0 or 1 for a unit."""
    MEAN = "mean"
    """A number for a unit."""
    RATIO = "ratio"
    """A numerator and a denominator for a unit; compared by the delta method."""
    EVENTS = "events"
    """Counted events, such as errors; compared exactly."""
    QUANTILE = "quantile"
    """A quantile of a number, such as of the latency."""


class Metric(Definition):
    """What is measured of each unit that met a variant.

    ``sql`` is one SELECT over the tables of the lake that gives the columns ``unit``,
    ``known_at`` (when it became known, UTC), ``value`` (and ``denominator`` for a ratio, and
    ``variant`` for a shadow rollout, whose units meet all variants). ``function`` names
    a Python function instead (``module:name`` from the declaring repository) that is given the
    endpoint's predictions and the label tables as Arrow tables and returns such a table.
    """

    kind: ClassVar[str] = "metric"

    measures: MetricKind = MetricKind.PROPORTION
    better: Literal["higher", "lower"] = "higher"
    sql: str | None = None
    function: str | None = None
    tables: tuple[str, ...] = ()
    """The lake tables that it reads; the reader of a metric must be allowed to read them."""
    quantile: float = Field(default=0.99, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_source(self) -> Metric:
        if (self.sql is None) == (self.function is None):
            raise ValueError("a metric has either sql or a function")
        return self

    def references(self) -> list[AssetRef]:
        """The tables that it reads."""
        return [AssetRef("table", table) for table in self.tables]


class Challenger(_Frozen):
    """A model version that is tried against the champion, the release that serves already."""

    name: Name
    version: int = Field(ge=1)
    """Of the endpoint's model."""
    share: Share = 0.1
    """Of the units at the end: canaries grow up to it."""


class Stage(_Frozen):
    """One step of a canary."""

    share: Share
    """Of all units, for each challenger; at most the challenger's own."""
    hold: timedelta = timedelta(minutes=10)
    """At least so long."""
    least_units: int = Field(default=100, ge=0)
    """And at least so many units for each challenger, counted since the rollout began: without
    traffic it waits."""


class Guardrail(_Frozen):
    """What must not become worse; a breach rolls back."""

    metric: str
    """A built-in metric (``error_rate``, ``latency``) or a declared one."""
    tolerated: float = Field(default=0.0, ge=0)
    """How much worse is no harm yet, relative to the champion (0.02: two per cent)."""
    between: str | None = None
    """A request field by whose values groups are told apart: then the guardrail is of fairness.
    Harm is that two groups lie further apart (in the metric's unit) than with the champion, by
    more than ``tolerated``."""


class Success(_Frozen):
    """What decides for a challenger."""

    metric: str
    method: Literal["always_valid", "group_sequential"] = "always_valid"
    error: Error = 0.05
    power: float = Field(default=0.9, gt=0.5, lt=1)
    effect: float = Field(default=0.05, gt=0)
    """The smallest difference that matters, relative to the champion."""
    non_inferiority: float | None = Field(default=None, gt=0)
    """Enough is not to be worse by this, relative to the champion."""
    looks: int = Field(default=5, ge=1, le=200)
    """Of a group sequential design."""
    spending: Spending = "obrien_fleming"
    most_units: int | None = Field(default=None, ge=2)
    """The planned sample over all variants; from ``effect`` and ``power`` if None."""
    covariate: str | None = None
    """A declared metric from before the rollout, by which variance is reduced (CUPED)."""
    segments: tuple[str, ...] = ()
    """Request fields by whose values the effect is told as well."""


class Rollout(Definition):
    """One or more challengers on an endpoint, under a rule that decides about them."""

    kind: ClassVar[str] = "rollout"

    endpoint: EndpointName
    how: RolloutKind = RolloutKind.CANARY
    challengers: tuple[Challenger, ...] = Field(min_length=1, max_length=8)
    stages: tuple[Stage, ...] = ()
    """Of a canary, in order; the last one reaches the challenger's share."""
    guardrails: tuple[Guardrail, ...] = (
        Guardrail(metric="error_rate"),
        Guardrail(metric="latency", tolerated=0.25),
    )
    guardrail_error: Error = 0.05
    """Over all guardrails, challengers and looks together."""
    success: Success | None = None
    layer: Name | None = None
    """Rollouts of one layer exclude each other."""
    layer_share: Share = 1.0
    """Of the layer's units."""
    holdout: float = Field(default=0.0, ge=0, lt=1)
    """Of all units, the share that meets the champion in every rollout of the endpoint."""
    floor: float = Field(default=0.02, ge=0, lt=0.5)
    """Of a bandit: the least share of a challenger while it runs."""
    segment: str | None = None
    """Of an interleaved rollout: the request field whose values alternate."""
    period: timedelta = timedelta(hours=1)
    """Of an interleaved rollout: how long a segment meets one variant."""
    look_every: timedelta = timedelta(seconds=30)
    longest: timedelta = timedelta(days=30)
    at_longest: Literal["champion", "promote"] = "champion"
    """What a run ends with that took its longest time and was not decided: the champion alone, or
    a request to promote its one challenger, where all guardrails were judged and held."""

    @model_validator(mode="after")
    def _whole(self) -> Rollout:
        names = [one.name for one in self.challengers]
        if len(set(names)) != len(names) or CHAMPION in names:
            raise ValueError("challengers need names of their own, other than champion")
        guarded = [(one.metric, one.between) for one in self.guardrails]
        if len(set(guarded)) != len(guarded):
            raise ValueError("a metric is guarded twice in the same way: state one tolerance")
        if self.how is not RolloutKind.SHADOW and sum(c.share for c in self.challengers) > 1:
            raise ValueError("the shares of the challengers sum to more than 1")
        if self.how is RolloutKind.CANARY and not self.stages:
            raise ValueError("a canary needs stages")
        if self.how is RolloutKind.CANARY and len(names) > 1 and self.success is None:
            raise ValueError("a canary of several challengers needs a success metric to choose by")
        if self.how is RolloutKind.BANDIT and min(c.share for c in self.challengers) < self.floor:
            raise ValueError("a bandit's floor is above the share of a challenger")
        if (self.segment is None) == (self.how is RolloutKind.INTERLEAVED):
            raise ValueError("an interleaved rollout, and only that, needs a segment")
        if self.how in (RolloutKind.AB, RolloutKind.BANDIT) and self.success is None:
            raise ValueError(f"a rollout of kind {self.how} needs a success metric")
        if self.at_longest == "promote":
            self._check_promoted_at_longest()
        return self

    def _check_promoted_at_longest(self) -> None:
        if self.how in (RolloutKind.SHADOW, RolloutKind.BANDIT):
            raise ValueError(f"a rollout of kind {self.how} is not promoted at its longest time")
        if len(self.challengers) > 1:
            raise ValueError("of several challengers, only a decision can promote one")
        if not self.guardrails:
            raise ValueError("without guardrails nothing can have held: at_longest is champion")

    @property
    def fields(self) -> tuple[str, ...]:
        """The request fields by whose values units are told apart; an interleaved one's first."""
        found = [self.segment] if self.how is RolloutKind.INTERLEAVED else []
        found += [one.between for one in self.guardrails]
        found += list(self.success.segments) if self.success is not None else []
        return tuple(dict.fromkeys(one for one in found if one))

    def references(self) -> list[AssetRef]:
        """The endpoint, and the declared metrics."""
        named = [one.metric for one in self.guardrails]
        if self.success is not None:
            named += filter(None, (self.success.metric, self.success.covariate))
        metrics = [one for one in dict.fromkeys(named) if one not in BUILT_IN]
        return [AssetRef("endpoint", self.endpoint), *(AssetRef("metric", one) for one in metrics)]


class GuardrailReading(BaseModel):
    """One guardrail of one challenger at a look."""

    metric: str
    challenger: str
    n_champion: float
    n_challenger: float
    champion: float | None
    """The figure of each side; None without data."""
    challenger_value: float | None
    worse_by: float | None
    """Relative; how much worse than the champion the challenger surely is at least."""
    error: float
    """The part of the rollout's error that this one may spend."""
    judged: bool = False
    """True if evidence was there and was compared with what shows harm; without, it guards
    nothing yet. Looks from before this was kept have it not."""
    breached: bool = False
    why: str = ""

    def is_among(self, names: Collection[str]) -> bool:
        """True if one of the names, ``metric`` or ``metric/challenger``, is this guardrail's."""
        return self.metric in names or f"{self.metric}/{self.challenger}" in names


class SuccessReading(BaseModel):
    """The success metric of one challenger at a look."""

    metric: str
    challenger: str
    n_champion: float
    n_challenger: float
    estimate: float | None
    """Relative difference to the champion, positive for better."""
    low: float | None
    high: float | None
    decided: Literal["better", "not_worse", "worse", "no_difference"] | None = None
    """``no_difference``: the planned sample is there, and nothing was shown."""
    why: str = ""


class SegmentReading(BaseModel):
    """The success metric within the units of one segment; told, and decides nothing."""

    challenger: str
    field: str
    value: str
    units: int
    estimate: float
    """Relative difference to the champion, positive for better."""
    p_value: float
    """That the segment's difference is the one of all others, adjusted for all segments."""
    differs: bool
    """True if it is shown, with a false discovery rate of the metric's error."""


class ChanceReading(BaseModel):
    """What a Bayesian says of a variant; told, and decides nothing."""

    variant: str
    best: float
    """The chance that it is the best of all."""
    expected_loss: float
    """How much of the metric is lost on average if it is chosen and is not the best."""


class Look(BaseModel):
    """What was measured and concluded at one look."""

    guardrails: list[GuardrailReading] = []
    success: list[SuccessReading] = []
    units: dict[str, int] = {}
    """By variant."""
    mismatch: bool = False
    """The variants did not get the shares of units that they should: nothing is to be trusted."""
    unmeasured: str = ""
    """What could not be measured, and why; empty if all was. From such a look nothing good is
    concluded."""
    weights: dict[str, float] = {}
    """Of a bandit: the shares that it asks for, by variant."""
    segments: list[SegmentReading] = []
    chances: list[ChanceReading] = []

    @property
    def breached(self) -> list[GuardrailReading]:
        """The guardrails that were breached."""
        return [one for one in self.guardrails if one.breached]
