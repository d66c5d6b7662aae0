"""Codes for devices (RFC 8628): a program without a browser is let in by a person with one.

The program holds a device code of 256 bits and asks whether it was let in; the person types a
short user code on the page ``/device`` of a browser in which they are signed in. The same way
brings a fresh factor to a session of the command line whose owner has passkeys only.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.call import Caller
from falaj.kernel.errors import (
    Conflict,
    Forbidden,
    LimitExceeded,
    NotFound,
    StepUpRequired,
    Unauthenticated,
)
from falaj.kernel.ports import Outcome
from falaj.trust.authentication import Authentication
from falaj.trust.bindings import NOTHING, Binding, Presented
from falaj.trust.factors import new_secret, secret_hash
from falaj.trust.federation_tables import carried
from falaj.trust.model import AccountState, OneTimeSecret, TokenPair, TooManyAttempts, Verified
from falaj.trust.passkey_tables import device_codes

INTERVAL_SECONDS = 5
"""So long a program waits between two questions; each one that comes sooner adds as much."""
MOST_OF_ADDRESS = 20
MOST = 2_000
"""Codes that may wait for their approval at a time: strangers may ask for them."""
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels: no words. Eight of them are 34 bits, guessed at through the throttle alone."""
_PENDING, _APPROVED, _DENIED, _USED = "pending", "approved", "denied", "used"


class DeviceRequest(BaseModel):
    """A program that wants to be let in."""

    client: str = Field(default="", max_length=100)
    """What it calls itself; the person is shown it."""
    provider: str = Field(default="", max_length=32)
    """The identity provider through which the person wants to sign in; empty: as they like."""


class DeviceTokenRequest(BaseModel):
    """The question whether somebody has let the program in."""

    device_code: SecretStr = Field(max_length=256)


class DeviceOffer(BaseModel):
    """What a program shows its person, and what it asks with."""

    model_config = ConfigDict(frozen=True)

    device_code: OneTimeSecret
    user_code: OneTimeSecret
    verification_uri: str
    verification_uri_complete: OneTimeSecret
    expires_in: int
    """Seconds."""
    interval: int
    """Seconds between two questions."""


class Waiting(BaseModel):
    """What a person is shown of a program that waits."""

    model_config = ConfigDict(frozen=True)

    client: str
    address: str | None
    steps_up: bool
    """True if it asks for a fresh factor only, for a session that is there."""
    created_at: datetime


class AuthorizationPending(Conflict):
    """Nobody has decided on the device code yet; ask again."""

    code = "authorization-pending"
    retryable = True


class SlowDown(LimitExceeded):
    """The program asks more often than it was told to."""

    code = "slow-down"
    retryable = True


class AccessDenied(Forbidden):
    """The person has refused to let the program in."""

    code = "access-denied"


class ExpiredCode(Unauthenticated):
    """The device code is unknown, used or expired."""

    code = "expired-code"


