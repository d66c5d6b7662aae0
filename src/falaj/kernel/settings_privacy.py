"""Settings of the keys of data subjects."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class PrivacySettings(BaseModel):
    """Where the keys of data subjects are kept: outside of the database and of backups."""

    model_config = ConfigDict(extra="forbid")

    subject_keys: str = Field("sqlite:", min_length=1)
    """``sqlite:`` (a folder in the home), ``sqlite:/path/to/folder``, or
    ``postgresql://user@host/database``, a database for this alone."""
    subject_keys_password: SecretStr | None = None
    """Of a store in PostgreSQL."""
    replica: str = ""
    """A second place of the same form. Each key that is made or destroyed stands in both
    before the call returns; empty: there is none, and a lost store loses personal fields."""
    replica_password: SecretStr | None = None
