"""The words of policies: why something is decided, and what other policies would change."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

KEPT_DAYS = 30
"""For how long the questions that policies were asked are kept."""


class Why(BaseModel):
    """A decision and how it came about."""

    model_config = ConfigDict(frozen=True)

    allowed: bool
    reasons: tuple[str, ...]
    """Ids of the policies that decided."""
    policies: tuple[str, ...]
    """Their text."""
    roles: tuple[str, ...]
    groups: tuple[str, ...]
    """The groups that the action stands in."""
    would_help: tuple[str, ...]
    """Of ``step-up`` and ``purpose``: what would turn a no into a yes."""


class Difference(BaseModel):
    """One question that other policies answer otherwise."""

    model_config = ConfigDict(frozen=True)

    who: str
    roles: tuple[str, ...]
    action: str
    what: str
    before: bool
    after: bool
    reasons: tuple[str, ...]
    """The ids of the policies that would decide."""


class Comparison(BaseModel):
    """What other policies would change of what was asked in the last days."""

    model_config = ConfigDict(frozen=True)

    days: int
    n_questions: int
    n_differences: int
    differences: list[Difference]
    """The first ones."""
