"""Settings of jobs in CI: whose tokens become tokens of this platform, and of which account."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

WHOSE = frozenset(
    {
        "sub", "repository", "repository_id", "repository_owner", "repository_owner_id",
        "project_path", "project_id", "namespace_path", "namespace_id",
    }
)  # fmt: skip
"""Claims that say whose job it is: an issuer that everybody uses signs for everybody."""
_CLAIM = re.compile(r"^[A-Za-z][A-Za-z0-9_.:/-]{0,99}$")


def _names_an_owner(claim: str, value: str) -> bool:
    """True if a claim says whose job it is, with the owner's name in full before any ``*``."""
    if claim not in WHOSE or not value:
        return False
    if "*" not in value:
        return True
    certain = value.partition("*")[0]
    if claim == "sub":
        certain = certain.partition(":")[2]
    return claim in ("sub", "repository", "project_path", "namespace_path") and "/" in certain


def _issuer(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write it as the tokens do: https://token.actions.githubusercontent.com")
    if parts.username is not None:
        raise ValueError("an issuer holds no password")
    return text


class CiRule(BaseModel):
    """Which jobs are let in, as which service account."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9._-]{0,62}$")
    """Stands in the audit log."""
    issuer: Annotated[str, AfterValidator(_issuer)]
    """The claim ``iss``, to the letter."""
    audience: str = Field(min_length=1, max_length=256)
    """The claim ``aud``, to the letter: this platform's address, where the job may choose."""
    account: str
    """The service account that the job becomes."""
    claims: dict[str, str] = Field(min_length=1, max_length=20)
    """What each claim must be; ``*`` stands for letters but ``/`` and ``:``, ``**`` for any."""
    roles: tuple[str, ...] = ()
    """Those of the account that the job gets; empty: all of them."""
    purpose: str = Field("", max_length=200)
    """Why the job reads data, in all that it asks of the control plane."""
    minutes: float = Field(15, ge=1, le=15)
    """How long its token lasts."""

    @model_validator(mode="after")
    def _says_whose(self) -> Self:
        """A rule without an owner would let in every job of a public issuer."""
        strange = [name for name in self.claims if not _CLAIM.match(name)]
        if strange:
            raise ValueError(f"{strange[0]!r} is no name of a claim")
        own = {"iss", "aud", "exp", "nbf", "iat", "jti"} & set(self.claims)
        if own:
            raise ValueError(f"the claim {sorted(own)[0]} is checked by itself")
        if not any(_names_an_owner(name, value) for name, value in self.claims.items()):
            raise ValueError(
                "say whose jobs: a claim such as repository, project_path or sub that names the "
                "owner in full before any *"
            )
        return self


class CiSettings(BaseModel):
    """Jobs of CI systems that are let in without a secret of ours."""

    model_config = ConfigDict(extra="forbid")

    rules: tuple[CiRule, ...] = ()
    """Asked one after the other; the first that fits decides."""
    ca_file: Path | None = None
    """The authorities (PEM) of the issuers' certificates, if not public ones."""

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [rule.name for rule in self.rules]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two rules have the name {sorted(twice)[0]!r}")
        return self
