"""What a training request says of the machines that it wants, and of its place in the queue."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from falaj.kernel.resources import Resources


class RunRequest(BaseModel):
    """The part of a request that the queue and the machines read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resources: Resources | None = None
    """What it may use; without it, what the settings of the queue say."""
    priority: int = Field(50, ge=0, le=100)
    """Within its team: greater goes first."""
    team: str | None = Field(None, max_length=63)
    """Whose share and budget it uses; the first team of its submitter if it is not given."""
