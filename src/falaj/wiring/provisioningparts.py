"""The parts of provisioning and of CI: who may hand in people, and whose jobs are let in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.trust.ci import IssuerKeys, rules_of
from falaj.trust.ci_exchange import CiExchange
from falaj.trust.provisioned import ProvisionedUsers
from falaj.trust.provisioned_groups import ProvisionedGroups
from falaj.trust.provisioning_roles import RoleMap
from falaj.trust.provisioning_service import ProvisioningService

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def provisioned_users(made: Premises) -> ProvisionedUsers:
    """The people whom provisioners keep; raises InvalidInput if a setting gives no role."""
    settings, authentication = made.settings.provisioning, made.authentication
    roles = RoleMap(settings.groups)
    return ProvisionedUsers(
        authentication.accounts, authentication.sessions, roles, domain=settings.domain
    )


def provisioning_service(made: Premises) -> ProvisioningService:
    """The actions of provisioning; raises InvalidInput if a setting gives no role."""
    users = provisioned_users(made)
    groups = ProvisionedGroups(users, RoleMap(made.settings.provisioning.groups))
    return ProvisioningService(users, groups, made.authentication.accounts)


def ci_exchange(made: Premises) -> CiExchange:
    """The exchange of tokens of CI jobs; raises InvalidInput if a rule is none."""
    return CiExchange(made.authentication, ci_issuers(made), rules_of(made.settings.ci.rules))


def ci_issuers(made: Premises) -> IssuerKeys:
    """Asks the issuers that rules name for their keys."""
    from falaj.trust.adapters.ci_issuers import HttpsIssuers

    settings = made.settings.ci
    return HttpsIssuers(
        {rule.issuer for rule in settings.rules},
        made.settings.outgoing,
        clock=made.clock,
        ca_file=settings.ca_file,
    )
