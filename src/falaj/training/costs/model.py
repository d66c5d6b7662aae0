"""The words of costs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from falaj.kernel.resources import Resources, Used

Rate = Annotated[Decimal, Field(ge=0, max_digits=18, decimal_places=6)]
Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
SMALLEST = Decimal("0.000001")
"""Amounts are whole millionths of the currency's unit."""


class Prices(BaseModel):
    """What resources cost an hour, from an instant on until the next price table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    currency: Currency
    cpu_hour: Rate
    """Of one core."""
    memory_gib_hour: Rate = Decimal(0)
    """Of one GiB of memory."""
    gpu_hour: Rate = Decimal(0)
    """Of one GPU."""
    spot_share: Annotated[Decimal, Field(ge=0, le=1, decimal_places=6)] = Decimal(1)
    """What part of these prices spot resources cost."""


class PriceTable(BaseModel):
    """One version of the prices."""

    version: int
    prices: Prices
    valid_from: datetime
    set_by: str
    set_at: datetime


class Charge(BaseModel):
    """What one price table charges for one attempt at a run."""

    version: int
    begins_at: datetime
    ends_at: datetime
    currency: str
    amount: Decimal


class UsageKind(StrEnum):
    """What was charged."""

    FIT = "fit"
    TRIAL = "trial"
    """Of a study; its run is the study's."""
    STEP = "step"
    """Of a run of a pipeline."""


class RunUsage(BaseModel):
    """One attempt at a run, or at a part of one: what it asked for, what it used, how it ended,
    what it cost."""

    id: str
    run: str
    model: str
    team: str
    job: str
    begun_at: datetime
    ended_at: datetime
    resources: Resources
    used: Used
    limited: bool
    """Whether it ran in a process of its own; else its figures are of the whole worker."""
    outcome: str
    """``done``, or the code of the error that ended it."""
    kind: UsageKind = UsageKind.FIT
    part: str = ""
    """Of a run: the number of a trial, the name of a step; empty for a fit."""
    charges: tuple[Charge, ...] = ()


class Amount(BaseModel):
    """A sum of money in one currency; exact."""

    currency: str
    amount: Decimal


class CostLine(BaseModel):
    """What one thing (a run, model, team or month) has used and cost."""

    name: str
    n_attempts: int
    core_hours: float
    """Hours of cores that were held for it."""
    gpu_hours: float
    cpu_seconds: float
    """Processor time that it used of them."""
    amounts: tuple[Amount, ...]
    """One for each currency; empty where there was no price."""


class CostReport(BaseModel):
    """Costs by one kind of thing; the lines add up to the totals exactly."""

    by: str
    since: datetime | None
    until: datetime | None
    lines: tuple[CostLine, ...]
    totals: tuple[Amount, ...]
    n_unpriced: int
    """Attempts at a time without prices."""


class Grouping(StrEnum):
    """By what costs are added up."""

    RUN = "run"
    MODEL = "model"
    TEAM = "team"
    MONTH = "month"
    KIND = "kind"
    """Fits, trials and steps."""


class ModelCost(BaseModel):
    """What training a model has cost, and for how many predictions."""

    model: str
    n_predictions: int
    cost: tuple[Amount, ...]
    per_1000_predictions: tuple[Amount, ...]
    """Rounded to millionths, half to even; empty without predictions."""


class Budget(BaseModel):
    """A team's budget in one calendar month (UTC), and what is gone of it."""

    team: str
    month: str
    """``2026-11``."""
    core_hours: float | None
    used_core_hours: float
    money: Decimal | None
    spent: tuple[Amount, ...]
    """With what runs now has cost so far."""
    over: str = ""
    """Why nothing more begins; empty while something is left."""


class Advice(BaseModel):
    """What a model's runs should ask for, from what its past runs used."""

    model: str
    n_runs: int
    asked: Resources | None
    """By the last run."""
    advised: Resources | None
    """None without a run that was measured by itself."""
    reasons: tuple[str, ...]
