"""Settings of certificates: of programs, and of the platform's own processes."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class CertificateSettings(BaseModel):
    """With which certificates programs and processes prove who they are."""

    model_config = ConfigDict(extra="forbid")

    trust_domain: str = Field("falaj", pattern=r"^[a-z0-9._-]{1,255}$")
    """The first part of every identity: ``spiffe://falaj/service/ci``."""
    program_minutes: float = Field(60.0, ge=2, le=1440)
    """So long is a certificate of a program valid; it is renewed when half of that is left."""
    client_ca_file: Path | None = None
    """Further authorities (PEM) whose certificates of programs the control plane takes."""
    check_seconds: float = Field(60.0, ge=0.05, le=3600)
    """So often running servers look whether their certificate has been renewed."""
    metrics_need_certificate: bool = False
    """True: ``/metrics`` of workers answers who shows a certificate of the built-in authority."""
