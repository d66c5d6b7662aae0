"""Enrolment: from a one-time link to a person with a password and a second factor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import SecretStr
from sqlalchemy import delete, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.errors import AlreadyExists, Conflict, Forbidden, InvalidInput
from falaj.kernel.ports import Outcome
from falaj.trust.accounts import Accounts, check_roles
from falaj.trust.exchanges import Exchanges
from falaj.trust.factors import new_recovery_codes, new_secret, recovery_hash, secret_hash
from falaj.trust.federation_tables import unlinked
from falaj.trust.model import (
    Account,
    AccountState,
    ConfirmRequest,
    EnrolRequest,
    FactorOffer,
    Invitation,
    RecoveryCodes,
    Role,
    WrongCredentials,
    jsonable_roles,
)
from falaj.trust.passkey_tables import passkeys
from falaj.trust.passwords import Passwords, check_strength
from falaj.trust.sessions import Sessions
from falaj.trust.tables import accounts, invitations, recovery_codes

LINK_LASTS = timedelta(hours=24)
TICKET_LASTS = timedelta(minutes=15)
_FIRST, _INVITE, _TICKET = "first", "invite", "ticket"
LINKS = (_FIRST, _INVITE)
"""Purposes of the links that make somebody enrol."""
_BY_ENROLMENT = "system:enrolment"
_MAY_CONFIRM = (AccountState.INVITED.value, AccountState.ACTIVE.value)


class Enrolment:
    """Invites people and takes them in.

    A link is used up when a name and a password are chosen with it, also if the second
    factor is never confirmed: then a new link is asked for.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        *,
        accounts: Accounts,
        sessions: Sessions,
        passwords: Passwords,
    ) -> None:
        self._exchanges = exchanges
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords

    def first_administrator(self, connection: Connection, now: datetime) -> Invitation | None:
        """A link for the first administrator, or None when there is one.

        Each call makes the link of the call before worthless.
        """
        if self._accounts.administrators(connection):
            return None
        connection.execute(delete(invitations).where(invitations.c.purpose == _FIRST))
        return self._link(connection, _FIRST, None, (Role.ADMINISTRATOR,), now)

    def invite(
        self,
        connection: Connection,
        *,
        name: str,
        roles: Sequence[Role],
        created_by: str,
        now: datetime,
    ) -> Invitation:
        """A link for a person who does not have an account yet, or who lost the last link.

        Raises:
            AlreadyExists: the account has been enrolled (or shut) already.
            InvalidInput: the name or the roles are not acceptable.
        """
        row = self._accounts.row(connection, name)
        if row is None:
            self._accounts.create(
                connection,
                name=name,
                kind=PrincipalKind.USER,
                roles=roles,
                created_by=created_by,
                now=now,
            )
        else:
            check_roles(tuple(roles), PrincipalKind.USER)
            if row["state"] != AccountState.INVITED.value:
                raise AlreadyExists(
                    f"The account {name!r} exists already.",
                    hint="Use `falaj accounts reset` for a person who lost their credentials.",
                )
            connection.execute(
                update(accounts)
                .where(accounts.c.id == row["id"])
                .values(roles=jsonable_roles(tuple(roles)))
            )
        account = self._accounts.get(connection, name)
        return self._link(connection, _INVITE, account, account.roles, now)

    def reset(self, connection: Connection, name: str, *, now: datetime) -> Invitation:
        """Forget a person's credentials, end their sessions, and give a link to enrol again.

        Raises:
            Conflict: it is not an active person's account.
        """
        account = self._accounts.get(connection, name)
        if account.kind is not PrincipalKind.USER or account.state is not AccountState.ACTIVE:
            raise Conflict(f"{name!r} is not an active person's account.", hint="Invite them.")
        self._sessions.end_all(connection, account, now=now, because="credentials reset")
        connection.execute(delete(recovery_codes).where(recovery_codes.c.account == account.id))
        connection.execute(delete(passkeys).where(passkeys.c.account == account.id))
        unlinked(connection, account.id)
        changed = self._accounts.change(
            connection,
            account,
            now=now,
            state=AccountState.INVITED.value,
            password_hash=None,
            totp_sealed=None,
            totp_pending_sealed=None,
            public_key=None,
        )
        return self._link(connection, _INVITE, changed, changed.roles, now)

    def enrol(self, request: EnrolRequest, *, address: str | None = None) -> FactorOffer:
        """Use up a link: choose a name and a password, get a second factor to confirm.

        Raises:
            WrongCredentials: the link is unknown, used or expired.
            InvalidInput, AlreadyExists: the password is weak, the name is not the invited one
                or is taken; the link stays good.
        """
        exchanges = self._exchanges
        exchanges.admitted("auth.enrol", address=address)
        hashed = secret_hash(request.secret.get_secret_value())
        now = exchanges.clock.now()
        with exchanges.database.reading() as connection:
            known = self.link_row(connection, hashed, LINKS, now)
        if known is None:
            raise self.refused("auth.enrol", address)
        password = request.password.get_secret_value()
        check_strength(password, name=request.name)
        password_hash = self._passwords.hash(password)
        offer: FactorOffer | None = None
        with exchanges.database.transaction() as connection:
            if self.claimed(connection, hashed, now):
                account = self.enrolled(connection, known, request.name, now)
                offer = self._offered(connection, account, now, password_hash=password_hash)
                exchanges.record(
                    connection,
                    "auth.enrol",
                    Outcome.DONE,
                    "link",
                    principal=account.principal_id,
                    address=address,
                )
        if offer is None:
            raise self.refused("auth.enrol", address)
        return offer

    def offer_factor(self, caller: Caller) -> FactorOffer:
        """A second factor for a person who is authenticated, to be confirmed.

        The first one may be taken with the credential at hand; replacing one needs the old one.

        Raises:
            Forbidden: the caller is not a person with an active account, or has a factor and
                has not presented it within five minutes.
        """
        exchanges = self._exchanges
        now = exchanges.clock.now()
        with exchanges.database.transaction() as connection:
            account = self.active_person(connection, caller)
            if account.has_factor and not caller.stepped_up(now):
                raise Forbidden(
                    "Replacing a second factor needs the old one.",
                    hint="Step up with a code or a recovery code first.",
                )
            offer = self._offered(connection, account, now)
            exchanges.record(
                connection,
                "auth.offer_factor",
                Outcome.DONE,
                "authenticated",
                principal=account.principal_id,
                address=caller.address,
                via=caller.via,
            )
        return offer

    def new_recovery_codes(self, caller: Caller) -> RecoveryCodes:
        """Ten new recovery codes for a person with a password; those before are worthless.

        Raises:
            Forbidden: the caller is not an active person with a password, or has not presented
                a second factor within five minutes.
        """
        exchanges = self._exchanges
        now = exchanges.clock.now()
        with exchanges.database.transaction() as connection:
            account = self.active_person(connection, caller)
            if not account.has_password or not caller.stepped_up(now):
                raise Forbidden(
                    "Recovery codes are for people with a password and a fresh second factor.",
                    hint="Present your second factor first.",
                )
            codes = give_recovery_codes(connection, account)
            exchanges.record(
                connection,
                "auth.recovery_codes",
                Outcome.DONE,
                "renewed",
                principal=account.principal_id,
                address=caller.address,
                via=caller.via,
            )
        return codes

    def confirm(
        self, request: ConfirmRequest, *, address: str | None = None
    ) -> tuple[Account, bool, RecoveryCodes]:
        """The first code of an offered factor: the account becomes active.

        Returns the account, whether it has just become active, and its recovery codes.

        Raises:
            WrongCredentials: the ticket is unknown, used or expired, or the code is wrong.
        """
        exchanges = self._exchanges
        exchanges.admitted("auth.confirm", address=address)
        now = exchanges.clock.now()
        hashed = secret_hash(request.ticket.get_secret_value())
        done: tuple[Account, bool, RecoveryCodes] | None = None
        with exchanges.database.transaction() as connection:
            ticket = self.link_row(connection, hashed, (_TICKET,), now)
            row = ticket and self._accounts.by_id(connection, ticket["account"])
            if row and row["totp_pending_sealed"] and row["state"] in _MAY_CONFIRM:
                secret = exchanges.factors.open(row["totp_pending_sealed"], row["id"])
                step = exchanges.factors.step_of(
                    secret, request.code.get_secret_value(), now=now, last_step=0
                )
                if step is not None and self.claimed(connection, hashed, now):
                    done = self._confirmed(connection, row, step, now)
                    exchanges.record(
                        connection,
                        "auth.confirm",
                        Outcome.DONE,
                        "totp",
                        principal=done[0].principal_id,
                        address=address,
                    )
        if done is None:
            raise self.refused("auth.confirm", address)
        return done

    def _link(
        self,
        connection: Connection,
        purpose: str,
        account: Account | None,
        roles: Sequence[Role],
        now: datetime,
        lasts: timedelta = LINK_LASTS,
    ) -> Invitation:
        if account is not None:  # the links before this one are worthless
            connection.execute(delete(invitations).where(invitations.c.account == account.id))
        secret = new_secret("ticket" if purpose == _TICKET else "link")
        connection.execute(
            insert(invitations).values(
                secret_hash=secret_hash(secret),
                account=account.id if account else None,
                purpose=purpose,
                roles=jsonable_roles(list(roles)),
                created_at=now,
                expires_at=now + lasts,
            )
        )
        return Invitation(
            account=account.name if account else None,
            roles=tuple(roles),
            secret=SecretStr(secret),
            expires_at=now + lasts,
        )

    def link_row(
        self, connection: Connection, hashed: str, purposes: tuple[str, ...], now: datetime
    ) -> RowMapping | None:
        """The row of an unused link for one of these purposes, or None."""
        return (
            connection.execute(
                select(invitations).where(
                    invitations.c.secret_hash == hashed,
                    invitations.c.purpose.in_(purposes),
                    invitations.c.used_at.is_(None),
                    invitations.c.expires_at > now,
                )
            )
            .mappings()
            .first()
        )

    def claimed(self, connection: Connection, hashed: str, now: datetime) -> bool:
        """Use up a link; False if somebody was faster."""
        used = connection.execute(
            update(invitations)
            .where(
                invitations.c.secret_hash == hashed,
                invitations.c.used_at.is_(None),
                invitations.c.expires_at > now,
            )
            .values(used_at=now)
        )
        return bool(used.rowcount)

    def enrolled(
        self, connection: Connection, link: RowMapping, name: str, now: datetime
    ) -> Account:
        """The account that a link is for, made if it is the first administrator's.

        Raises:
            InvalidInput, Conflict: the link is for another name, or for nobody any more.
        """
        if link["account"] is not None:
            row = self._accounts.by_id(connection, link["account"])
            if row is None or row["name"] != name or row["state"] != AccountState.INVITED.value:
                raise InvalidInput(
                    f"This link is not for the name {name!r}.",
                    hint="Use the name that the invitation says.",
                )
            return self._accounts.get(connection, name)
        if self._accounts.administrators(connection):
            raise Conflict("There is an administrator already.", hint="Ask them to invite you.")
        row = self._accounts.row(connection, name)
        if row is not None and (row["state"], row["created_by"]) == (
            AccountState.INVITED.value,
            _BY_ENROLMENT,
        ):
            return self._accounts.get(connection, name)  # an enrolment that was broken off
        return self._accounts.create(
            connection,
            name=name,
            kind=PrincipalKind.USER,
            roles=[Role(role) for role in link["roles"]],
            created_by=_BY_ENROLMENT,
            now=now,
        )

    def _offered(
        self,
        connection: Connection,
        account: Account,
        now: datetime,
        password_hash: str | None = None,
    ) -> FactorOffer:
        factors = self._exchanges.factors
        secret = factors.new_secret()
        values = {} if password_hash is None else {"password_hash": password_hash}
        connection.execute(
            update(accounts)
            .where(accounts.c.id == account.id)
            .values(totp_pending_sealed=factors.seal(secret, account.id), **values)
        )
        connection.execute(
            delete(invitations).where(
                invitations.c.account == account.id, invitations.c.purpose == _TICKET
            )
        )
        ticket = new_secret("ticket")
        expires_at = now + TICKET_LASTS
        connection.execute(
            insert(invitations).values(
                secret_hash=secret_hash(ticket),
                account=account.id,
                purpose=_TICKET,
                roles=[],
                created_at=now,
                expires_at=expires_at,
            )
        )
        return FactorOffer(
            ticket=SecretStr(ticket),
            totp_secret=SecretStr(secret),
            otpauth_uri=SecretStr(factors.uri(secret, account.name)),
            expires_at=expires_at,
        )

    def _confirmed(
        self, connection: Connection, row: RowMapping, step: int, now: datetime
    ) -> tuple[Account, bool, RecoveryCodes]:
        fresh = row["state"] == AccountState.INVITED.value
        connection.execute(
            update(accounts)
            .where(accounts.c.id == row["id"])
            .values(
                totp_sealed=row["totp_pending_sealed"],
                totp_pending_sealed=None,
                totp_last_step=step,
                state=AccountState.ACTIVE.value,
            )
        )
        account = self._accounts.get(connection, row["name"])
        return account, fresh, give_recovery_codes(connection, account)

    def active_person(self, connection: Connection, caller: Caller) -> Account:
        """The caller's account; raises Forbidden if it is not an active person's."""
        row = self._accounts.row(connection, caller.principal.name)
        if row is None or (row["kind"], row["state"]) != (
            caller.principal.kind.value,
            AccountState.ACTIVE.value,
        ):
            raise Forbidden("Only a person with an active account has a second factor.")
        if caller.principal.kind is not PrincipalKind.USER:
            raise Forbidden("Only a person with an active account has a second factor.")
        return self._accounts.get(connection, caller.principal.name)

    def refused(self, action: str, address: str | None) -> WrongCredentials:
        """Count and record an attempt that failed; the error that tells its caller so."""
        exchanges = self._exchanges
        with exchanges.database.transaction() as connection:
            exchanges.throttle.count(
                connection, name=None, address=address, now=exchanges.clock.now()
            )
            exchanges.record(
                connection, action, Outcome.REFUSED, "wrong-credentials", address=address
            )
        return WrongCredentials(
            "The link, the ticket or the code is wrong, used or expired.",
            hint="Check the code's device clock, or ask for a new link.",
        )


def give_recovery_codes(connection: Connection, account: Account) -> RecoveryCodes:
    """Ten new recovery codes of an account; those before are worthless."""
    codes = new_recovery_codes()
    connection.execute(delete(recovery_codes).where(recovery_codes.c.account == account.id))
    connection.execute(
        insert(recovery_codes),
        [{"code_hash": recovery_hash(code, account.id), "account": account.id} for code in codes],
    )
    return RecoveryCodes(account=account.name, codes=tuple(SecretStr(code) for code in codes))
