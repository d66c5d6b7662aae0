"""The actions for jobs of CI systems: their keys, and asking for a promotion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, SecretStr

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import NotFound
from falaj.models.cikeys import ROLES, CiStep, DeployKey, rights_of
from falaj.models.model import Stage
from falaj.operations.model import Change
from falaj.training.model import Name
from falaj.trust.model import AccountName

if TYPE_CHECKING:
    from falaj.models.promotion import Promotions
    from falaj.models.registry import Registry
    from falaj.trust.accounts import Accounts

Steps = Annotated[tuple[CiStep, ...], Field(min_length=1)]
Reason = Annotated[str, Field(min_length=1, max_length=2000)]


class CiService(Service):
    """CI: keys with the least rights, and what a job may ask for."""

    name = "ci"

    def __init__(self, accounts: Accounts, registry: Registry, promotions: Promotions) -> None:
        self._accounts = accounts
        self._registry = registry
        self._promotions = promotions

    @action(post="/ci/keys/{name}", on="account", step_up=True)
    def deploy_key(self, name: AccountName, steps: Steps) -> DeployKey:
        """Make a service account that may do what these steps of a job need, and no more.

        The answer holds its secret, which is shown this once.
        """
        call, wanted = self.call, tuple(dict.fromkeys(steps))
        roles = [ROLES[step] for step in wanted]
        account, secret = self._accounts.create_service(
            call.connection, name=name, roles=roles, created_by=call.principal.id, now=call.now
        )
        call.emit("account.created", account=name, roles=[role.value for role in roles])
        return DeployKey(
            account=account.name, secret=SecretStr(secret), steps=wanted, rights=rights_of(wanted)
        )

    @action(post="/ci/proposals/{name}", on="model")
    def propose(self, name: Name, reason: Reason, *, version: int | None = None) -> Change:
        """Ask for a version (the latest) to go to production, once its gates have passed.

        It opens a change, as `models.promote` does; a person with a fresh second factor decides.
        """
        if version is None:
            versions = self._registry.versions(self.call.connection, name)
            if not versions:
                raise NotFound(f"The model {name!r} has no version.", hint="Train one first.")
            version = versions[0].version
        return self._promotions.ask(self.call, name, version, Stage.PRODUCTION, reason)
