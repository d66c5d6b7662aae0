"""Provisioners: service accounts that an identity provider uses, shown by their secret.

Identity providers keep one long bearer token for SCIM and cannot log in for short ones, so a
provisioner's secret is taken as it is, with each request, and on these routes alone. No other
service account's secret is.
"""

from __future__ import annotations

from sqlalchemy import select

from falaj.kernel.call import Caller, PrincipalKind
from falaj.kernel.ports import Outcome
from falaj.trust.accounts import principal_of
from falaj.trust.authentication import Authentication
from falaj.trust.factors import secret_hash
from falaj.trust.model import AccountState, Role, WrongCredentials
from falaj.trust.tables import accounts

SECRET_BEGINS = "falaj_sk_"  # noqa: S105 - how every secret of a service account begins


class Provisioners:
    """Turns a provisioner's secret into a caller.

    Args:
        authentication: whose accounts, throttle and audit records these are.
    """

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    def caller(self, secret: str, *, address: str | None) -> Caller:
        """Who presents this secret. The door records what they do; here only failures are.

        Raises:
            WrongCredentials: no active provisioner has this secret.
            TooManyAttempts: the address has failed too often.
        """
        exchanges = self._authentication.exchanges
        exchanges.admitted("auth.provisioner", address=address)
        query = select(accounts.c.name).where(
            accounts.c.secret_hash == secret_hash(secret),
            accounts.c.kind == PrincipalKind.SERVICE.value,
            accounts.c.state == AccountState.ACTIVE.value,
        )
        with exchanges.database.reading() as connection:
            name = connection.execute(query).scalar()
            account = self._authentication.accounts.get(connection, name) if name else None
        if account is not None and Role.PROVISIONER in account.roles:
            return Caller(principal_of(account), via="http", address=address)
        now = exchanges.clock.now()
        with exchanges.database.transaction() as connection:
            exchanges.throttle.count(connection, name=None, address=address, now=now)
            exchanges.record(
                connection,
                "auth.provisioner",
                Outcome.REFUSED,
                "no-provisioner" if account else "wrong-secret",
                principal=account.principal_id if account else None,
                address=address,
            )
        raise WrongCredentials(
            "This is no secret of a provisioner.",
            hint="Make a service account with the role provisioner, and give its secret.",
        )
