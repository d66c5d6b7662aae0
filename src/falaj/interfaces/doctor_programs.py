"""What ``falaj doctor`` looks at of programs of others: identity providers, CI systems,
receivers of alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.interfaces.doctor import Unwell
from falaj.kernel.errors import FalajError, NotFound
from falaj.trust.ci import Rule, rules_of
from falaj.trust.model import AccountState, Role
from falaj.trust.provisioning_roles import RoleMap
from falaj.wiring.provisioningparts import ci_issuers, provisioned_users

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


class OutOfStep(FalajError):
    """What the settings say of programs of others, and what there is, do not fit."""

    code = "out-of-step"


def provisioning(made: Premises) -> str:
    """Who provisions whom; raises OutOfStep if accounts have other roles than the map gives."""
    people = provisioned_users(made)
    n_mapped = len(RoleMap(made.settings.provisioning.groups))
    with made.database.reading() as connection:
        n_people = people.count(connection, provisioner=None)
        unsettled = people.unsettled(connection)
        keepers = [
            account.name
            for account in made.authentication.accounts.all(connection)
            if Role.PROVISIONER in account.roles and account.state is AccountState.ACTIVE
        ]
    if unsettled:
        raise OutOfStep(
            f"{len(unsettled)} provisioned accounts have other roles than their groups give "
            f"({', '.join(unsettled[:5])}).",
            hint="If the map has changed: `falaj provisioning settle`.",
        )
    if not keepers and not n_people:
        return "nobody provisions"
    return f"{', '.join(keepers) or 'nobody'} keeps {n_people} people; {n_mapped} groups give roles"


def ci(made: Premises) -> str:
    """Whose jobs are let in; asks every issuer for its keys.

    Raises:
        OutOfStep: a rule's account is not there, or has none of the roles.
        Unavailable, OutgoingRefused: an issuer does not answer, or leads inside.
    """
    rules = rules_of(made.settings.ci.rules)
    if not rules:
        return "no jobs are let in"
    for rule in rules:
        _fits_its_account(made, rule)
    asked, issuers = ci_issuers(made), sorted({rule.issuer for rule in rules})
    n_keys = sum(len(asked.keys(issuer, "")) for issuer in issuers)
    return f"{len(rules)} rules; {n_keys} keys of {', '.join(issuers)}"


def _fits_its_account(made: Premises, rule: Rule) -> None:
    with made.database.reading() as connection:
        try:
            account = made.authentication.accounts.get(connection, rule.account)
        except NotFound as error:
            raise OutOfStep(
                f"The rule {rule.name!r} lets jobs in as {rule.account!r}, which is no account.",
                hint=f"`falaj accounts create-service {rule.account}` makes it.",
            ) from error
    if rule.roles and not set(rule.roles) & set(account.roles):
        raise OutOfStep(
            f"The rule {rule.name!r} gives jobs none of the roles of {rule.account!r}.",
            hint="A job has roles of its account at most.",
        )


def receivers(made: Premises) -> str:
    """Whether each receiver of alerts can be reached; nobody is sent anything."""
    from falaj.wiring.operationparts import receiver_states

    states = receiver_states(made)
    ill = [one for one in states if not one.reachable]
    if ill:
        raise Unwell(
            " ".join(f"{one.name} ({one.channel}) cannot be reached: {one.why}" for one in ill),
            hint="Mend its declaration, its secret (receivers.secrets), what that is for"
            " (receivers.uses) or the way to it (outgoing.allowed, receivers.ca_file).",
        )
    if not states:
        return "none is declared: alerts stand on the page and in the log alone"
    return f"{', '.join(one.name for one in states)} can be reached"
