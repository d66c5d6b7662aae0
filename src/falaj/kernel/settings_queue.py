"""Settings of the queue of runs: teams, their quotas and budgets, and default limits."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.kernel.resources import LEAST_MEMORY

TeamName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._ -]{0,62}$")]
DEFAULT_TEAM = "everyone"


class TeamRule(BaseModel):
    """A team: who belongs to it, and what it may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: TeamName
    members: tuple[str, ...] = ()
    """Names of people and programs (``user:amina``), or ``group:`` and the ``displayName`` of a
    group that an identity provider keeps."""
    weight: int = Field(1, ge=1, le=1000)
    """Of its fair share, against the weights of the others."""
    max_runs: int | None = Field(None, ge=0)
    """So many runs at a time."""
    max_cpus: float | None = Field(None, ge=0)
    """So many cores at a time."""
    max_gpus: float | None = Field(None, ge=0)
    """So many GPUs at a time."""
    core_hours_per_month: float | None = Field(None, ge=0)
    """The budget in hours of cores, by calendar month (UTC)."""
    money_per_month: Decimal | None = Field(None, ge=0, max_digits=18, decimal_places=6)
    """The budget in the currency of the price table, by calendar month (UTC)."""


class QueueSettings(BaseModel):
    """How runs wait for machines, and what they may use."""

    model_config = ConfigDict(extra="forbid")

    teams: tuple[TeamRule, ...] = ()
    """Whoever is in none belongs to ``everyone``, which may stand here too."""
    limits: bool = False
    """Every fit runs in a process of its own under limits, also one that asks for nothing."""
    cpus: float = Field(1.0, gt=0, le=1024)
    """Cores of a run that asks for nothing."""
    memory_bytes: int = Field(4 * 2**30, ge=LEAST_MEMORY)
    """Memory of a run that asks for nothing."""
    most_seconds: float | None = Field(None, gt=0)
    """No run may take longer; None: no such limit."""
    reclaim_seconds: float = Field(60.0, ge=0, le=86_400)
    """After another job has waited so long, a run on spot resources gives way."""
    open_network: bool = False
    """Workers of one fit may talk to each other in clear, over ports open to the network, as
    the libraries do that fit on several of them."""
    idle_seconds: float = Field(300.0, ge=0, le=86_400)
    """A Ray that was started here for runs is stopped after so long without one."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [team.name for team in self.teams]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two teams have the name {sorted(twice)[0]!r}")
        return self

    def team(self, name: str) -> TeamRule:
        """The rule of a team; one without limits if there is none of that name."""
        return next((one for one in self.teams if one.name == name), TeamRule(name=name))
