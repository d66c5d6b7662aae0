"""Signing in through identity providers: there, and back.

As in ``authentication``: attempts are counted, every end leaves a record, and a failure tells
a stranger little.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy.engine import Connection

from falaj.kernel.call import STEP_UP_WINDOW, Caller
from falaj.kernel.errors import NotFound
from falaj.kernel.ports import Outcome
from falaj.trust.accounts import principal_of
from falaj.trust.authentication import Authentication
from falaj.trust.federation_accounts import LinkedAccounts
from falaj.trust.journeys import Journeys
from falaj.trust.model import Account, AccountState, TokenPair
from falaj.trust.oidc import (
    LEEWAY_SECONDS,
    authorisation_url,
    check_answer,
    checked_id_token,
    nonce_of,
    verifier_of,
)
from falaj.trust.oidc_claims import identity_of
from falaj.trust.oidc_model import (
    Arrival,
    Departure,
    Errand,
    Identity,
    IdentityProvider,
    Journey,
    Provider,
    ProviderRefused,
    ProviderUnavailable,
    Untrusted,
)

_ACTIONS = {
    Errand.SIGN_IN: "auth.provider_login",
    Errand.OWN_FACTOR: "auth.provider_login",
    Errand.STEP_UP: "auth.provider_step_up",
    Errand.LINK: "auth.provider_link",
}
_NOTHING_TO_GUESS = frozenset({"no-journey", "no-ticket", "wrong-state"})
"""Not counted as attempts: any page can make a browser send such a request, and a count would
shut out everybody behind its address."""
_VIA = "web"


@dataclass(frozen=True)
class Party:
    """A configured provider, and who speaks with it."""

    provider: Provider
    speaks: IdentityProvider


class Federation:
    """Signs people in through the configured providers.

    Args:
        authentication: whose accounts and sessions these are.
        parties: the providers by name.
        key: 32 secret bytes that all processes share.
    """

    def __init__(
        self, authentication: Authentication, parties: Mapping[str, Party], key: bytes
    ) -> None:
        self.parties = parties
        self.links = LinkedAccounts(authentication.accounts)
        self._authentication = authentication
        self._exchanges = authentication.exchanges
        self._journeys = Journeys(key)

    def offered(self) -> list[tuple[str, str]]:
        """Name and label of each provider, in the order of the settings."""
        return [(name, party.provider.label) for name, party in self.parties.items()]

    def party(self, name: str) -> Party:
        """The provider of that name; raises NotFound."""
        if name not in self.parties:
            known = ", ".join(self.parties) or "none"
            raise NotFound(
                f"There is no identity provider {name!r}.", hint=f"Configured are: {known}."
            )
        return self.parties[name]

    def begin(
        self,
        name: str,
        errand: Errand,
        *,
        then: str,
        redirect_uri: str,
        session: str = "",
        address: str | None = None,
    ) -> Departure:
        """Where a browser goes for an errand, and what it keeps meanwhile.

        Raises:
            NotFound: there is no such provider.
            ProviderUnavailable: it does not say where its pages are.
            TooManyAttempts: the address has failed too often.
        """
        party = self.party(name)
        self._exchanges.admitted(_ACTIONS[errand], address=address)
        with self._told(_ACTIONS[errand], name, address):
            metadata = party.speaks.metadata()
        journey = Journey(
            provider=name,
            errand=errand,
            secret=secrets.token_urlsafe(32),
            then=then,
            redirect_uri=redirect_uri,
            session=session,
        )
        kept, state = self._journeys.sealed(journey, now=self._now())
        url = authorisation_url(
            party.provider,
            metadata,
            state=state,
            secret=journey.secret,
            redirect_uri=redirect_uri,
            fresh=errand is Errand.STEP_UP,
        )
        return Departure(url, kept)

    def arrive(
        self,
        name: str,
        told: Mapping[str, str],
        kept: str,
        *,
        client: str = "",
        address: str | None = None,
    ) -> Arrival:
        """What comes of a journey whose person is back.

        Args:
            told: what the provider has handed to the browser.
            kept: what the browser has kept.

        Raises:
            ProviderRefused: something does not fit; the audit log says what.
            ProviderUnavailable, TooManyAttempts, NotFound: as for ``begin``.
        """
        party = self.party(name)
        journey = self._journeys.read(kept, name)
        action = _ACTIONS[journey.errand if journey else Errand.SIGN_IN]
        self._exchanges.admitted(action, address=address)
        with self._told(action, name, address):
            if journey is None or journey.errand is Errand.OWN_FACTOR:
                raise Untrusted("no-journey")
            begun_at = self._spent(told.get("state", ""), kept)
            identity = self._identity(party, told, journey, begun_at)
            with self._exchanges.database.transaction() as connection:
                arrived = {
                    Errand.SIGN_IN: self._signed_in,
                    Errand.STEP_UP: self._stepped_up,
                    Errand.LINK: self._linked,
                }[journey.errand]
                return arrived(
                    connection, party.provider, identity, journey, begun_at, client, address
                )

    def waiting(self, name: str, ticket: str, kept: str, *, address: str | None = None) -> Caller:
        """Who still has to present a factor of this platform; the ticket stays good.

        Raises:
            ProviderRefused: nobody, or the ticket is of another browser.
        """
        with self._told(_ACTIONS[Errand.OWN_FACTOR], name, address):
            with self._exchanges.database.reading() as connection:
                found = self._holder(connection, name, ticket, kept)
            if found is None:
                raise Untrusted("no-ticket")
        return Caller(principal_of(found), via=_VIA, address=address)

    def own_factor(
        self,
        name: str,
        ticket: str,
        kept: str,
        code: SecretStr | None,
        *,
        client: str = "",
        address: str | None = None,
    ) -> Arrival:
        """The end of a sign-in with a factor of this platform.

        Args:
            code: a one-time code; None if a passkey of ``waiting`` was used just now.

        Raises:
            ProviderRefused: the ticket is not good.
            WrongCredentials, TooManyAttempts: as for ``Authentication.step_up``.
        """
        caller = self.waiting(name, ticket, kept, address=address)
        if code is not None:
            self._authentication.step_up(caller, code)
        journey = self._journeys.read(kept, name)
        action, now = _ACTIONS[Errand.OWN_FACTOR], self._now()
        with (
            self._told(action, name, address),
            self._exchanges.database.transaction() as connection,
        ):
            account = self._holder(connection, name, ticket, kept, spend=True)
            if account is None or journey is None:
                raise Untrusted("no-ticket")
            identity = _identity_of(journey)
            pair = self._begun(connection, account, identity, now, client, address)
            self._done(connection, action, name, "own-factor", account, address, pair)
            return Arrival(journey.then, pair=pair)

    # ---- what comes of a journey

    def _signed_in(
        self,
        connection: Connection,
        provider: Provider,
        identity: Identity,
        journey: Journey,
        begun_at: datetime,
        client: str,
        address: str | None,
    ) -> Arrival:
        now = self._now()
        account, changed = self.links.opened(connection, provider, identity, now=now)
        action, name = _ACTIONS[Errand.SIGN_IN], provider.name
        if identity.two_factors:
            pair = self._begun(connection, account, identity, identity.mfa_at, client, address)
            self._done(connection, action, name, "provider", account, address, pair, changed)
            return Arrival(journey.then, pair=pair)
        codes = self._exchanges.n_recovery_codes(connection, account.id)
        if not provider.own_factor or not (account.has_factor or codes):
            refused = Untrusted(
                "one-factor",
                f"{provider.label} has not shown that you presented two factors.",
                "Use a second factor there, or ask an administrator for a link to add one here."
                if provider.own_factor
                else "Use a second factor there.",
            )
            if "made" not in changed:  # what was made for it goes with the refusal
                refused.principal = account.principal_id
            raise refused
        ahead = journey.model_copy(
            update={
                "errand": Errand.OWN_FACTOR,
                "secret": secrets.token_urlsafe(32),
                "issuer": identity.issuer,
                "subject": identity.subject,
                "sid": identity.sid,
            }
        )
        kept, ticket = self._journeys.sealed(ahead, now=now)
        self._done(connection, action, name, "one-factor-yet", account, address, None, changed)
        return Arrival(journey.then, kept=kept, ticket=ticket, account=account)

    def _stepped_up(
        self,
        connection: Connection,
        provider: Provider,
        identity: Identity,
        journey: Journey,
        begun_at: datetime,
        client: str,
        address: str | None,
    ) -> Arrival:
        now = self._now()
        account = self._session_holder(connection, journey)
        known = self.links.found(connection, identity)
        refused: Untrusted | None = None
        if known is None or known.id != account.id:
            refused = Untrusted("another-person", "You have signed in there as somebody else.")
        elif not identity.two_factors:
            refused = Untrusted("one-factor", f"{provider.label} has not shown two factors.")
        elif identity.mfa_at is None:
            refused = Untrusted("no-time", f"{provider.label} does not say when you signed in.")
        elif (
            identity.mfa_at < begun_at - timedelta(seconds=LEEWAY_SECONDS)
            or now - identity.mfa_at > STEP_UP_WINDOW
        ):
            refused = Untrusted("not-fresh", f"{provider.label} has not asked you again.")
        if refused is not None:
            refused.hint = "Present a factor of this platform instead, if you have one."
            refused.principal = account.principal_id
            raise refused
        at = identity.mfa_at or now
        self._authentication.sessions.stepped_up(connection, journey.session, now=at)
        action = _ACTIONS[Errand.STEP_UP]
        self._done(connection, action, provider.name, "provider", account, address, None)
        return Arrival(journey.then)

    def _linked(
        self,
        connection: Connection,
        provider: Provider,
        identity: Identity,
        journey: Journey,
        begun_at: datetime,
        client: str,
        address: str | None,
    ) -> Arrival:
        account = self._session_holder(connection, journey)
        self.links.link(connection, provider, identity, account, now=self._now())
        action = _ACTIONS[Errand.LINK]
        self._done(connection, action, provider.name, "linked", account, address, None)
        return Arrival(journey.then)

    def _session_holder(self, connection: Connection, journey: Journey) -> Account:
        session = self._authentication.sessions.get(connection, journey.session)
        account = self._authentication.accounts.get(connection, session.account)
        ended = session.revoked_at is not None or self._now() >= session.expires_at
        if ended or account.state is not AccountState.ACTIVE:
            raise Untrusted("session-ended", "You are not signed in any more.", "Sign in again.")
        return account

    # ---- what all of them share

    def _identity(
        self, party: Party, told: Mapping[str, str], journey: Journey, begun_at: datetime
    ) -> Identity:
        metadata, provider = party.speaks.metadata(), party.provider
        state = told["state"]
        code = check_answer(metadata, told)
        verifier = verifier_of(journey.secret, state)
        tokens = party.speaks.redeem(code, verifier, journey.redirect_uri)
        claims: dict[str, object] = {}
        now = self._now()
        if provider.signs:
            claims = checked_id_token(
                tokens.id_token,
                party.speaks.keys,
                provider,
                metadata,
                nonce=nonce_of(journey.secret, state),
                access_token=tokens.access_token,
                begun_at=begun_at,
                now=now,
            )
        if provider.userinfo:
            more = party.speaks.userinfo(tokens.access_token)
            if provider.signs and more.get("sub") != claims["sub"]:
                raise Untrusted("userinfo-of-another")
            claims = {**more, **claims}
        return identity_of(claims, provider, now=now)

    def _begun(
        self,
        connection: Connection,
        account: Account,
        identity: Identity,
        mfa_at: datetime | None,
        client: str,
        address: str | None,
    ) -> TokenPair:
        pair = self._authentication.begun(
            connection, account, self._now(), client, address, mfa_at=mfa_at
        )
        self.links.bound(connection, identity, pair.session)
        return pair

    def _holder(
        self, connection: Connection, name: str, ticket: str, kept: str, *, spend: bool = False
    ) -> Account | None:
        journey, now = self._journeys.read(kept, name), self._now()
        if journey is None or journey.errand is not Errand.OWN_FACTOR:
            return None
        if not self._journeys.stands(ticket, kept, now=now):
            return None
        if spend and self._journeys.spent(connection, ticket, kept, now=now) is None:
            return None
        account = self.links.found(connection, _identity_of(journey))
        return account if account and account.state is AccountState.ACTIVE else None

    def _spent(self, state: str, kept: str) -> datetime:
        """When the journey began; raises Untrusted unless it is this browser's first return."""
        with self._exchanges.database.transaction() as connection:
            begun_at = self._journeys.spent(connection, state, kept, now=self._now())
        if begun_at is None:
            raise Untrusted("wrong-state")
        return begun_at

    def _done(
        self,
        connection: Connection,
        action: str,
        name: str,
        reason: str,
        account: Account,
        address: str | None,
        pair: TokenPair | None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        session = {"session": pair.session} if pair else {}
        self._exchanges.record(
            connection,
            action,
            Outcome.DONE,
            reason,
            principal=account.principal_id,
            address=address,
            via=_VIA,
            details={"provider": name, **session, **(more or {})},
        )

    @contextmanager
    def _told(self, action: str, name: str, address: str | None) -> Iterator[None]:
        """Records whatever is refused within, and tells it to the person in few words."""
        try:
            yield
        except (Untrusted, ProviderUnavailable) as error:
            reason = error.reason if isinstance(error, Untrusted) else "provider-unavailable"
            principal = error.principal if isinstance(error, Untrusted) else None
            told = {} if isinstance(error, Untrusted) else {"error": error.message[:300]}
            with self._exchanges.database.transaction() as connection:
                if isinstance(error, Untrusted) and error.reason not in _NOTHING_TO_GUESS:
                    self._exchanges.throttle.count(
                        connection, name=None, address=address, now=self._now()
                    )
                self._exchanges.record(
                    connection,
                    action,
                    Outcome.REFUSED if isinstance(error, Untrusted) else Outcome.FAILED,
                    reason,
                    principal=principal,
                    address=address,
                    via=_VIA,
                    details={"provider": name, **told},
                )
            if isinstance(error, Untrusted):
                raise _refused(error) from None
            raise

    def _now(self) -> datetime:
        return self._exchanges.clock.now()


def _refused(error: Untrusted) -> ProviderRefused:
    return ProviderRefused(
        error.told or "The answer of the provider does not belong to a sign-in of this browser.",
        hint=error.hint or "Begin again on the page /login.",
    )


def _identity_of(journey: Journey) -> Identity:
    return Identity(journey.issuer, journey.subject, "", (), False, None, journey.sid)
