"""The words of accounts: people and programs, their roles, their credentials, their sessions."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
)

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.errors import LimitExceeded, Unauthenticated
from falaj.trust.bindings import Binding

REVEAL = "reveal_once"
"""Serialisation context key that shows a ``OneTimeSecret``; an interface sets it exactly once."""


def _shown(value: SecretStr, info: SerializationInfo) -> str:
    if info.context and info.context.get(REVEAL):
        return value.get_secret_value()
    return "(secret)"


OneTimeSecret = Annotated[SecretStr, PlainSerializer(_shown)]
"""A secret in an answer. It is serialised as ``(secret)`` (in logs, audit records and kept
answers) unless the serialiser is given ``context={"reveal_once": True}``."""

AccountName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9._-]{1,62}$")]
"""Lower-case name of an account, unique over people and programs."""


class Role(StrEnum):
    """What an account is for. A role is a word of the policy, not a switch in code."""

    VIEWER = "viewer"
    DATA_SCIENTIST = "data_scientist"
    ML_ENGINEER = "ml_engineer"
    APPROVER = "approver"
    STEWARD = "steward"
    OPERATOR = "operator"
    AUDITOR = "auditor"
    ADMINISTRATOR = "administrator"
    SERVICE = "service"
    PROVISIONER = "provisioner"
    CI_PLAN = "ci_plan"
    CI_APPLY = "ci_apply"
    CI_GATE = "ci_gate"
    CI_PROPOSE = "ci_propose"
    CI_DEPLOY = "ci_deploy"


class AccountState(StrEnum):
    """Where an account is in its life."""

    INVITED = "invited"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    """Out, with all credentials kept: provisioning can bring it back."""
    DEACTIVATED = "deactivated"


class Account(BaseModel):
    """A person or a program that may act, without any of its credentials."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: AccountName
    kind: PrincipalKind
    state: AccountState
    roles: tuple[Role, ...]
    has_password: bool = False
    has_factor: bool = False
    """True if there is a second factor: a confirmed authenticator, or a passkey."""
    n_passkeys: int = 0
    has_key: bool = False
    """True if the account can be proven by an Ed25519 key file."""
    created_at: datetime
    created_by: str
    deactivated_at: datetime | None = None
    epoch: int = 0
    """Grows with each change of roles or state; tokens of an older epoch are refused."""

    @property
    def principal_id(self) -> str:
        """The name that the policy and the audit know: ``user:amina``, ``service:ci``."""
        return f"{self.kind.value}:{self.name}"


