"""The words of planning: what applying a set of definitions would do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict


class Step(StrEnum):
    """What happens to one definition."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    KEPT = "removed-but-kept"  # no longer declared; it stays until it is retired


class FieldChange(BaseModel):
    """One field of a definition that would change."""

    model_config = ConfigDict(frozen=True)

    field: str
    before: Any = None
    after: Any = None
    compatible: bool | None = None
    """False if what was computed before would be computed otherwise after; None: not judged."""
    why: str = ""
    """What the judgement rests on."""


class PlannedDefinition(BaseModel):
    """What would happen to one definition."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    step: Step
    version: int
    """The version that it has afterwards."""
    fingerprint: str
    changes: list[FieldChange] = []
    """The fields that differ, for an update."""
    obstacles: list[str] = []
    """What keeps it from being applied, one sentence each."""
    way_out: str = ""
    """What to do about the obstacles."""

    @property
    def compatible(self) -> bool:
        """False if a change of it was judged incompatible."""
        return not any(change.compatible is False for change in self.changes)


class Plan(BaseModel):
    """What applying would do, in the order in which it would be done."""

    model_config = ConfigDict(frozen=True)

    items: list[PlannedDefinition]
    digest: str
    """SHA-256 in hex over the items: give it to ``apply`` to do this plan and no other."""

    def effective(self) -> Iterator[PlannedDefinition]:
        """The items that change something."""
        return (item for item in self.items if item.step in (Step.CREATE, Step.UPDATE))

    def summary(self) -> dict[str, int]:
        """How many definitions take each step."""
        return {str(step): sum(item.step is step for item in self.items) for step in Step}


class VersionedDefinition(BaseModel):
    """One version of a definition: the document, who applied it and when."""

    model_config = ConfigDict(frozen=True)

    kind: str
    name: str
    version: int
    fingerprint: str
    document: dict[str, Any]
    at: datetime
    by: str
