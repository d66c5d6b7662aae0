"""Settings of trainers: whether functions of a user's own may train, and with how much."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TrainerSettings(BaseModel):
    """What a training job may run."""

    model_config = ConfigDict(extra="forbid")

    functions: bool = False
    """Let jobs train with Python functions from the data folders, each in a confined process."""
    function_memory_bytes: int = Field(4 * 2**30, ge=2**28)
    """So much address space may such a process have."""
    function_seconds: float = Field(3600.0, gt=0)
    """After so long it is ended."""
