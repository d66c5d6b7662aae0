"""Settings of identity providers: who else may say who somebody is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

SECRET = "client_secret"  # noqa: S105 - the setting's name
"""Comes from the environment or a file alone, never from the TOML."""
ProviderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


def _issuer(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("write it as https://…, without a query, exactly as the provider does")
    return text


class ProviderSettings(BaseModel):
    """One provider of OpenID Connect. A preset fills in what is not set here."""

    model_config = ConfigDict(extra="forbid")

    preset: Literal["", "entra", "keycloak", "okta", "uaepass"] = ""
    """Whose habits to expect."""
    label: str = Field("", max_length=60)
    """What people call it; they are shown "Sign in with …"."""
    issuer: Annotated[str, AfterValidator(_issuer)]
    """Its name, as it stands in its discovery document and in what it signs."""
    client_id: str = Field(min_length=1, max_length=200)
    """What this platform is called there."""
    client_secret: SecretStr | None = None
    """A client without one proves itself by PKCE alone."""
    client_secret_file: Path | None = None
    ca_file: Path | None = None
    """The authorities (PEM) of its certificate, if not public ones."""
    scopes: tuple[str, ...] = ("openid", "profile")
    name_claim: str = "preferred_username"
    """Which claim new accounts are named after; what follows an ``@`` is left out."""
    groups_claim: str = "groups"
    groups: dict[str, tuple[str, ...]] = {}
    """Which roles the members of each group have."""
    roles: tuple[str, ...] = ()
    """Which roles all have who sign in through it."""
    required_claims: dict[str, tuple[str, ...]] = {}
    """Claims that must have one of these values, or nobody is let in."""
    mfa_amr: tuple[str, ...] = ("mfa",)
    """Words of ``amr``, each of which proves two factors."""
    mfa_acr: tuple[str, ...] = ()
    """Classes of authentication that prove two factors; they are asked for in a step-up."""
    always_two_factors: bool = False
    """The operator's word that this provider lets nobody in with one factor."""
    without_proof: Literal["own_factor", "refuse"] = "own_factor"
    """When it proves one factor only: ask for one of this platform's, or refuse."""
    provision: bool = False
    """Make accounts for people who are not known here."""
    provisioned_by: str = Field("", pattern=r"^([a-z][a-z0-9._-]{1,62})?$")
    """The service account through which this provider keeps its people by SCIM: who signs in
    opens the account whose ``externalId`` is this provider's subject (Entra ID: ``oid``), with
    the roles that SCIM's groups give."""
    userinfo: bool = False
    """Ask its userinfo endpoint for what the ID token does not say, such as groups."""
    sign_out_there: bool = False
    """Signing out here leads there, to sign out as well."""


class IdentitySettings(BaseModel):
    """Who else may say who somebody is."""

    model_config = ConfigDict(extra="forbid")

    providers: dict[ProviderName, ProviderSettings] = {}


def secrets_of_providers(document: Mapping[str, Any]) -> list[str]:
    """The variables that hold what a TOML document must not: secrets of providers."""
    identity = document.get("identity")
    providers = identity.get("providers") if isinstance(identity, dict) else None
    if not isinstance(providers, dict):
        return []
    return [
        f"identity__providers__{name}__{SECRET}"
        for name, given in providers.items()
        if isinstance(given, dict) and SECRET in given
    ]
