"""Signing out: told by a provider (back-channel logout), and told to one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode, urlsplit

from sqlalchemy import select
from sqlalchemy.engine import Connection

from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Outcome
from falaj.trust.authentication import Authentication
from falaj.trust.challenges import used_once
from falaj.trust.federation import Federation
from falaj.trust.federation_tables import external_identities, external_sessions, identity_id
from falaj.trust.oidc import LEEWAY_SECONDS, checked_logout_token
from falaj.trust.oidc_model import Provider, ProviderUnavailable, Untrusted

_ACTION = "auth.provider_logout"
_LONGEST = timedelta(days=1)
"""A token that says it lives longer is remembered for so long, and refused afterwards."""


class LogoutRefused(InvalidInput):
    """The logout token is not one of this provider for this platform, or was used before."""

    code = "logout-token-refused"


class FederatedLogout:
    """Ends sessions because a provider says so, and leads people there to sign out.

    Args:
        authentication: whose sessions these are.
        federation: the providers.
    """

    def __init__(self, authentication: Authentication, federation: Federation) -> None:
        self._authentication = authentication
        self._exchanges = authentication.exchanges
        self._federation = federation

    def told(self, name: str, token: str, *, address: str | None = None) -> int:
        """End what a logout token names; how many sessions were open.

        Their access tokens are refused within a second, by every process.

        Raises:
            NotFound: there is no such provider.
            LogoutRefused: the token is not believed.
            ProviderUnavailable, TooManyAttempts: its keys cannot be had; the address waits.
        """
        party, exchanges = self._federation.party(name), self._exchanges
        exchanges.admitted(_ACTION, address=address)
        now = exchanges.clock.now()
        try:
            if party.provider.fixed is not None:
                raise Untrusted("signs-nothing")
            metadata = party.speaks.metadata()
            claims = checked_logout_token(
                token, party.speaks.keys, party.provider, metadata, now=now
            )
            ends = min(datetime.fromtimestamp(claims["exp"], UTC), now + _LONGEST)
            if claims["iat"] < (now - _LONGEST).timestamp():
                raise Untrusted("old-token")
            with exchanges.database.transaction() as connection:
                seen = f"logout {party.provider.issuer}\n{claims['jti']}".encode()
                kept_until = ends + timedelta(seconds=LEEWAY_SECONDS + 1)
                if not used_once(connection, seen, expires_at=kept_until, now=now):
                    raise Untrusted("used-before")
                named = (claims.get("sub") or "", claims.get("sid") or "")
                ended = self._ended(connection, party.provider, *named, now=now)
                exchanges.record(
                    connection, _ACTION, Outcome.DONE, "logout-token", address=address,
                    details={"provider": name, "sessions": ended},
                )  # fmt: skip
            return len(ended)
        except (Untrusted, ProviderUnavailable) as error:
            self._refused(error, name, address, now)
            if isinstance(error, ProviderUnavailable):
                raise
            raise LogoutRefused("The logout token is not accepted.") from None

    def there(self, session: str, *, origin: str) -> str:
        """Where a person who has signed out here signs out there; empty if nowhere.

        Args:
            origin: of our pages, to which the provider leads back.
        """
        with self._exchanges.database.reading() as connection:
            row = connection.execute(
                select(external_identities.c.provider)
                .join(external_sessions, external_sessions.c.identity == external_identities.c.id)
                .where(external_sessions.c.session == session)
            ).first()
        party = self._federation.parties.get(row.provider) if row is not None else None
        if party is None or not party.provider.sign_out_there:
            return ""
        try:
            address = party.speaks.metadata().end_session_endpoint
        except ProviderUnavailable:
            return ""  # who has signed out here is not held up by that
        if not address:
            return ""
        asked = {
            "client_id": party.provider.client_id,
            party.provider.logout_parameter: f"{origin}/login",
        }
        return address + ("&" if urlsplit(address).query else "?") + urlencode(asked)

    def _ended(
        self, connection: Connection, provider: Provider, subject: str, sid: str, *, now: datetime
    ) -> list[str]:
        query = (
            select(external_sessions.c.session)
            .join(external_identities, external_sessions.c.identity == external_identities.c.id)
            .where(external_identities.c.issuer == provider.issuer)
        )
        if sid:
            query = query.where(external_sessions.c.sid == sid)
        if subject:
            identity = identity_id(provider.issuer, subject)
            query = query.where(external_sessions.c.identity == identity)
        ended = []
        for row in connection.execute(query).all():
            session = self._authentication.sessions.get(connection, row.session)
            if session.revoked_at is None and now < session.expires_at:
                self._authentication.sessions.end(
                    connection, session.id, now=now, because=f"signed out at {provider.name}"
                )
                ended.append(session.id)
        return ended

    def _refused(
        self, error: Untrusted | ProviderUnavailable, name: str, address: str | None, now: datetime
    ) -> None:
        exchanges = self._exchanges
        with exchanges.database.transaction() as connection:
            if isinstance(error, Untrusted):
                exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection,
                _ACTION,
                Outcome.REFUSED if isinstance(error, Untrusted) else Outcome.FAILED,
                error.reason if isinstance(error, Untrusted) else "provider-unavailable",
                address=address,
                details={"provider": name},
            )
