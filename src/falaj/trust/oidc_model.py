"""The words of signing in through an identity provider (OpenID Connect)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, SecretStr

from falaj.kernel.errors import Unauthenticated, Unavailable
from falaj.trust.model import Account, Role, TokenPair


class Untrusted(Exception):
    """What a provider or a browser presents is not believed; the reason is for the audit log.

    Never leaves this room. ``told`` is what the person may be told beyond "refused".
    """

    def __init__(self, reason: str, told: str = "", hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.told = told
        self.hint = hint
        self.principal: str | None = None
        """Whom it concerns, once that is known."""


class ProviderRefused(Unauthenticated):
    """The sign-in through an identity provider is not accepted."""

    code = "provider-sign-in-refused"


class ProviderUnavailable(Unavailable):
    """An identity provider does not answer, or not as one."""

    code = "provider-unavailable"


@dataclass(frozen=True)
class Metadata:
    """What a provider says of itself, checked."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str = ""
    """Empty for one that signs nothing."""
    userinfo_endpoint: str = ""
    end_session_endpoint: str = ""
    algorithms: frozenset[str] = frozenset()
    """With which it may sign: its list without ``none`` and without shared secrets."""
    auth_methods: tuple[str, ...] = ("client_secret_basic",)
    names_itself: bool = False
    """True if it adds ``iss`` to its answers (RFC 9207): one without is refused then."""


@dataclass(frozen=True)
class Provider:
    """One configured provider: whose word counts here, and for what."""

    name: str
    label: str
    issuer: str
    client_id: str
    client_secret: SecretStr | None
    scopes: tuple[str, ...]
    name_claim: str
    subject_claim: str
    groups_claim: str
    groups: Mapping[str, tuple[Role, ...]]
    roles: tuple[Role, ...]
    required_claims: Mapping[str, tuple[str, ...]]
    mfa_amr: frozenset[str]
    mfa_acr: tuple[str, ...]
    acr_claim: str
    acr_always: tuple[str, ...]
    """Classes that are asked for in every request."""
    always_two_factors: bool
    own_factor: bool
    """True if a factor of this platform stands in for a proof of two."""
    provision: bool
    provisioned_by: str
    """Name of the service account that keeps its people by SCIM; empty: none does."""
    external_claim: str
    """Which claim is the ``externalId`` of SCIM."""
    userinfo: bool
    sign_out_there: bool
    logout_parameter: str
    signs: bool
    """False if it gives no ID token: then its userinfo endpoint alone says who somebody is."""
    fixed: Metadata | None = field(default=None)
    """What it would say of itself, for one without a discovery document."""

    @property
    def governs(self) -> frozenset[Role]:
        """The roles that its groups decide on; the others are given here."""
        mapped = {role for roles in self.groups.values() for role in roles}
        return frozenset(mapped | set(self.roles))


@dataclass(frozen=True)
class Tokens:
    """What a provider gives for a code."""

    access_token: str
    id_token: str = ""


@dataclass(frozen=True)
class Identity:
    """Who somebody is, as a provider says."""

    issuer: str
    subject: str
    name: str
    """What the person is called there; a hint for a new account's name, and nothing else."""
    roles: tuple[Role, ...]
    """What the groups give, by the operator's map."""
    two_factors: bool
    mfa_at: datetime | None
    """When two factors were presented there, or None: that is not proven."""
    sid: str = ""
    """The provider's session, for its logout."""
    external: str = ""
    """What SCIM calls ``externalId``, if the provider says it."""


class Errand(StrEnum):
    """What somebody goes to a provider for."""

    SIGN_IN = "sign_in"
    STEP_UP = "step_up"
    LINK = "link"
    OWN_FACTOR = "own_factor"
    """They were there; a factor of this platform is still to come."""


class Journey(BaseModel):
    """What a browser keeps while its person is at a provider; a sealed state vouches for it."""

    model_config = ConfigDict(frozen=True)

    provider: str
    errand: Errand
    secret: str
    """Random, of this browser and this journey: verifier and nonce are made of it."""
    then: str
    """Our own page to go on with."""
    redirect_uri: str
    session: str = ""
    """Whose fresh factor, or whose new identity, is asked for."""
    issuer: str = ""
    subject: str = ""
    sid: str = ""


@dataclass(frozen=True)
class Departure:
    """Where a browser goes, and what it keeps until it comes back."""

    url: str
    kept: str


@dataclass(frozen=True)
class Arrival:
    """What came of a journey."""

    then: str
    pair: TokenPair | None = None
    """A new session, of a sign-in."""
    kept: str = ""
    ticket: str = ""
    """Both of somebody who still has to present a factor of this platform."""
    account: Account | None = None


class IdentityProvider(Protocol):
    """Speaks with one provider. Never follows a redirect, never calls an address inside that
    the operator has not named, and believes no answer that is not JSON.

    Each method raises ``ProviderUnavailable`` when the provider does not answer as one.
    """

    def metadata(self) -> Metadata:
        """What it says of itself; kept for some minutes."""
        ...

    def keys(self, key_id: str) -> list[dict[str, Any]]:
        """Its public keys (JWK), asked for anew at most once a minute for an unknown id."""
        ...

    def redeem(self, code: str, verifier: str, redirect_uri: str) -> Tokens:
        """The tokens for a code; raises Untrusted when it refuses the code."""
        ...

    def userinfo(self, access_token: str) -> dict[str, Any]:
        """The claims that an access token opens; raises Untrusted when it refuses."""
        ...
