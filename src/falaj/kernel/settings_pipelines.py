"""Settings of pipelines: how many run, how steps are kept apart, how long values are kept."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class PipelineSettings(BaseModel):
    """How runs of pipelines are executed."""

    model_config = ConfigDict(extra="forbid")

    at_once: int = Field(2, ge=1, le=64)
    """So many runs does one worker execute at a time, beside its other jobs."""
    confined: bool = True
    """Steps run only where the kernel can confine them (Landlock and seccomp)."""
    keep_days: float = Field(30.0, gt=0, le=36_500)
    """So long are values of steps kept after they were made or last taken from the cache."""