class Passkey(BaseModel):
    """A passkey of a person, without its keys."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    """What its owner calls it."""
    verifies: bool
    """True if it checked who uses it when it was registered: then it may be the only factor."""
    backed_up: bool
    """True if its maker keeps copies on other devices."""
    created_at: datetime
    last_used_at: datetime | None = None


class FactorList(BaseModel):
    """With what a person can sign in."""

    model_config = ConfigDict(frozen=True)

    account: AccountName
    password: bool
    totp: bool
    """True if a time-based authenticator has been confirmed."""
    passkeys: tuple[Passkey, ...]
    recovery_codes: int
    """How many are left; each is good once, beside a password."""
    providers: tuple[str, ...] = ()
    """The identity providers through which they sign in."""


class Session(BaseModel):
    """One login, from its first token to its end."""

    model_config = ConfigDict(frozen=True)

    id: str
    account: str
    client: str
    address: str | None = None
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    mfa_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_because: str | None = None
    binding: str | None = None
    """The key without which its tokens are worth nothing (``jkt:…``, ``x5t#S256:…``)."""


class Me(BaseModel):
    """Who the caller is, as the platform sees it."""

    model_config = ConfigDict(frozen=True)

    principal: str
    kind: PrincipalKind
    roles: tuple[str, ...]
    mfa_at: datetime | None
    stepped_up: bool
    via: str


class Invitation(BaseModel):
    """A one-time link secret for a person who was invited; shown once, kept as a hash."""

    model_config = ConfigDict(frozen=True)

    account: str | None
    roles: tuple[Role, ...]
    secret: OneTimeSecret
    expires_at: datetime


class ServiceSecret(BaseModel):
    """The secret of a service account; shown once, kept as a hash."""

    model_config = ConfigDict(frozen=True)

    account: AccountName
    secret: OneTimeSecret


class EnrolRequest(BaseModel):
    """A link secret, and what its holder chooses."""

    secret: SecretStr
    name: AccountName
    password: SecretStr


class FactorOffer(BaseModel):
    """A fresh TOTP secret, to be put into an authenticator and confirmed by a code."""

    model_config = ConfigDict(frozen=True)

    ticket: OneTimeSecret
    """Presented again with the first code; ends in 15 minutes."""
    totp_secret: OneTimeSecret
    otpauth_uri: OneTimeSecret
    expires_at: datetime


class ConfirmRequest(BaseModel):
    """The ticket of a ``FactorOffer`` and the first code of the authenticator."""

    ticket: SecretStr
    code: SecretStr


class RecoveryCodes(BaseModel):
    """Ten codes, each good once in place of the second factor; shown once, kept as hashes."""

    model_config = ConfigDict(frozen=True)

    account: AccountName
    codes: tuple[OneTimeSecret, ...]


class LoginRequest(BaseModel):
    """A person's name, password and second factor (a TOTP code or a recovery code)."""

    name: str = Field(max_length=200)
    password: SecretStr = Field(max_length=1_024)
    code: SecretStr = Field(max_length=64)
    client: str = Field(default="", max_length=100)
    """What the person uses, to be recognised in the list of sessions."""


class ServiceLoginRequest(BaseModel):
    """A program's name and secret."""

    name: str = Field(max_length=200)
    secret: SecretStr = Field(max_length=256)


class PasskeyRequest(BaseModel):
    """An answer of an authenticator, as the browser gives it (``PublicKeyCredential.toJSON``)."""

    credential: dict[str, Any]


class PasskeyLoginRequest(PasskeyRequest):
    """A passkey, alone or beside a password.

    Alone it must have checked who uses it; beside a password its presence is enough.
    """

    name: str | None = Field(default=None, max_length=200)
    password: SecretStr | None = Field(default=None, max_length=1_024)
    client: str = Field(default="", max_length=100)


class NewPasskeyRequest(PasskeyRequest):
    """A new passkey, and what its owner calls it."""

    label: str = Field(default="passkey", min_length=1, max_length=100)


class LinkRequest(BaseModel):
    """A link secret, and the account's name."""

    secret: SecretStr = Field(max_length=256)
    name: AccountName


class PasskeyEnrolRequest(LinkRequest, NewPasskeyRequest):
    """A link secret whose holder enrols with a passkey and without a password."""

    client: str = Field(default="", max_length=100)


class PasskeyAdded(BaseModel):
    """A registered passkey; recovery codes come with the first factor beside a password."""

    model_config = ConfigDict(frozen=True)

    passkey: Passkey
    recovery: RecoveryCodes | None = None


class RefreshRequest(BaseModel):
    """The latest refresh token of a session."""

    refresh_token: SecretStr = Field(max_length=256)


class TokenPair(BaseModel):
    """What a login, a refresh or a step-up gives back."""

    model_config = ConfigDict(frozen=True)

    access_token: OneTimeSecret
    refresh_token: OneTimeSecret | None = None
    """Good once; absent for service accounts, and after a step-up (the old one stays good)."""
    token_type: str = "Bearer"  # noqa: S105  (RFC 6750's word, not a secret)
    """``DPoP`` where each request must be signed by the key of the login (RFC 9449)."""
    expires_at: datetime
    session: str


class Confirmed(BaseModel):
    """The end of an enrolment: codes to keep safe, and the first session if there is one."""

    model_config = ConfigDict(frozen=True)

    recovery: RecoveryCodes
    tokens: TokenPair | None = None


class Verified(BaseModel):
    """What a verified access token says."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    caller: Caller
    session: str
    account_epoch: int
    expires_at: datetime
    binding: Binding | None = None
    """The key that must be proven with it."""


class WrongCredentials(Unauthenticated):
    """The name, the password, the code, the secret or the link is wrong; it is not said which."""

    code = "wrong-credentials"


class InvalidToken(Unauthenticated):
    """The access or refresh token is malformed, forged, expired or revoked."""

    code = "invalid-token"


class TooManyAttempts(LimitExceeded):
    """Too many failed attempts for this account or from this address; wait."""

    code = "too-many-attempts"
    retryable = True


def jsonable_roles(roles: tuple[Role, ...] | list[Role]) -> list[str]:
    """Roles as the database and tokens keep them: sorted, without repeats."""
    return sorted({role.value for role in roles})


def revealed(model: BaseModel) -> dict[str, Any]:
    """A one-time answer as JSON with its secrets, for the one interface that shows it."""
    return model.model_dump(mode="json", context={REVEAL: True})
