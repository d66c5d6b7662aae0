"""Settings of a key service that is not the keyring file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

SECRETS = ("token", "secret_id", "pin", "access_key", "secret_key", "session_token")
"""Which of them come from the environment or a file alone, never from the TOML."""


class KeyServiceSettings(BaseModel):
    """How to reach the key service that ``keys`` names, and how long its answers are kept."""

    model_config = ConfigDict(extra="forbid")

    moved_from: Literal["", "keyring:"] = ""
    """Where the keys were before ``keys`` was set to another key service: what was wrapped there
    is still unwrapped there, and it goes on signing and deriving."""
    token: SecretStr | None = None
    """OpenBao, Vault: a token of the platform's own."""
    token_file: Path | None = None
    """Holds such a token; read again when the server refuses the one that was read before."""
    role_id: str = ""
    """OpenBao, Vault: log in by AppRole, with ``secret_id``."""
    secret_id: SecretStr | None = None
    pin: SecretStr | None = None
    """Of the token of a hardware module."""
    access_key: SecretStr | None = None
    """AWS KMS: who asks."""
    secret_key: SecretStr | None = None
    session_token: SecretStr | None = None
    """Of credentials for a limited time."""
    ca_file: Path | None = None
    """The authorities (PEM) that the server's certificate may be signed by."""
    certificate_file: Path | None = None
    """A client's certificate (PEM), for a server that asks for one."""
    private_key_file: Path | None = None
    timeout_seconds: float = Field(5.0, gt=0, le=60)
    """So long may one question to the key service take."""
    cache_seconds: float = Field(60.0, ge=0, le=3600)
    """So long is an unwrapped data key kept in memory; 0: not at all."""
    cache_keys: int = Field(10_000, ge=1, le=1_000_000)
    """So many of them are kept at most."""
