"""What all credential exchanges share: attempts are counted, every end leaves a record.

An exchange keeps its own transactions: a failure must be counted and recorded although the
caller gets an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.kernel.ids import new_id
from falaj.kernel.ports import AuditEntry, AuditLog, Outcome
from falaj.trust.factors import Factors, recovery_hash
from falaj.trust.tables import accounts, recovery_codes
from falaj.trust.throttle import Throttle, Wait


class _Asks(Protocol):
    def __call__(
        self, connection: Connection, *, name: str | None, address: str | None, now: datetime
    ) -> Wait | None: ...


class Exchanges:
    """The bookkeeping of credential exchanges.

    Args:
        database: where attempts are counted.
        audit: keeps a record of each exchange, in its transaction.
        throttle: makes failed attempts wait.
        factors: opens and checks second factors.
        clock: tells the time.
    """

    def __init__(
        self,
        database: Database,
        audit: AuditLog,
        *,
        throttle: Throttle,
        factors: Factors,
        clock: Clock,
    ) -> None:
        self.database = database
        self.throttle = throttle
        self.factors = factors
        self.clock = clock
        self._audit = audit

    def counted(self, action: str, *, name: str, address: str | None) -> None:
        """Count an attempt at what can be guessed, in a transaction of its own.

        Raises:
            TooManyAttempts: the account or the address has to wait.
        """
        self._waited(action, name, address, self.throttle.begin)

    def admitted(self, action: str, *, address: str | None) -> None:
        """Let an attempt with a 256-bit secret pass, unless its address has to wait.

        Nothing is counted yet, so that a gateway with many callers behind it is not held up
        by their number. By address only: a stranger must not be able to lock a program out.

        Raises:
            TooManyAttempts: the address has failed too often.
        """
        if address is not None:
            self._waited(action, None, address, self.throttle.wait)

    def _waited(self, action: str, name: str | None, address: str | None, ask: _Asks) -> None:
        with self.database.transaction() as connection:
            wait = ask(connection, name=name, address=address, now=self.clock.now())
            if wait is not None and wait.first:
                self.record(
                    connection,
                    action,
                    Outcome.REFUSED,
                    "too-many-attempts",
                    address=address,
                    details={"retry_after_seconds": wait.seconds, **_digest_of(name)},
                )
        if wait is not None:
            raise wait.error()

    def record(
        self,
        connection: Connection,
        action: str,
        outcome: Outcome,
        reason: str,
        *,
        principal: str | None = None,
        address: str | None = None,
        via: str = "http",
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the audit record of an exchange into its transaction.

        ``principal`` is None when nobody is known: a name that was typed is not recorded, as
        people type passwords into that field; a digest in the details links the attempts.
        """
        name = principal.partition(":")[2] if principal else "?"
        self._audit.append(
            connection,
            AuditEntry(
                call_id=new_id("call"),
                parent=None,
                at=self.clock.now(),
                principal=principal or "unknown",
                via=via,
                address=address,
                action=action,
                resource=f"account:{name}",
                outcome=outcome,
                reasons=(reason,),
                arguments={},
                details=dict(details or {}),
            ),
        )

    def use_factor(
        self, connection: Connection, row: RowMapping, code: str, *, now: datetime
    ) -> str | None:
        """Use up a code: ``"totp"`` or ``"recovery-code"`` if it was right and unused, or None.

        The same code presented twice at once is accepted once: the row's update decides.
        """
        step = None
        if row["totp_sealed"] is not None:
            secret = self.factors.open(row["totp_sealed"], row["id"])
            step = self.factors.step_of(secret, code, now=now, last_step=row["totp_last_step"])
        if step is not None:
            used = connection.execute(
                update(accounts)
                .where(accounts.c.id == row["id"], accounts.c.totp_last_step < step)
                .values(totp_last_step=step)
            )
            return "totp" if used.rowcount else None
        used = connection.execute(
            update(recovery_codes)
            .where(
                recovery_codes.c.code_hash == recovery_hash(code, row["id"]),
                recovery_codes.c.account == row["id"],
                recovery_codes.c.used_at.is_(None),
            )
            .values(used_at=now)
        )
        return "recovery-code" if used.rowcount else None

    def has_code(self, connection: Connection, row: RowMapping) -> bool:
        """True if an account can present a code: of an authenticator, or for recovery."""
        return row["totp_sealed"] is not None or self.n_recovery_codes(connection, row["id"]) > 0

    def n_recovery_codes(self, connection: Connection, account_id: str) -> int:
        """How many recovery codes an account has left."""
        query = select(func.count()).where(
            recovery_codes.c.account == account_id, recovery_codes.c.used_at.is_(None)
        )
        return int(connection.execute(query).scalar_one())


def _digest_of(name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    return {"name_digest": hashlib.sha256(name.strip().lower().encode()).hexdigest()[:16]}


def name_details(name: str) -> dict[str, str]:
    """A digest of a typed name that links attempts without telling what was typed."""
    return _digest_of(name)
