"""The exchanges with passkeys: registering, signing in, stepping up, enrolling without a password.

As in ``authentication``: attempts are counted, every end leaves a record, and a failure tells
its caller nothing but that it failed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.errors import Forbidden
from falaj.kernel.ports import Outcome
from falaj.trust.authentication import Authentication
from falaj.trust.bindings import NOTHING, Presented
from falaj.trust.challenges import Challenges
from falaj.trust.enrolment import LINKS, give_recovery_codes
from falaj.trust.exchanges import name_details
from falaj.trust.factors import secret_hash
from falaj.trust.federation_tables import made_elsewhere
from falaj.trust.model import (
    Account,
    AccountState,
    LinkRequest,
    NewPasskeyRequest,
    PasskeyAdded,
    PasskeyEnrolRequest,
    PasskeyLoginRequest,
    PasskeyRequest,
    TokenPair,
    WrongCredentials,
)
from falaj.trust.passkeys import (
    Passkeys,
    Proof,
    RelyingParty,
    Unbelieved,
    asserted,
    challenge_in,
    creation_options,
    credential_id_in,
    from_base64url,
    registered,
    request_options,
)
from falaj.trust.tables import accounts

_SIGN_IN = "sign in"


class PasskeySignIn:
    """The ceremonies with passkeys of a platform.

    Args:
        authentication: the other exchanges, whose accounts and sessions these are.
        party: whom the passkeys are for.
        key: 32 secret bytes that all processes share, for challenges.
    """

    def __init__(self, authentication: Authentication, party: RelyingParty, key: bytes) -> None:
        self.passkeys = Passkeys()
        self.party = party
        self._authentication = authentication
        self._exchanges = authentication.exchanges
        self._challenges = Challenges(key)
        self._key = key

    # ---- signing in

    def sign_in_options(self, *, address: str | None = None) -> dict[str, Any]:
        """What to ask an authenticator for a sign-in; the same for everybody."""
        self._exchanges.admitted("auth.passkey_login", address=address)
        return request_options(
            self.party, challenge=self._challenges.new(_SIGN_IN, now=self._now()), verifies=True
        )

    def sign_in(
        self,
        request: PasskeyLoginRequest,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """A person's session, from a passkey that checked its user, or one beside a password.

        Raises:
            WrongCredentials: something is wrong; it is not said what.
            TooManyAttempts: the account or the address has to wait.
        """
        exchanges, action = self._exchanges, "auth.passkey_login"
        binding = self._authentication.tokens.binding_at_login(presented, self._now())
        beside = request.password is not None
        if beside:
            exchanges.counted(action, name=request.name or "", address=address)
        else:
            exchanges.admitted(action, address=address)
        right = not beside or self._password_fits(request)
        now = self._now()
        pair: TokenPair | None = None
        account: Account | None = None
        with exchanges.database.transaction() as connection:
            try:
                row = self._proven(
                    connection, request.credential, _SIGN_IN, now=now, verifies=not beside
                )
                account = self._person(connection, row["account"])
                if not right or (beside and account.name != _plain(request.name)):
                    raise Unbelieved("wrong-name-or-password")
                if account.state is not AccountState.ACTIVE:
                    raise Unbelieved("not-active")
                if not beside and made_elsewhere(connection, account.id):
                    # Who is shut out at the provider must not come in beside it.
                    raise Unbelieved("provider-only")
                pair = self._authentication.begun(
                    connection,
                    account,
                    now,
                    request.client,
                    address,
                    mfa_at=now,
                    binding=binding,
                )
                if beside:
                    exchanges.throttle.forgive(connection, name=account.name, address=address)
                reason = "passkey-and-password" if beside else "passkey"
            except Unbelieved as refused:
                reason = refused.reason
                if not beside:
                    exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection,
                action,
                Outcome.DONE if pair else Outcome.REFUSED,
                reason,
                principal=account.principal_id if account else None,
                address=address,
                details={"session": pair.session} if pair else name_details(request.name or ""),
            )
        if pair is None:
            raise _wrong()
        return pair

    # ---- stepping up

    def step_up_options(self, caller: Caller) -> dict[str, Any]:
        """What to ask an authenticator of this person.

        Raises:
            Forbidden: the caller has no passkey.
        """
        with self._exchanges.database.reading() as connection:
            row = self._authentication.active(connection, caller.principal.name, _USER)
            known = self.passkeys.rows(connection, row["id"]) if row is not None else []
            if row is None or caller.principal.kind is not _USER or not known:
                raise Forbidden(
                    f"{caller.principal.id} has no passkey.",
                    hint="Present a one-time code, or add a passkey on the page /account.",
                )
        return request_options(
            self.party,
            challenge=self._challenges.new(_step_up(row["id"]), now=self._now()),
            allowed=[one["credential_id"] for one in known],
            verifies=False,
        )

    def step_up(
        self, caller: Caller, request: PasskeyRequest, *, address: str | None = None
    ) -> Caller:
        """The same caller, having used a passkey just now.

        Raises:
            WrongCredentials: it is not one of the caller's, or its answer is not for this.
            TooManyAttempts: the account has to wait.
        """
        exchanges = self._exchanges
        name = caller.principal.name
        exchanges.counted("auth.step_up", name=name, address=address)
        now = self._now()
        done = False
        with exchanges.database.transaction() as connection:
            try:
                account = self._authentication.active(connection, name, _USER)
                if account is None or caller.principal.kind is not _USER:
                    raise Unbelieved("not-active")
                purpose = _step_up(account["id"])
                row = self._proven(connection, request.credential, purpose, now=now, verifies=False)
                if row["account"] != account["id"]:
                    raise Unbelieved("wrong-account")
                exchanges.throttle.forgive(connection, name=name, address=address)
                done, reason = True, "passkey"
            except Unbelieved as refused:
                reason = refused.reason
            exchanges.record(
                connection,
                "auth.step_up",
                Outcome.DONE if done else Outcome.REFUSED,
                reason,
                principal=caller.principal.id,
                address=address,
                via=caller.via,
            )
        if not done:
            raise _wrong()
        return caller.with_factor(now)

    def step_up_session(
        self,
        access_token: str,
        request: PasskeyRequest,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """A new access token of the same session that says a passkey was just used.

        Raises:
            InvalidToken: the access token is not good.
            WrongCredentials, TooManyAttempts: as for ``step_up``.
        """
        verified = self._authentication.tokens.read(access_token, self._now(), presented)
        self.step_up(verified.caller, request, address=address)
        return self._authentication.refreshed(verified.session)

    # ---- registering

    def registration_options(self, caller: Caller) -> dict[str, Any]:
        """What to ask a new authenticator of an authenticated person.

        Raises:
            Forbidden: it is not an active person, or one with a factor who has not presented
                it within five minutes.
        """
        now = self._now()
        with self._exchanges.database.reading() as connection:
            account = self._registrant(connection, caller, now)
            known = self.passkeys.rows(connection, account.id)
        handle = known[0]["user_handle"] if known else self._handle_of(account)
        return creation_options(
            self.party,
            challenge=self._challenges.new(_register(account.id), now=now),
            user_handle=handle,
            name=account.name,
            known=[row["credential_id"] for row in known],
            verifies=not account.has_password,
        )

    def register(
        self, caller: Caller, request: NewPasskeyRequest, *, address: str | None = None
    ) -> PasskeyAdded:
        """Keep a new passkey of an authenticated person.

        Raises:
            Forbidden: as for ``registration_options``.
            WrongCredentials: the authenticator's answer is not for this.
            AlreadyExists, Conflict: it is known already, or there are too many.
        """
        exchanges = self._exchanges
        now = self._now()
        added: PasskeyAdded | None = None
        with exchanges.database.transaction() as connection:
            account = self._registrant(connection, caller, now)
            try:
                proof = self._registered(
                    connection,
                    request.credential,
                    _register(account.id),
                    now=now,
                    verifies=not account.has_password,
                )
                known = self.passkeys.rows(connection, account.id)
                passkey = self.passkeys.add(
                    connection,
                    account.id,
                    proof,
                    name=request.label,
                    user_handle=known[0]["user_handle"] if known else self._handle_of(account),
                    now=now,
                )
                recovery = None
                if account.has_password and not exchanges.n_recovery_codes(connection, account.id):
                    recovery = give_recovery_codes(connection, account)
                added = PasskeyAdded(passkey=passkey, recovery=recovery)
                reason = "passkey"
            except Unbelieved as refused:
                reason = refused.reason
            exchanges.record(
                connection,
                "auth.add_passkey",
                Outcome.DONE if added else Outcome.REFUSED,
                reason,
                principal=account.principal_id,
                address=address,
                via=caller.via,
                details={"passkey": added.passkey.id} if added else {},
            )
        if added is None:
            raise _wrong()
        return added

    # ---- enrolling

    def enrolment_options(
        self, request: LinkRequest, *, address: str | None = None
    ) -> dict[str, Any]:
        """What to ask a new authenticator of somebody who holds a link; the link stays good.

        Raises:
            WrongCredentials: the link is unknown, used or expired.
        """
        exchanges, action = self._exchanges, "auth.passkey_enrol"
        exchanges.admitted(action, address=address)
        hashed = secret_hash(request.secret.get_secret_value())
        now = self._now()
        with exchanges.database.reading() as connection:
            link = self._authentication.enrolment.link_row(connection, hashed, LINKS, now)
        if link is None:
            raise self._authentication.enrolment.refused(action, address)
        return creation_options(
            self.party,
            challenge=self._challenges.new(_enrol(hashed), now=now),
            user_handle=_handle_for(hashed),
            name=request.name,
            known=(),
            verifies=True,
        )

    def enrol(self, request: PasskeyEnrolRequest, *, address: str | None = None) -> TokenPair:
        """Use up a link: an account whose only factor is a passkey that checks its user.

        Raises:
            WrongCredentials: the link or the authenticator's answer is not good.
            InvalidInput, AlreadyExists: the name is not the invited one, or is taken; the
                link stays good.
        """
        exchanges, action = self._exchanges, "auth.passkey_enrol"
        exchanges.admitted(action, address=address)
        enrolment = self._authentication.enrolment
        hashed = secret_hash(request.secret.get_secret_value())
        now = self._now()
        pair: TokenPair | None = None
        with exchanges.database.transaction() as connection:
            link = enrolment.link_row(connection, hashed, LINKS, now)
            try:
                if link is None:
                    raise Unbelieved("wrong-link")
                proof = self._registered(
                    connection, request.credential, _enrol(hashed), now=now, verifies=True
                )
                account = enrolment.enrolled(connection, link, request.name, now)
                if not enrolment.claimed(connection, hashed, now):
                    raise Unbelieved("wrong-link")
                pair = self._activated(connection, account, proof, request, now, address)
            except Unbelieved as refused:
                exchanges.throttle.count(connection, name=None, address=address, now=now)
                exchanges.record(
                    connection, action, Outcome.REFUSED, refused.reason, address=address
                )
        if pair is None:
            raise _wrong()
        return pair

    def _activated(
        self,
        connection: Connection,
        account: Account,
        proof: Proof,
        request: PasskeyEnrolRequest,
        now: datetime,
        address: str | None,
    ) -> TokenPair:
        handle = _handle_for(secret_hash(request.secret.get_secret_value()))
        self.passkeys.add(
            connection, account.id, proof, name=request.label, user_handle=handle, now=now
        )
        connection.execute(
            update(accounts)
            .where(accounts.c.id == account.id)
            .values(
                state=AccountState.ACTIVE.value,
                password_hash=None,
                totp_sealed=None,
                totp_pending_sealed=None,
            )
        )
        self._exchanges.record(
            connection,
            "auth.passkey_enrol",
            Outcome.DONE,
            "link",
            principal=account.principal_id,
            address=address,
        )
        active = self._authentication.accounts.get(connection, account.name)
        return self._authentication.begun(
            connection, active, now, request.client, address, mfa_at=now
        )

    # ---- what the ceremonies share

    def _proven(
        self,
        connection: Connection,
        credential: Mapping[str, Any],
        purpose: str,
        *,
        now: datetime,
        verifies: bool,
    ) -> RowMapping:
        challenge = challenge_in(credential)
        if not self._challenges.spend(connection, challenge, purpose, now=now):
            raise Unbelieved("wrong-challenge")
        row = self.passkeys.row(connection, credential_id_in(credential))
        if row is None:
            raise Unbelieved("unknown-passkey")
        proof = asserted(
            self.party,
            credential,
            challenge=challenge,
            public_key=row["public_key"],
            verifies=verifies,
        )
        _check_handle(credential, row["user_handle"])
        self.passkeys.use(connection, row, proof, now=now)
        return row

    def _registered(
        self,
        connection: Connection,
        credential: Mapping[str, Any],
        purpose: str,
        *,
        now: datetime,
        verifies: bool,
    ) -> Proof:
        challenge = challenge_in(credential)
        if not self._challenges.spend(connection, challenge, purpose, now=now):
            raise Unbelieved("wrong-challenge")
        return registered(self.party, credential, challenge=challenge, verifies=verifies)

    def _registrant(self, connection: Connection, caller: Caller, now: datetime) -> Account:
        account = self._authentication.enrolment.active_person(connection, caller)
        if account.has_factor and not caller.stepped_up(now):
            raise Forbidden(
                "Adding a second factor needs one that you have.",
                hint="Step up with a code or a passkey first.",
            )
        return account

    def _person(self, connection: Connection, account_id: str) -> Account:
        row = self._authentication.accounts.by_id(connection, account_id)
        if row is None or row["kind"] != _USER.value:
            raise Unbelieved("unknown-passkey")
        return self._authentication.accounts.get(connection, row["name"])

    def _password_fits(self, request: PasskeyLoginRequest) -> bool:
        with self._exchanges.database.reading() as connection:
            row = self._authentication.active(connection, _plain(request.name), _USER)
        password = request.password.get_secret_value() if request.password else ""
        return self._authentication.password_fits(row, password)

    def _handle_of(self, account: Account) -> bytes:
        """What authenticators keep in place of the account's name: it tells nothing."""
        return hmac.digest(self._key, f"user handle {account.id}".encode(), "sha256")

    def _now(self) -> datetime:
        return self._exchanges.clock.now()


_USER = PrincipalKind.USER


def _check_handle(credential: Mapping[str, Any], known: bytes) -> None:
    """An authenticator that names its user names ours; keys without a memory name nobody."""
    told = credential["response"].get("userHandle")
    try:
        if told and from_base64url(told) != known:
            raise Unbelieved("wrong-user-handle")
    except (TypeError, ValueError):
        raise Unbelieved("malformed") from None


def _handle_for(link_hash: str) -> bytes:
    """The user handle of who enrols with a link: random as the link, and telling nothing of it."""
    return hashlib.sha256(f"user handle\n{link_hash}".encode()).digest()


def _plain(name: str | None) -> str:
    return (name or "").strip().lower()


def _step_up(account_id: str) -> str:
    return f"step up {account_id}"


def _register(account_id: str) -> str:
    return f"register {account_id}"


def _enrol(link_hash: str) -> str:
    return f"enrol {link_hash}"


def _wrong() -> WrongCredentials:
    return WrongCredentials(
        "The passkey, or what goes with it, is not accepted.",
        hint="Try again with a passkey of this account; after failures you have to wait a little.",
    )
