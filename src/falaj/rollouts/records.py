"""The records of rollouts: one run of one, what was seen at each look, and how it stands."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from falaj.operations.model import Entry
from falaj.rollouts.model import Look, Rollout, RolloutKind, RolloutState
from falaj.rollouts.ports import Underway

SYSTEM = "system:rollouts"
"""On whose behalf rollouts are looked after."""


class Step(StrEnum):
    """What is left to do of a run, in this order; each is done once, in a transaction."""

    LOOK = "look"
    """It is looked at."""
    RECORD = "record"
    """Rolled back: the incident and the emergency change."""
    QUARANTINE = "quarantine"
    """Rolled back: the challengers that did harm."""
    RELEASE = "release"
    """Ended without a winner: a release of the champion alone."""
    PROMOTE = "promote"
    """Succeeded: the change that promotes the winner is asked for. If it cannot be asked for,
    guardrails are looked at before it is tried again."""
    AWAIT = "await"
    """Succeeded: that change is not decided yet. Guardrails are still looked at."""
    KEEP = "keep"
    """Promoted: a release of the winner alone; if that fails, watched as ``PROMOTE`` is."""
    NOTHING = "nothing"

    @property
    def looks(self) -> bool:
        """True while the run is measured."""
        return self in (Step.LOOK, Step.AWAIT)

    @property
    def divides(self) -> bool:
        """True while challengers may meet units, so that harm must end it."""
        return self in (Step.LOOK, Step.PROMOTE, Step.AWAIT, Step.KEEP)


class Outcome(BaseModel):
    """What a run led to."""

    winner: str | None = None
    harmful: list[str] = []
    """Challengers that breached a guardrail."""
    promotion: str | None = None
    """The change that promotes the winner."""
    incident: str | None = None
    emergency: str | None = None
    """The emergency change of a rollback."""
    release: str | None = None
    """That of the one variant which serves alone in the end."""


class Run(BaseModel):
    """One run of a rollout, from its start to its end."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    """Of the rollout."""
    endpoint: str
    layer: str | None = None
    low: float = 0.0
    high: float = 1.0
    """Its stretch of the places of its layer."""
    rollout: Rollout
    """As it was declared when the start was asked for."""
    state: RolloutState
    step: Step
    """What is left to do."""
    why: str = ""
    """Why it stands as it stands, in a sentence."""
    change: str
    """The change that started it."""
    release: str
    model: str
    champion: int
    """The version that was champion at the start."""
    stage: int = 0
    """Of a canary: which stage it is in, from 0."""
    stage_since: datetime
    shares: dict[str, float]
    """Present shares by variant."""
    shares_since: datetime
    dismissed: list[str] = []
    """Guardrails, as ``metric`` or ``metric/challenger``, whose breach leads to nothing."""
    outcome: Outcome = Outcome()
    started_at: datetime
    started_by: str
    ended_at: datetime | None = None
    ended_by: str | None = None
    n_looks: int = 0
    failures: int = 0
    """Of what was tried last, in a row."""
    due_at: datetime | None = None
    """When it is looked at next; None if nothing is left to do."""
    revision: int = 0

    @property
    def is_open(self) -> bool:
        """True while something is left to do, so that the endpoint can have no other."""
        return self.step is not Step.NOTHING

    @property
    def is_live(self) -> bool:
        """True while the units are divided as the rollout says and a person may change it."""
        return self.step is Step.LOOK

    def underway(
        self, memory: dict[str, object], changes: list[tuple[datetime, dict[str, float]]]
    ) -> Underway:
        """As the one who measures must know it."""
        return Underway(
            id=self.id,
            rollout=self.rollout,
            release=self.release,
            started_at=self.started_at,
            shares=self.shares,
            shares_since=self.shares_since,
            dismissed=self.dismissed,
            changes=changes,
            low=self.low,
            high=self.high,
            memory=memory,
        )


class KeptLook(BaseModel):
    """One look that is kept as evidence."""

    model_config = ConfigDict(frozen=True)

    seq: int
    at: datetime
    stage: int
    shares: dict[str, float]
    look: Look
    decision: str
    """What it led to: ``wait``, ``advance``, ``weigh``, ``succeed`` …"""
    why: str


class RolloutSummary(BaseModel):
    """A declared rollout in a list."""

    name: str
    endpoint: str
    how: RolloutKind
    state: RolloutState | None
    """Of its newest run; None if it never ran."""
    run: str | None
    stage: int | None
    shares: dict[str, float]
    started_at: datetime | None
    why: str


class PlotPoint(BaseModel):
    """The figures of one challenger at one look, for a plot."""

    at: datetime
    challenger: str
    metric: str
    estimate: float | None
    """Relative difference to the champion, positive for better."""
    low: float | None
    high: float | None


class Agreement(BaseModel):
    """How far a shadow's challenger says what the champion says."""

    challenger: str
    n_champion: int
    n_challenger: int
    """Scores of each since the run began."""
    mean_champion: float | None = None
    mean_challenger: float | None = None
    greatest_gap: float | None = None
    """The greatest difference between the shares of scores up to a point, from 0 to 1."""
    gap_at: float | None = None
    """That point."""


class RolloutStatus(BaseModel):
    """A rollout now: as declared, its newest run, the latest look, and the data of plots."""

    rollout: Rollout
    run: Run | None
    latest: KeptLook | None
    plot: list[PlotPoint]
    """Success metrics over the looks, the oldest first; at most ``MOST_PLOTTED`` looks."""
    agreement: list[Agreement] = []
    """Of a shadow: how far its challengers say what the champion says."""

    def for_people(self) -> dict[str, Any]:
        """What is shown at a terminal: how it stands first, and the declaration once."""
        from falaj.rollouts.telling import told

        return told(self)


class RolloutHistory(BaseModel):
    """All runs of a rollout, the newest first, and what happened to the newest one."""

    runs: list[Run]
    entries: list[Entry]


def plotted(looks: list[KeptLook]) -> list[PlotPoint]:
    """The figures of success over looks, in their order."""
    return [
        PlotPoint(
            at=one.at,
            challenger=reading.challenger,
            metric=reading.metric,
            estimate=reading.estimate,
            low=reading.low,
            high=reading.high,
        )
        for one in looks
        for reading in one.look.success
    ]


def evidence_of(run: Run, looks: list[KeptLook], **more: Any) -> dict[str, Any]:
    """What a person is shown who decides on what a run led to: JSON-ready."""
    latest = looks[-1] if looks else None
    return {
        "run": run.id,
        "rollout": run.rollout.document(),
        "state": str(run.state),
        "why": run.why,
        "shares": run.shares,
        "started_at": run.started_at.isoformat(),
        "n_looks": run.n_looks,
        "units": latest.look.units if latest else {},
        "guardrails": [one.model_dump(mode="json") for one in latest.look.guardrails]
        if latest
        else [],
        "success": [one.model_dump(mode="json") for one in latest.look.success] if latest else [],
        "plot": [one.model_dump(mode="json") for one in plotted(looks)],
        **more,
    }
