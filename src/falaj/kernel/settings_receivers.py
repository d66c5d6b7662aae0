"""Settings of receivers of alerts: their secrets, whom to trust, and when to give up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from falaj.kernel.errors import InvalidInput

SecretName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
SECRETS = "secrets"
Channel = Literal["alertmanager", "pagerduty", "slack", "teams", "email", "apprise"]


class SecretUse(BaseModel):
    """The one channel and server that a secret is for, whatever a declaration says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channel: Channel
    host: str = Field("", pattern=r"^([a-z0-9.-]+(:[0-9]{1,5})?)?$")
    """``name`` or ``name:port``; without a port that of the protocol. Of ``pagerduty`` the
    public one if empty; the address of slack, teams and apprise is the secret itself."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.channel in ("alertmanager", "email") and not self.host:
            raise ValueError(f"a secret of the channel {self.channel} needs the host it is for")
        if self.channel in ("slack", "teams", "apprise") and self.host:
            raise ValueError(f"the host of {self.channel} stands in the secret itself")
        return self


class ReceiverSettings(BaseModel):
    """How alerts are sent to their receivers."""

    model_config = ConfigDict(extra="forbid")

    secrets: dict[SecretName, SecretStr] = {}
    """Tokens, passwords and secret addresses by name; from the environment alone."""
    secret_files: dict[SecretName, Path] = {}
    """Files that hold one each."""
    uses: dict[SecretName, SecretUse] = {}
    """What each is for. Without an entry a secret goes to no server that a declaration names."""
    ca_file: Path | None = None
    """The authorities (PEM) of the receivers' certificates, if not public ones."""
    attempts: int = Field(10, ge=1, le=20)
    """So often is a message tried: at once, after 5 s, 20 s, 80 s … and each hour in the end."""

    def holds(self, name: str) -> bool:
        """True if there is a secret of a name."""
        return name in self.secrets or name in self.secret_files

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
