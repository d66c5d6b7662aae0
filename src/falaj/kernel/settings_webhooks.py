"""Settings of webhooks: whom to trust, and when to give up."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class WebhookSettings(BaseModel):
    """How events are sent to webhooks."""

    model_config = ConfigDict(extra="forbid")

    ca_file: Path | None = None
    """The authorities (PEM) of the receivers' certificates, if not public ones."""
    attempts: int = Field(8, ge=1, le=20)
    """So often is a delivery tried: at once, after 5 s, 20 s, 80 s … (about 8 hours for 8)."""
