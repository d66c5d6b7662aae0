"""Settings of receivers of alerts: their secrets, whom to trust, and when to give up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from falaj.kernel.errors import InvalidInput

SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
SECRETS = "secrets"


class ReceiverSettings(BaseModel):
    """How alerts are sent to their receivers."""

    model_config = ConfigDict(extra="forbid")

    secrets: dict[SecretName, SecretStr] = {}
    """Tokens, passwords and secret addresses by name; from the environment alone."""
    secret_files: dict[SecretName, Path] = {}
    """Files that hold one each."""
    ca_file: Path | None = None
    """The authorities (PEM) of the receivers' certificates, if not public ones."""
    attempts: int = Field(10, ge=1, le=20)
    """So often is a message tried: at once, after 5 s, 20 s, 80 s … and each hour in the end."""

    def secret(self, name: str) -> str:
        """The secret of a name; empty if there is none.

        Raises:
            InvalidInput: its file cannot be read.
        """
        if name in self.secrets:
            return self.secrets[name].get_secret_value()
        file = self.secret_files.get(name)
        if file is None:
            return ""
        try:
            return file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(
                f"The file of the secret {name!r} cannot be read: {type(error).__name__}.",
                hint="It is named by the setting receivers.secret_files.",
            ) from None


def secrets_of_receivers(document: Mapping[str, Any]) -> list[str]:
    """The variables that hold what a TOML document must not: secrets of receivers."""
    receivers = document.get("receivers")
    held = receivers.get(SECRETS) if isinstance(receivers, dict) else None
    return [f"receivers__{SECRETS}__{name}" for name in held] if isinstance(held, dict) else []
