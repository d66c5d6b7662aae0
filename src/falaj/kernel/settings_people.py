"""Settings of people at the front: where pages are reached, how one signs in, who may be called."""

from __future__ import annotations

import re
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_DOMAIN = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.path or parts.query:
        raise ValueError("write it as https://name or https://name:port, without a path")
    return text.lower()


def is_domain(name: str) -> bool:
    """True for a host name that passkeys can belong to: no address of a network."""
    return bool(_DOMAIN.match(name)) and not name.replace(".", "").isdigit()


class SignInSettings(BaseModel):
    """How people sign in."""

    model_config = ConfigDict(extra="forbid")

    origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = ()
    """Addresses under which browsers reach the pages; empty: ``http.names`` at ``http.port``."""
    rp_id: str = ""
    """The domain that passkeys belong to; empty: the first of the names that is a domain."""
    session_hours: float = Field(12.0, gt=0, le=168)
    """A browser's session that is not used for so long ends."""
    device_minutes: float = Field(10.0, ge=1, le=60)
    """So long may a code of ``falaj login --device`` wait for its approval."""

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        """A browser lets a page use passkeys of its own name, or of one above it, alone."""
        if self.rp_id and not is_domain(self.rp_id):
            raise ValueError("rp_id is a domain, such as falaj.example.ae")
        hosts = [urlsplit(origin).hostname or "" for origin in self.origins]
        strange = [host for host in hosts if not f".{host}".endswith(f".{self.rp_id}")]
        if self.rp_id and strange:
            raise ValueError(f"the origin {strange[0]} does not lie in the domain {self.rp_id}")
        return self


class OutgoingSettings(BaseModel):
    """Which addresses the platform may call on behalf of somebody."""

    model_config = ConfigDict(extra="forbid")

    allowed: tuple[str, ...] = ()
    """Names, addresses or networks (``10.1.0.0/16``) inside that may be called all the same."""
    timeout_seconds: float = Field(10.0, gt=0, le=300)
    max_bytes: int = Field(1 << 20, ge=1 << 10, le=1 << 30)
    """A larger answer is refused."""
