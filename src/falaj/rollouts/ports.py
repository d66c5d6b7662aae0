"""What a rollout needs from elsewhere: somebody who measures, and somebody who divides traffic."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict

from falaj.rollouts.model import Look, Rollout

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.operations.model import Change
    from falaj.rollouts.records import Run


class Underway(BaseModel):
    """A rollout that runs, as the one who measures must know it."""

    id: str
    """Of this run of it (``rol_…``)."""
    rollout: Rollout
    release: str
    """The release that serves champion and challengers."""
    started_at: datetime
    shares: dict[str, float]
    """Present shares by variant, the champion among them."""
    shares_since: datetime
    """When the present shares began: units are counted against shares from here on."""
    dismissed: list[str] = []
    """Guardrails, as ``metric`` or ``metric/challenger``, whose breach leads to nothing: they must
    not keep anything else from being measured."""
    changes: list[tuple[datetime, dict[str, float]]] = []
    """From when on which shares held, the newest ones, in their order; the last are present."""
    low: float = 0.0
    high: float = 1.0
    """The stretch of the places of its layer that is the rollout's."""
    memory: dict[str, object] = {}
    """What the one who measures wants to know at the next look (JSON): looks so far, the
    error that is spent, counters at the start."""


class Judge(Protocol):
    """Measures a rollout and says what follows; changes nothing."""

    def look(self, underway: Underway, now: datetime) -> tuple[Look, Mapping[str, object]]:
        """One look, and the memory for the next one.

        It reads what is there at ``now``. Looking more often never raises the error above the
        one that the rollout states. Without traffic nothing is breached and nothing decided.

        What cannot be measured is told with the look (``unmeasured``); all else is measured,
        and remembered, nevertheless.

        Raises:
            FalajError: nothing can be read at all; the rollout stays as it is.
        """
        ...

    def forget(self, rollout: str) -> None:
        """Keep nothing more in memory of a run that has ended, by its id."""
        ...


class Division(BaseModel):
    """How a rollout that begins wants the endpoint's units divided."""

    model_config = ConfigDict(frozen=True)

    run: str
    """The id of the run (``rol_…``)."""
    rollout: Rollout
    shares: dict[str, float]
    """By variant, the champion among them: with these it begins."""
    change: str
    """The approved change that permits it."""


class Began(BaseModel):
    """What serves since a rollout has begun."""

    model_config = ConfigDict(frozen=True)

    release: str
    model: str
    """The endpoint's model."""
    champion: int
    """The version of it that serves as champion."""
    low: float = 0.0
    high: float = 1.0
    """The stretch of the places of its layer that is the rollout's."""


class Traffic(Protocol):
    """Divides the units of an endpoint between variants; each verb joins the call's transaction.

    What a verb asked for holds on every worker at most a second after the commit, and not at
    all if the transaction is rolled back. Every verb may be repeated.
    """

    def serving(self, connection: Connection, endpoint: str) -> str | None:
        """The id of the release that serves now; None if none does."""
        ...

    def begin_rollout(self, call: Call, division: Division) -> Began:
        """Let the champion and the challengers serve.

        Raises:
            Conflict: the endpoint serves nothing, or a challenger may not be served.
            ReleaseRefused, Unavailable: a worker cannot load it; nothing was changed.
        """
        ...

    def divide(self, call: Call, endpoint: str, shares: Mapping[str, float]) -> None:
        """Give each challenger its share from now on; the champion has the rest.

        Shares of a shadow's challengers are of the rows that they run on, behind the answer.

        Raises:
            Conflict: no rollout is underway on the endpoint.
        """
        ...

    def halt(self, endpoint: str) -> None:
        """Let no later request on this machine meet a challenger, before anything is recorded.

        ``divide`` must follow, whose transaction may have to wait: what is not committed is
        taken back within seconds.
        """
        ...

    def end_rollout(self, call: Call, endpoint: str, *, keep: str) -> str:
        """Let one variant serve alone; returns the id of its release.

        Raises:
            Conflict: its model version may not be served alone.
            ReleaseRefused, Unavailable: a worker cannot load it; nothing was changed.
        """
        ...

    def quarantine(self, call: Call, model: str, version: int, reason: str) -> None:
        """Let a model version not be served again before a person lifts it."""
        ...


class Samples(Protocol):
    """Tells requests that a variant answered, for the eyes of who looks into an incident."""

    def request_ids(self, run: Run, variant: str, *, limit: int = 20) -> list[str]:
        """The ids of the newest requests since the run began that are in the log already.

        Raises:
            FalajError: the log cannot be read.
        """
        ...


class Versions(Protocol):
    """Model versions that shall be tried in the place of a declared challenger's."""

    def told(self, call: Call, endpoint: str, version: int) -> dict[str, Any]:
        """What whoever decides is shown of a version (JSON): its ``model``, ``version``,
        ``stage`` and gates, and how it compares with the champion.

        Raises:
            NotFound: no such endpoint or version.
            GatesNotPassed, Conflict: its gates were not passed, or not against today's champion.
            Forbidden: it stands in no stage that is tried yet, and the caller may not ask for one.
        """
        ...

    def staged(self, call: Call, change: Change, model: str, version: int) -> None:
        """Let a version in development take staging, by the change that has it tried.

        Raises:
            GatesNotPassed, Conflict: its gates do not hold any more.
        """
        ...
