"""Authentication: from a credential to a caller. Every success and failure leaves a record.

A failure tells its caller nothing but that it failed: which of name, password and code was
wrong stands in the audit log.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Protocol

from pydantic import SecretStr
from sqlalchemy import update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.kernel.errors import Forbidden
from falaj.kernel.ports import AuditLog, Outcome
from falaj.trust.accounts import Accounts, principal_of
from falaj.trust.bindings import NOTHING, Binding, BindingKind, Presented
from falaj.trust.enrolment import Enrolment
from falaj.trust.exchanges import Exchanges, name_details
from falaj.trust.factors import Factors, secret_hash
from falaj.trust.model import (
    Account,
    AccountState,
    Confirmed,
    ConfirmRequest,
    EnrolRequest,
    FactorOffer,
    InvalidToken,
    Invitation,
    LoginRequest,
    RefreshRequest,
    Role,
    ServiceLoginRequest,
    Session,
    TokenPair,
    WrongCredentials,
)
from falaj.trust.ownerkey import proves
from falaj.trust.passwords import Passwords
from falaj.trust.sessions import PROGRAM, Reused, Sessions
from falaj.trust.tables import accounts as accounts_table
from falaj.trust.throttle import Throttle
from falaj.trust.tokens import LEEWAY, Tokens

OWNER_ROLES = (
    Role.ADMINISTRATOR,
    Role.DATA_SCIENTIST,
    Role.ML_ENGINEER,
    Role.STEWARD,
    Role.OPERATOR,
)
"""What the owner of an embedded workspace is by default: everything but approver and auditor."""


class ProvesPossession(Protocol):
    """Holds a private key that answers challenges (``OwnerKey``)."""

    @property
    def public_key(self) -> bytes:
        """32 raw bytes of Ed25519."""
        ...

    def answer(self, challenge: bytes) -> bytes:
        """The signature over a challenge."""
        ...


class Authentication:
    """The credential exchanges of a platform; the interfaces expose them as ``/auth/*``.

    Args:
        database, audit, clock: where exchanges are kept and recorded, and their time.
        tokens: issues and verifies access tokens.
        factors: opens and checks second factors.
        accounts, sessions, passwords, throttle: given to replace their defaults.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        clock: Clock,
        tokens: Tokens,
        factors: Factors,
        accounts: Accounts | None = None,
        sessions: Sessions | None = None,
        passwords: Passwords | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self.accounts = accounts or Accounts()
        self.sessions = sessions or Sessions()
        self.tokens = tokens
        self._passwords = passwords or Passwords()
        self.exchanges = Exchanges(
            database, audit, throttle=throttle or Throttle(), factors=factors, clock=clock
        )
        self.enrolment = Enrolment(
            self.exchanges,
            accounts=self.accounts,
            sessions=self.sessions,
            passwords=self._passwords,
        )

    def first_administrator(self, connection: Connection, now: datetime) -> Invitation | None:
        """A one-time link secret for the first administrator, or None when there is one."""
        return self.enrolment.first_administrator(connection, now)

    def enrol(self, request: EnrolRequest, *, address: str | None = None) -> FactorOffer:
        """Use up a link; see ``Enrolment.enrol``."""
        return self.enrolment.enrol(request, address=address)

    def offer_factor(self, caller: Caller) -> FactorOffer:
        """A second factor for an authenticated person; see ``Enrolment.offer_factor``."""
        return self.enrolment.offer_factor(caller)

    def confirm(
        self,
        request: ConfirmRequest,
        *,
        address: str | None = None,
        client: str = "",
        presented: Presented = NOTHING,
    ) -> Confirmed:
        """The first code of an offered factor; a newly active person is logged in at once.

        Raises:
            WrongCredentials: the ticket or the code is wrong, used or expired.
            UnprovenKey, StaleNonce: as for ``login``.
        """
        binding = self.tokens.binding_at_login(presented, self.exchanges.clock.now())
        account, fresh, recovery = self.enrolment.confirm(request, address=address)
        if not fresh:
            return Confirmed(recovery=recovery)
        now = self.exchanges.clock.now()
        with self.exchanges.database.transaction() as connection:
            tokens = self.begun(
                connection, account, now, client, address, mfa_at=now, binding=binding
            )
        return Confirmed(recovery=recovery, tokens=tokens)

    def login(
        self,
        request: LoginRequest,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """A person's session, from name, password and second factor.

        Its tokens are bound to the key that is proven beside them, if there is one.

        Raises:
            WrongCredentials: one of them is wrong; it is not said which, and an account that
                does not exist takes as long.
            TooManyAttempts: the account or the address has to wait.
            UnprovenKey, StaleNonce: there is a proof of a key, and it is not good.
        """
        exchanges = self.exchanges
        binding = self.tokens.binding_at_login(presented, exchanges.clock.now())
        exchanges.counted("auth.login", name=request.name, address=address)
        password = request.password.get_secret_value()
        with exchanges.database.reading() as connection:
            row = self.active(connection, request.name, PrincipalKind.USER)
        right = self.password_fits(row, password)
        now = exchanges.clock.now()
        pair: TokenPair | None = None
        with exchanges.database.transaction() as connection:
            row = self.active(connection, request.name, PrincipalKind.USER) if right else row
            factor = None
            if right and row is not None:
                factor = exchanges.use_factor(
                    connection, row, request.code.get_secret_value(), now=now
                )
            if row is not None and factor is not None:
                exchanges.throttle.forgive(connection, name=request.name, address=address)
                self._rehashed(connection, row, password)
                account = self.accounts.get(connection, row["name"])
                pair = self.begun(
                    connection,
                    account,
                    now,
                    request.client,
                    address,
                    mfa_at=now,
                    binding=binding,
                )
                exchanges.record(
                    connection,
                    "auth.login",
                    Outcome.DONE,
                    factor,
                    principal=account.principal_id,
                    address=address,
                    details={"session": pair.session},
                )
            else:
                exchanges.record(
                    connection,
                    "auth.login",
                    Outcome.REFUSED,
                    "wrong-code" if right else "wrong-name-or-password",
                    principal=f"user:{row['name']}" if row is not None else None,
                    address=address,
                    details=name_details(request.name),
                )
        if pair is None:
            raise _wrong("The name, the password or the code is wrong.")
        return pair

    def service_login(
        self,
        request: ServiceLoginRequest,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """An access token for a service account, from its secret. It has no refresh token.

        Raises:
            WrongCredentials, TooManyAttempts, UnprovenKey, StaleNonce: as for ``login``.
        """
        exchanges = self.exchanges
        now = exchanges.clock.now()
        binding = self.tokens.binding_at_login(presented, now)
        hashed = secret_hash(request.secret.get_secret_value())
        exchanges.admitted("auth.service_login", address=address)
        pair: TokenPair | None = None
        with exchanges.database.transaction() as connection:
            row = self.active(connection, request.name, PrincipalKind.SERVICE)
            # Comparing hashes of secrets tells nothing by its time.
            if row is not None and row["secret_hash"] == hashed:
                account = self.accounts.get(connection, row["name"])
                pair = self.begun_service(connection, account, now, address, binding)
            else:
                exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection,
                "auth.service_login",
                Outcome.DONE if pair else Outcome.REFUSED,
                "secret" if pair else "wrong-name-or-secret",
                principal=f"service:{row['name']}" if row is not None else None,
                address=address,
                details={"session": pair.session} if pair else name_details(request.name),
            )
        if pair is None:
            raise _wrong("The name or the secret is wrong.")
        return pair

    def begun_service(
        self,
        connection: Connection,
        account: Account,
        now: datetime,
        address: str | None,
        binding: Binding | None,
    ) -> TokenPair:
        """The one access token of a new session of a service account."""
        session = self.sessions.begin(
            connection,
            account,
            now=now,
            client=PROGRAM,
            address=address,
            mfa_at=None,
            lasts=self.tokens.lifetime + LEEWAY,
            binding=binding,
        )
        return self.access(account, session, now)

    def refresh(
        self,
        request: RefreshRequest,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """The next token pair of a session; the presented refresh token is good no more.

        Raises:
            InvalidToken: unknown, of an ended session, or used before. A second use ends the
                whole session: either its holder or a thief has an old copy.
            UnprovenKey, StaleNonce: the session is bound to a key that the request does not
                prove; the token stays good for whoever holds the key.
        """
        exchanges = self.exchanges
        exchanges.admitted("auth.refresh", address=address)
        now = exchanges.clock.now()
        with exchanges.database.reading() as connection:
            token = request.refresh_token.get_secret_value()
            binding = self.sessions.binding_of(connection, token)
        if binding is not None:
            self.tokens.prove(binding, now, presented)
        pair: TokenPair | None = None
        principal: str | None = None
        reason = "unknown-or-ended"
        with exchanges.database.transaction() as connection:
            try:
                session = self.sessions.use_refresh_token(
                    connection, request.refresh_token.get_secret_value(), now=now
                )
            except Reused as reuse:
                session = None
                reason = "refresh-token-reused"
                stolen = self.sessions.get(connection, reuse.session_id)
                principal = f"user:{stolen.account}"
                self.sessions.end(
                    connection, reuse.session_id, now=now, because="refresh token reused"
                )
            if session is not None:
                account = self.accounts.get(connection, session.account)
                principal = account.principal_id
                if account.state is AccountState.ACTIVE:
                    token = self.sessions.new_refresh_token(connection, session.id, now=now)
                    pair = self.access(account, session, now, refresh=token)
                    reason = "refresh-token"
            if pair is None:
                exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection,
                "auth.refresh",
                Outcome.DONE if pair else Outcome.REFUSED,
                reason,
                principal=principal,
                address=address,
                details={"session": pair.session} if pair else {},
            )
        if pair is None:
            raise InvalidToken(
                "The refresh token is unknown, used or revoked.", hint="Log in again."
            )
        return pair

    def step_up_session(
        self,
        access_token: str,
        code: SecretStr,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """A new access token of the same session that says a second factor was just presented.

        Raises:
            InvalidToken: the access token is not good.
            WrongCredentials, TooManyAttempts: as for ``step_up``.
        """
        clock = self.exchanges.clock
        verified = self.tokens.read(access_token, clock.now(), presented)
        self._stepped_up(verified.caller, code, address)
        return self.refreshed(verified.session)

    def refreshed(self, session_id: str) -> TokenPair:
        """A new access token of a session in which a factor was presented just now.

        Raises:
            InvalidToken: the session or its account has ended.
        """
        now = self.exchanges.clock.now()
        with self.exchanges.database.transaction() as connection:
            return self.refreshed_in(connection, session_id, mfa_at=now, now=now)

    def refreshed_in(
        self, connection: Connection, session_id: str, *, mfa_at: datetime, now: datetime
    ) -> TokenPair:
        """As ``refreshed``, in the caller's transaction, of a factor presented at ``mfa_at``."""
        session = self.sessions.stepped_up(connection, session_id, now=mfa_at)
        account = self.accounts.get(connection, session.account)
        if account.state is not AccountState.ACTIVE or session.revoked_at is not None:
            raise InvalidToken("The session has ended.", hint="Log in again.")
        return self.access(account, session, now)

    def step_up(self, caller: Caller, code: SecretStr) -> Caller:
        """The same caller, having presented a second factor just now.

        Raises:
            Forbidden: the caller is not a person with a confirmed second factor.
            WrongCredentials: the code is wrong or was used before.
            TooManyAttempts: the account has to wait.
        """
        self._stepped_up(caller, code, caller.address)
        return caller.with_factor(self.exchanges.clock.now())

    def create_owner(
        self,
        connection: Connection,
        *,
        name: str,
        public_key: bytes,
        now: datetime,
        roles: tuple[Role, ...] = OWNER_ROLES,
    ) -> Account:
        """The account of an embedded workspace's owner, proven by a key file.

        The owner may unite roles that are kept apart elsewhere: there may be nobody else.
        A second factor is added by ``offer_factor`` and ``confirm``.
        """
        return self.accounts.create(
            connection,
            name=name,
            kind=PrincipalKind.USER,
            roles=roles,
            created_by="system:init",
            now=now,
            state=AccountState.ACTIVE,
            one_person=True,
            public_key=public_key,
        )

    def by_key(self, key: ProvesPossession, *, via: str = "local") -> Caller:
        """The caller to whom a key belongs, proven by a fresh challenge; without second factor.

        Raises:
            WrongCredentials: no active account has this key, or the proof fails.
        """
        exchanges = self.exchanges
        challenge = os.urandom(32)
        proven = proves(key.public_key, challenge, key.answer(challenge))
        with exchanges.database.transaction() as connection:
            account = self.accounts.by_public_key(connection, key.public_key)
            active = account is not None and account.state is AccountState.ACTIVE
            exchanges.record(
                connection,
                "auth.by_key",
                Outcome.DONE if proven and active else Outcome.REFUSED,
                "key" if proven and active else "unknown-key",
                principal=account.principal_id if account and proven else None,
                via=via,
            )
        if account is None or not active or not proven:
            raise _wrong("No active account has this key.")
        return Caller(principal_of(account), via=via)

    def logout(self, access_token: str, *, presented: Presented = NOTHING) -> None:
        """End the session of an access token; raises InvalidToken if it is not good."""
        exchanges = self.exchanges
        now = exchanges.clock.now()
        verified = self.tokens.read(access_token, now, presented)
        with exchanges.database.transaction() as connection:
            self.ended(connection, verified.session, verified.caller, "access-token", now)

    def ended(
        self, connection: Connection, session: str, caller: Caller, reason: str, now: datetime
    ) -> None:
        """End a session because its holder asks for it, and record that."""
        self.sessions.end(connection, session, now=now, because="logged out")
        self.exchanges.record(
            connection,
            "auth.logout",
            Outcome.DONE,
            reason,
            principal=caller.principal.id,
            via=caller.via if reason == "browser" else "http",
            details={"session": session},
        )

    def _stepped_up(self, caller: Caller, code: SecretStr, address: str | None) -> None:
        exchanges = self.exchanges
        name = caller.principal.name
        exchanges.counted("auth.step_up", name=name, address=address)
        now = exchanges.clock.now()
        with exchanges.database.transaction() as connection:
            row = self.active(connection, name, caller.principal.kind)
            without = row is None or not exchanges.has_code(connection, row)
            factor = None
            if row is not None and not without:
                factor = exchanges.use_factor(connection, row, code.get_secret_value(), now=now)
            if factor is not None or without:
                exchanges.throttle.forgive(connection, name=name, address=address)
            exchanges.record(
                connection,
                "auth.step_up",
                Outcome.DONE if factor else Outcome.REFUSED,
                factor or ("no-factor" if without else "wrong-code"),
                principal=caller.principal.id,
                address=address,
                via=caller.via,
            )
        if without:
            raise Forbidden(
                f"{caller.principal.id} has no second factor that gives codes.",
                hint="Use your passkey in a browser; a service account has no second factor.",
            )
        if factor is None:
            raise WrongCredentials(
                "The code is wrong, or was used before.",
                hint="A code is good once: wait for your authenticator's next one.",
            )

    def password_fits(self, row: RowMapping | None, password: str) -> bool:
        """True if it is the account's password; as slow for an account that does not exist."""
        return self._passwords.fits(row["password_hash"] if row else None, password)

    def active(self, connection: Connection, name: str, kind: PrincipalKind) -> RowMapping | None:
        """The row of an active account of that name and kind, or None."""
        row = self.accounts.row(connection, name.strip().lower())
        if row is None or (row["kind"], row["state"]) != (kind.value, AccountState.ACTIVE.value):
            return None
        return row

    def _rehashed(self, connection: Connection, row: RowMapping, password: str) -> None:
        if self._passwords.outdated(row["password_hash"]):
            connection.execute(
                update(accounts_table)
                .where(accounts_table.c.id == row["id"])
                .values(password_hash=self._passwords.hash(password))
            )

    def begun(
        self,
        connection: Connection,
        account: Account,
        now: datetime,
        client: str,
        address: str | None,
        *,
        mfa_at: datetime | None,
        binding: Binding | None = None,
    ) -> TokenPair:
        """A new session of an account, with its first tokens."""
        session = self.sessions.begin(
            connection,
            account,
            now=now,
            client=client,
            address=address,
            mfa_at=mfa_at,
            binding=binding,
        )
        token = self.sessions.new_refresh_token(connection, session.id, now=now)
        return self.access(account, session, now, refresh=token)

    def access(
        self, account: Account, session: Session, now: datetime, refresh: str | None = None
    ) -> TokenPair:
        """A new access token of a session, bound to the session's key."""
        binding = Binding.parse(session.binding)
        signed = binding is not None and binding.kind is BindingKind.DPOP
        token, expires_at = self.tokens.issue(
            principal_of(account),
            session=session.id,
            account_epoch=account.epoch,
            mfa_at=session.mfa_at,
            now=now,
            binding=binding,
        )
        return TokenPair(
            access_token=SecretStr(token),
            refresh_token=SecretStr(refresh) if refresh else None,
            token_type="DPoP" if signed else "Bearer",
            expires_at=expires_at,
            session=session.id,
        )


def _wrong(message: str) -> WrongCredentials:
    return WrongCredentials(
        message, hint="Check them; after several failures you have to wait a little."
    )
