"""What a person signs in with: listed, and taken away without shutting the person out."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.engine import Connection

from falaj.kernel.errors import Conflict, NotFound
from falaj.trust.exchanges import Exchanges
from falaj.trust.federation_tables import made_elsewhere, providers_of, unlinked
from falaj.trust.model import Account, FactorList
from falaj.trust.passkeys import Passkeys
from falaj.trust.tables import accounts

TOTP = "totp"
"""The name of the time-based authenticator, of which an account has one at most."""
PROVIDER = "provider:"
"""Before the name of an identity provider that a person has linked."""


class OwnFactors:
    """The factors of accounts. Each method works in the caller's transaction."""

    def __init__(self, exchanges: Exchanges) -> None:
        self._exchanges = exchanges
        self._passkeys = Passkeys()

    def of(self, connection: Connection, account: Account) -> FactorList:
        """All factors of an account."""
        passkeys = tuple(self._passkeys.of(connection, account.id))
        return FactorList(
            account=account.name,
            password=account.has_password,
            totp=account.has_factor and self._has_totp(connection, account),
            passkeys=passkeys,
            recovery_codes=self._exchanges.n_recovery_codes(connection, account.id),
            providers=tuple(providers_of(connection, account.id)),
        )

    def remove(self, connection: Connection, account: Account, factor: str) -> FactorList:
        """Take a factor away.

        Raises:
            NotFound: the account has no such factor.
            Conflict: nothing would be left to sign in with: a person keeps a second factor
                beside the password, or without one a passkey that checks its user. An account
                that an identity provider made needs none: it is opened there.
        """
        held = self.of(connection, account)
        if factor.startswith(PROVIDER):
            return self._unlinked(connection, account, factor.removeprefix(PROVIDER))
        if factor == TOTP and not held.totp:
            raise NotFound("There is no authenticator.", hint="List the factors.")
        left = [one for one in held.passkeys if one.id != factor]
        if factor != TOTP and len(left) == len(held.passkeys):
            raise NotFound(f"There is no factor {factor!r}.", hint="List the factors.")
        beside = held.password and (bool(left) or (held.totp and factor != TOTP))
        elsewhere = made_elsewhere(connection, account.id)
        if not (beside or elsewhere or any(one.verifies for one in left)):
            raise Conflict(
                "This is the last factor that the account can sign in with.",
                hint="Add another one first.",
            )
        if factor == TOTP:
            connection.execute(
                update(accounts)
                .where(accounts.c.id == account.id)
                .values(totp_sealed=None, totp_pending_sealed=None, totp_last_step=0)
            )
        else:
            self._passkeys.remove(connection, account.id, factor)
        return self.of(connection, account)

    def _unlinked(self, connection: Connection, account: Account, provider: str) -> FactorList:
        if not unlinked(connection, account.id, provider):
            raise NotFound(
                f"The account has not linked the provider {provider!r}.",
                hint="List the factors; the provider that made an account stays.",
            )
        return self.of(connection, account)

    def _has_totp(self, connection: Connection, account: Account) -> bool:
        row = (
            connection.execute(accounts.select().where(accounts.c.id == account.id))
            .mappings()
            .one()
        )
        return row["totp_sealed"] is not None
