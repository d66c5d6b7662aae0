"""Settings of the audit log: who else remembers its checkpoints."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class AuditSettings(BaseModel):
    """What stands beside the audit log."""

    model_config = ConfigDict(extra="forbid")

    retain_days: int = Field(0, ge=0, le=36_500)
    """So old are records when they move from the database into an archive; 0: never."""
    archive_folder: Path | None = None
    """Where archives are written; ``audit-archive`` in the home otherwise."""
    reserved_bytes: int = Field(4 * 2**20, ge=0)
    """With less than this left on the disk of an embedded database, actions that change
    something stop, so that records can still be kept; 0: they go on until it is full."""
    witness: str = "file:"
    """``file:`` (in the home), ``file:/path``, ``s3://bucket/prefix?endpoint=…&region=…`` with
    object lock, or the ``https://…`` address of a witness's server."""
    witness_retain_days: int = Field(3650, ge=1, le=36_500)
    """How long S3 must keep each sighting, whoever asks it to delete it."""
    witness_access_key: SecretStr | None = None
    """Of the witness's bucket; ``s3_access_key`` otherwise."""
    witness_secret_key: SecretStr | None = None
    witness_token: SecretStr | None = None
    """What a witness's server asks for, as a bearer token."""
    witness_ca_file: Path | None = None
    """The certificate authority (PEM) of the witness's server, if not a public one."""
