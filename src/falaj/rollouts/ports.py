"""What a rollout needs from elsewhere: somebody who measures."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from pydantic import BaseModel

from falaj.rollouts.model import Look, Rollout


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
    memory: dict[str, object] = {}
    """What the one who measures wants to know at the next look (JSON): looks so far, the
    error that is spent, counters at the start."""


class Judge(Protocol):
    """Measures a rollout and says what follows; changes nothing."""

    def look(self, underway: Underway, now: datetime) -> tuple[Look, Mapping[str, object]]:
        """One look, and the memory for the next one.

        It reads what is there at ``now``. Looking more often never raises the error above the
        one that the rollout states. Without traffic nothing is breached and nothing decided.

        Raises:
            FalajError: something cannot be read; the rollout stays as it is.
        """
        ...