class DeviceCodes:
    """Codes for devices of a platform.

    Args:
        authentication: whose accounts and sessions these are.
        page: ``https://…/device``, where people type user codes.
        lasts: how long a code may wait for its approval.
        providers: the names of identity providers that a program may ask for.
    """

    def __init__(
        self,
        authentication: Authentication,
        *,
        page: str,
        lasts: timedelta,
        providers: Collection[str] = (),
    ) -> None:
        self._authentication = authentication
        self._exchanges = authentication.exchanges
        self._page = page
        self._lasts = lasts
        self._providers = providers

    def begin(
        self,
        request: DeviceRequest,
        *,
        address: str | None = None,
        steps_up: Verified | None = None,
    ) -> DeviceOffer:
        """A pair of codes; with ``steps_up`` it is for a fresh factor of that session alone.

        Raises:
            NotFound: there is no such identity provider.
            TooManyAttempts: too many codes wait already, from this address or altogether.
        """
        if request.provider and request.provider not in self._providers:
            known = ", ".join(sorted(self._providers)) or "none"
            raise NotFound(
                f"There is no identity provider {request.provider!r}.",
                hint=f"Configured are: {known}.",
            )
        now = self._now()
        device, letters = new_secret("dc"), "".join(secrets.choice(_LETTERS) for _ in range(8))
        self._exchanges.admitted("auth.device", address=address)
        with self._exchanges.database.transaction() as connection:
            connection.execute(delete(device_codes).where(device_codes.c.expires_at <= now))
            self._check_room(connection, address)
            account = None
            if steps_up is not None:
                name = steps_up.caller.principal.name
                account = self._authentication.accounts.get(connection, name).id
            connection.execute(
                insert(device_codes).values(
                    device_hash=secret_hash(device),
                    user_hash=secret_hash(letters),
                    state=_PENDING,
                    account=account,
                    session=steps_up.session if steps_up else None,
                    steps_up=steps_up is not None,
                    client=request.client,
                    address=address[:100] if address else None,
                    interval_seconds=INTERVAL_SECONDS,
                    created_at=now,
                    expires_at=now + self._lasts,
                )
            )
        user_code = f"{letters[:4]}-{letters[4:]}"
        through = f"provider={request.provider}" if request.provider else ""
        with_code = "&".join(filter(None, (f"user_code={user_code}", through)))
        return DeviceOffer(
            device_code=SecretStr(device),
            user_code=SecretStr(user_code),
            verification_uri="?".join(filter(None, (self._page, through))),
            verification_uri_complete=SecretStr(f"{self._page}?{with_code}"),
            expires_in=int(self._lasts.total_seconds()),
            interval=INTERVAL_SECONDS,
        )

    def tokens(
        self,
        request: DeviceTokenRequest,
        *,
        address: str | None = None,
        presented: Presented = NOTHING,
    ) -> TokenPair:
        """The tokens of a program that was let in; good once, bound to the key it proves.

        Raises:
            AuthorizationPending, SlowDown: nobody has decided yet; it asks too often.
            AccessDenied, ExpiredCode: it is not let in; the code is good no more.
            UnprovenKey, StaleNonce: there is a proof of a key, and it is not good.
        """
        exchanges = self._exchanges
        binding = self._authentication.tokens.binding_at_login(presented, self._now())
        exchanges.admitted("auth.device_login", address=address)
        hashed = secret_hash(request.device_code.get_secret_value())
        now = self._now()
        with exchanges.database.transaction() as connection:
            row = self._row(connection, device_codes.c.device_hash == hashed, now)
            if row is None:
                exchanges.throttle.count(connection, name=None, address=address, now=now)
                exchanges.record(
                    connection, "auth.device_login", Outcome.REFUSED, "unknown-code",
                    address=address,
                )  # fmt: skip
                error: Exception | None = ExpiredCode(
                    "The code is unknown, used or expired.", hint="Begin again.",
                    error="expired_token",
                )  # fmt: skip
            else:
                error = self._undecided(connection, row, now)
            if error is None and row is not None and self._claimed(connection, hashed):
                return self._let_in(connection, row, now, address, binding)
        raise error or ExpiredCode("The code was used.", hint="Begin again.", error="expired_token")

    def waiting(self, caller: Caller, user_code: str, *, address: str | None = None) -> Waiting:
        """The program that waits under a user code, for a person to look at.

        Raises:
            NotFound: there is none, or it waits for somebody else.
            TooManyAttempts: this person or address has guessed too often.
        """
        exchanges, name = self._exchanges, caller.principal.name
        exchanges.counted("auth.device_approve", name=name, address=address)
        now = self._now()
        with exchanges.database.transaction() as connection:
            row = self._pending(connection, user_code, now)
            reason = self._not_for(connection, row, caller)
            if row is not None and not reason:
                exchanges.throttle.forgive(connection, name=name, address=address)
                return Waiting(
                    client=row["client"],
                    address=row["address"],
                    steps_up=row["steps_up"],
                    created_at=row["created_at"],
                )
            self._record(connection, caller, Outcome.REFUSED, reason, address)
        raise _no_such_code()

    def decide(
        self,
        caller: Caller,
        user_code: str,
        *,
        approve: bool,
        session: str | None = None,
        address: str | None = None,
    ) -> None:
        """Let the program in that waits under a user code, or refuse it.

        Args:
            session: in which the person decides; what ends it elsewhere ends the program's too.

        Raises:
            StepUpRequired: the person has to present a factor first.
            NotFound, TooManyAttempts: as for ``waiting``.
        """
        now = self._now()
        if approve and not caller.stepped_up(now):
            raise StepUpRequired(
                "Letting a program in needs a fresh second factor.", hint="Present one."
            )
        self.waiting(caller, user_code, address=address)
        with self._exchanges.database.transaction() as connection:
            row = self._pending(connection, user_code, now)
            account = self._authentication.accounts.get(connection, caller.principal.name)
            decided = row is not None and connection.execute(
                update(device_codes)
                .where(
                    device_codes.c.device_hash == row["device_hash"],
                    device_codes.c.state == _PENDING,
                )
                .values(
                    state=_APPROVED if approve else _DENIED,
                    account=account.id,
                    approved_in=session,
                    mfa_at=caller.mfa_at,
                )
            )
            done = bool(decided and decided.rowcount)
            reason = ("approved" if approve else "denied") if done else "decided-already"
            outcome = Outcome.DONE if done else Outcome.REFUSED
            self._record(connection, caller, outcome, reason, address)
        if not done:
            raise _no_such_code()

    def _undecided(
        self, connection: Connection, row: RowMapping, now: datetime
    ) -> Exception | None:
        """Why a program is not let in yet, or never; None if it is."""
        if row["state"] == _APPROVED:
            return None
        if row["state"] == _DENIED:
            return AccessDenied("The request was refused.", error="access_denied")
        if row["state"] == _USED:
            return ExpiredCode("The code was used.", hint="Begin again.", error="expired_token")
        interval = row["interval_seconds"]
        polled = row["polled_at"]
        hasty = polled is not None and now - polled < timedelta(seconds=interval - 0.5)
        interval += INTERVAL_SECONDS if hasty else 0
        connection.execute(
            update(device_codes)
            .where(device_codes.c.device_hash == row["device_hash"])
            .values(polled_at=now, interval_seconds=interval)
        )
        if hasty:
            return SlowDown(
                "You ask too often.", hint=f"Wait {interval} seconds between two questions.",
                error="slow_down", interval=interval,
            )  # fmt: skip
        return AuthorizationPending(
            "Nobody has decided yet.", hint=f"Ask again in {interval} seconds.",
            error="authorization_pending", interval=interval,
        )  # fmt: skip

    def _let_in(
        self,
        connection: Connection,
        row: RowMapping,
        now: datetime,
        address: str | None,
        binding: Binding | None,
    ) -> TokenPair:
        found = self._authentication.accounts.by_id(connection, row["account"])
        if found is None or found["state"] != AccountState.ACTIVE.value:
            raise ExpiredCode("The account has ended.", error="expired_token")
        account = self._authentication.accounts.get(connection, found["name"])
        if row["steps_up"]:
            pair = self._authentication.refreshed_in(
                connection, row["session"], mfa_at=row["mfa_at"], now=now
            )
        else:
            pair = self._authentication.begun(
                connection,
                account,
                now,
                row["client"],
                address,
                mfa_at=row["mfa_at"],
                binding=binding,
            )
            carried(connection, row["approved_in"], pair.session)
        self._exchanges.record(
            connection,
            "auth.device_login",
            Outcome.DONE,
            "step-up" if row["steps_up"] else "device-code",
            principal=account.principal_id,
            address=address,
            details={"session": pair.session},
        )
        return pair

    def _claimed(self, connection: Connection, hashed: str) -> bool:
        used = connection.execute(
            update(device_codes)
            .where(device_codes.c.device_hash == hashed, device_codes.c.state == _APPROVED)
            .values(state=_USED)
        )
        return bool(used.rowcount)

    def _check_room(self, connection: Connection, address: str | None) -> None:
        waiting = select(func.count()).where(device_codes.c.state == _PENDING)
        of_address = waiting.where(device_codes.c.address == address)
        if (
            connection.execute(waiting).scalar_one() >= MOST
            or connection.execute(of_address).scalar_one() >= MOST_OF_ADDRESS
        ):
            raise TooManyAttempts(
                "Too many codes wait for their approval.", hint="Wait until some have expired."
            )

    def _pending(self, connection: Connection, user_code: str, now: datetime) -> RowMapping | None:
        letters = "".join(letter for letter in user_code.upper() if letter in _LETTERS)
        row = self._row(connection, device_codes.c.user_hash == secret_hash(letters), now)
        return row if row is not None and row["state"] == _PENDING else None

    def _row(
        self, connection: Connection, where: ColumnElement[bool], now: datetime
    ) -> RowMapping | None:
        query = select(device_codes).where(where, device_codes.c.expires_at > now)
        return connection.execute(query).mappings().first()

    def _not_for(self, connection: Connection, row: RowMapping | None, caller: Caller) -> str:
        if row is None:
            return "unknown-code"
        if not row["steps_up"]:
            return ""
        account = self._authentication.accounts.get(connection, caller.principal.name)
        return "" if row["account"] == account.id else "wrong-account"

    def _record(
        self,
        connection: Connection,
        caller: Caller,
        outcome: Outcome,
        reason: str,
        address: str | None,
    ) -> None:
        self._exchanges.record(
            connection,
            "auth.device_approve",
            outcome,
            reason,
            principal=caller.principal.id,
            address=address,
            via=caller.via,
        )

    def _now(self) -> datetime:
        return self._exchanges.clock.now()


def _no_such_code() -> NotFound:
    return NotFound(
        "No program waits under this code.",
        hint="Check it against what the program shows; codes end after some minutes.",
    )
