"""The exchange of a CI job's token for one of ours (RFC 8693). Each end leaves a record.

The job becomes a service account, with roles of that account at most, for 15 minutes at most.
Its token is good for one exchange. It presents no second factor: sensitive actions stay closed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import delete
from sqlalchemy.engine import Connection

from falaj.kernel.call import Principal, PrincipalKind
from falaj.kernel.errors import FalajError, Unauthenticated
from falaj.kernel.insertion import insert_if_absent
from falaj.kernel.ports import Outcome
from falaj.trust.authentication import Authentication
from falaj.trust.ci import (
    LEEWAY,
    IssuerKeys,
    Rule,
    TokenRefused,
    believed,
    expiry_of,
    issuer_of,
    rule_for,
    told,
)
from falaj.trust.model import OneTimeSecret, Role
from falaj.trust.provisioning_tables import used_tokens

GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
TOKEN_TYPES = (
    "urn:ietf:params:oauth:token-type:id_token",
    "urn:ietf:params:oauth:token-type:jwt",
)
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - RFC 8693's word
_ACTION = "auth.exchange"


class ExchangeRefused(Unauthenticated):
    """The token of a CI job is not taken; ``details`` say why in a word."""

    code = "exchange-refused"


class ExchangeRequest(BaseModel):
    """A job's token, as RFC 8693 hands it in."""

    grant_type: str = Field(max_length=100)
    subject_token: SecretStr = Field(max_length=16_000)
    subject_token_type: str = Field(max_length=100)
    account: str | None = Field(default=None, max_length=64)
    """The service account to become, where several rules fit."""


class ExchangedToken(BaseModel):
    """Our token for it."""

    model_config = ConfigDict(frozen=True)

    access_token: OneTimeSecret
    issued_token_type: str = ACCESS_TOKEN
    token_type: str = "Bearer"  # noqa: S105 - RFC 6750's word
    expires_in: int
    expires_at: datetime
    account: str
    session: str


class CiExchange:
    """Exchanges tokens of CI jobs.

    Args:
        authentication: whose accounts, sessions, throttle and audit records these are.
        issuers: knows the issuers' keys.
        rules: which jobs are let in, as which account.
    """

    def __init__(
        self, authentication: Authentication, issuers: IssuerKeys, rules: Sequence[Rule]
    ) -> None:
        self._authentication = authentication
        self._issuers = issuers
        self._rules = tuple(rules)
        self._named = frozenset(rule.issuer for rule in self._rules)

    def exchange(self, request: ExchangeRequest, *, address: str | None = None) -> ExchangedToken:
        """A token of the service account that the first fitting rule names.

        Raises:
            ExchangeRefused: the token is not believed, or no rule lets it in.
            TooManyAttempts: the address has failed too often.
            Unavailable, OutgoingRefused: the issuer's keys cannot be read.
        """
        exchanges = self._authentication.exchanges
        exchanges.admitted(_ACTION, address=address)
        now = exchanges.clock.now()
        token = request.subject_token.get_secret_value()
        known: dict[str, Any] = {}
        try:
            if request.grant_type != GRANT or request.subject_token_type not in TOKEN_TYPES:
                raise TokenRefused("not-an-exchange")
            claims = self._believed(token, known, address, now)
            rule = rule_for(claims, self._rules, account=request.account)
            known["rule"] = rule.name
            with exchanges.database.transaction() as connection:
                return self._exchanged(connection, rule, claims, address, now, known)
        except TokenRefused as refused:
            self._record_refusal(refused.reason, known, address, now)
            raise ExchangeRefused(
                "The token of the job is not taken.",
                hint="The audit log shows what it said; rules stand in the setting ci.rules.",
                error="invalid_grant",
                reason=refused.reason,
            ) from None

    def _believed(
        self, token: str, known: dict[str, Any], address: str | None, now: datetime
    ) -> dict[str, Any]:
        """The claims of the token; what is known of it by then stands in ``known``."""
        issuer, key_id = issuer_of(token)
        if issuer not in self._named:
            raise TokenRefused("unknown-issuer")
        known["issuer"] = issuer
        try:
            keys = self._issuers.keys(issuer, key_id)
        except FalajError as error:
            told_of = {**known, "error": error.code}
            self._record_refusal("issuer-unavailable", told_of, address, now)
            raise
        claims = believed(token, keys, issuer=issuer, now=now)
        known["claims"] = told(claims)
        return claims

    def _exchanged(
        self,
        connection: Connection,
        rule: Rule,
        claims: Mapping[str, Any],
        address: str | None,
        now: datetime,
        known: Mapping[str, Any],
    ) -> ExchangedToken:
        parts = self._authentication
        row = parts.active(connection, rule.account, PrincipalKind.SERVICE)
        if row is None:
            raise TokenRefused("no-account")
        account = parts.accounts.get(connection, row["name"])
        roles = [role for role in account.roles if not rule.roles or role in rule.roles]
        if not roles:
            raise TokenRefused("no-role")
        if not _first_use(connection, claims, now):
            raise TokenRefused("replayed")
        session = parts.sessions.begin(
            connection,
            account,
            now=now,
            client=f"ci {rule.name}: {claims.get('sub', '')}",
            address=address,
            mfa_at=None,
            lasts=rule.lasts + LEEWAY,
        )
        token, expires_at = parts.tokens.issue(
            _principal(account.principal_id, roles),
            session=session.id,
            account_epoch=account.epoch,
            mfa_at=None,
            now=now,
            lasts=rule.lasts,
            purpose=rule.purpose,
        )
        parts.exchanges.record(
            connection,
            _ACTION,
            Outcome.DONE,
            "ci-token",
            principal=account.principal_id,
            address=address,
            details={**known, "session": session.id, "roles": [role.value for role in roles]},
        )
        return ExchangedToken(
            access_token=SecretStr(token),
            expires_in=int(rule.lasts.total_seconds()),
            expires_at=expires_at,
            account=account.name,
            session=session.id,
        )

    def _record_refusal(
        self, reason: str, known: Mapping[str, Any], address: str | None, now: datetime
    ) -> None:
        exchanges = self._authentication.exchanges
        with exchanges.database.transaction() as connection:
            exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection, _ACTION, Outcome.REFUSED, reason, address=address, details=dict(known)
            )


def _principal(principal_id: str, roles: Sequence[Role]) -> Principal:
    return Principal(principal_id, PrincipalKind.SERVICE, tuple(role.value for role in roles))


def _first_use(connection: Connection, claims: Mapping[str, Any], now: datetime) -> bool:
    """Use up a token; False if it was exchanged before."""
    connection.execute(delete(used_tokens).where(used_tokens.c.expires_at < now - LEEWAY))
    text = f"{claims['iss']}\n{claims['jti']}"
    row = {
        "token_hash": hashlib.sha256(text.encode()).hexdigest(),
        "expires_at": expiry_of(claims) + LEEWAY,
    }
    return insert_if_absent(connection, used_tokens, row)
