"""The actions on accounts: who may act, as what, and with which sessions."""

from __future__ import annotations

from pydantic import SecretStr

from falaj.kernel.actions import Service, action
from falaj.trust.accounts import Accounts
from falaj.trust.enrolment import Enrolment
from falaj.trust.model import (
    Account,
    AccountName,
    FactorList,
    Invitation,
    Me,
    Role,
    ServiceSecret,
    Session,
)
from falaj.trust.ownfactors import OwnFactors
from falaj.trust.sessions import Sessions


class AccountsService(Service):
    """People and programs that may act on this platform, their roles and sessions."""

    name = "accounts"

    def __init__(
        self,
        accounts: Accounts,
        sessions: Sessions,
        enrolment: Enrolment,
        factors: OwnFactors,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._enrolment = enrolment
        self._factors = factors

    @action(get="/me")
    def me(self) -> Me:
        """Who you are to this platform: principal, roles, freshness of the second factor."""
        call = self.call
        return Me(
            principal=call.principal.id,
            kind=call.principal.kind,
            roles=call.principal.roles,
            mfa_at=call.caller.mfa_at,
            stepped_up=call.caller.stepped_up(call.now),
            via=call.caller.via,
        )

    @action(get="/accounts")
    def list(self) -> tuple[Account, ...]:
        """All accounts, by name."""
        return tuple(self._accounts.all(self.call.connection))

    @action(get="/accounts/{name}", on="account")
    def get(self, name: AccountName) -> Account:
        """One account; raises NotFound."""
        return self._accounts.get(self.call.connection, name)

    @action(post="/accounts/{name}/invitations", on="account", step_up=True)
    def invite(self, name: AccountName, roles: tuple[Role, ...]) -> Invitation:
        """Invite a person; the answer holds a link secret that is shown this once.

        A person who was invited but never enrolled gets a new link; the old one ends.
        """
        call = self.call
        invitation = self._enrolment.invite(
            call.connection, name=name, roles=roles, created_by=call.principal.id, now=call.now
        )
        call.emit("account.invited", account=name, roles=[role.value for role in roles])
        return invitation

    @action(post="/accounts/{name}/service", on="account", step_up=True)
    def create_service(
        self, name: AccountName, roles: tuple[Role, ...] = (Role.SERVICE,)
    ) -> ServiceSecret:
        """Make an account for a program; the answer holds a secret that is shown this once."""
        call = self.call
        account, secret = self._accounts.create_service(
            call.connection, name=name, roles=roles, created_by=call.principal.id, now=call.now
        )
        call.emit("account.created", account=name, roles=[role.value for role in roles])
        return ServiceSecret(account=account.name, secret=SecretStr(secret))

    @action(post="/accounts/{name}/secret", on="account", step_up=True)
    def replace_secret(self, name: AccountName) -> ServiceSecret:
        """Give a service account a new secret; the old one, tokens, certificates end at once."""
        call = self.call
        secret = self._accounts.replace_secret(call.connection, name, now=call.now)
        call.emit("account.secret_replaced", account=name)
        return ServiceSecret(account=name, secret=SecretStr(secret))

    @action(post="/accounts/{name}/roles", on="account", step_up=True)
    def set_roles(self, name: AccountName, roles: tuple[Role, ...]) -> Account:
        """Give an account these roles and no others; in force within a second."""
        call = self.call
        before = self._accounts.get(call.connection, name)
        account = self._accounts.set_roles(call.connection, name, roles, now=call.now)
        call.note(roles_before=[role.value for role in before.roles])
        call.emit("account.roles_set", account=name, roles=[role.value for role in roles])
        return account

    @action(post="/accounts/{name}/deactivation", on="account", step_up=True)
    def deactivate(self, name: AccountName) -> Account:
        """Shut an account for good: sessions end and tokens are refused within a second."""
        call = self.call
        account = self._accounts.get(call.connection, name)
        ended = self._sessions.end_all(
            call.connection, account, now=call.now, because="account deactivated"
        )
        account = self._accounts.deactivate(call.connection, name, now=call.now)
        call.note(sessions_ended=ended)
        call.emit("account.deactivated", account=name)
        return account

    @action(post="/accounts/{name}/reset", on="account", step_up=True)
    def reset(self, name: AccountName) -> Invitation:
        """Forget a person's lost credentials; the answer holds a link secret, shown this once."""
        call = self.call
        invitation = self._enrolment.reset(call.connection, name, now=call.now)
        call.emit("account.reset", account=name)
        return invitation

    @action(get="/accounts/{name}/sessions", on="account")
    def sessions(self, name: AccountName) -> tuple[Session, ...]:
        """The open sessions of an account, latest first; your own, or as an administrator."""
        account = self._accounts.get(self.call.connection, name)
        return tuple(self._sessions.of(self.call.connection, account, now=self.call.now))

    @action(get="/accounts/{name}/factors", on="account")
    def factors(self, name: AccountName) -> FactorList:
        """With what a person signs in; your own, or as an administrator."""
        connection = self.call.connection
        account = self._accounts.get(connection, name)
        return self._factors.of(connection, account)

    @action(post="/accounts/{name}/factors/removal", on="account", step_up=True)
    def remove_factor(self, name: AccountName, factor: str) -> FactorList:
        """Forget a passkey (by its id) or the authenticator (``totp``), unless it is the last."""
        call = self.call
        account = self._accounts.get(call.connection, name)
        left = self._factors.remove(call.connection, account, factor)
        call.emit("account.factor_removed", account=name, factor=factor)
        return left

    @action(post="/accounts/{name}/sessions/revocation", on="account")
    def revoke_sessions(self, name: AccountName, session: str | None = None) -> int:
        """End one session of an account, or all of them; returns how many were open.

        Their tokens are refused within a second.
        """
        call = self.call
        account = self._accounts.get(call.connection, name)
        because = f"revoked by {call.principal.id}"
        if session is None:
            ended = self._sessions.end_all(call.connection, account, now=call.now, because=because)
            self._accounts.change(call.connection, account, now=call.now)
        else:
            ended = self._sessions.end_one(
                call.connection, account, session, now=call.now, because=because
            )
        call.emit("account.sessions_revoked", account=name, n_sessions=ended)
        return ended
