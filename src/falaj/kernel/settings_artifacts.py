"""Settings of artifacts: how large one may be, and how long a silent upload is waited for."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class ArtifactSettings(BaseModel):
    """The files of runs and logged models."""

    model_config = ConfigDict(extra="forbid")

    max_bytes: int = Field(50 * 2**30, gt=0)
    """The largest artifact that is taken."""
    idle_seconds: float = Field(60.0, gt=0)
    """An upload of which nothing arrives for so long is given up."""
