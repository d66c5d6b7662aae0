"""The operator's own policies, joined from the parts of their platform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.engine import Connection

from falaj.kernel.actions import Action
from falaj.kernel.database import Database
from falaj.kernel.errors import NotFound
from falaj.operations.policies import PolicyProposals, PolicyReview
from falaj.operations.policy_service import PolicyService
from falaj.trust.model import AccountState
from falaj.trust.policy_questions import Questions
from falaj.trust.policy_store import LivePolicy
from falaj.trust.tables import accounts
from falaj.wiring.kinds import proposed_kinds
from falaj.wiring.services import service_classes

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def live_policy(made: Premises) -> LivePolicy:
    """Decides over all actions of the platform, by the policies as they stand now."""
    actions: list[Action] = [
        action for service in service_classes().values() for action in service.actions()
    ]
    # Of its own: a look from inside a call must not wait for a connection that calls hold.
    database = Database(made.settings.database_url)
    made.closing.append(database.close)
    return LivePolicy(actions, database, environment=made.settings.environment, clock=made.clock)


def questions_kept(made: Premises) -> None:
    """Keep what this process's policy is asked, until its premises are closed."""
    made.closing.append(Questions(made.policy, made.database, made.clock).close)


def review(made: Premises) -> PolicyReview:
    """Judges plans that change policies."""
    return PolicyReview(lambda: made.policy, _people, made.clock)


def proposals(made: Premises) -> PolicyProposals:
    """Proposes policies and carries approved ones out."""
    return PolicyProposals(
        made.definitions, made.changes, made.catalog, lambda: made.policy, proposed_kinds()
    )


def policy_service(made: Premises) -> PolicyService:
    """The actions on policies."""
    return PolicyService(proposals(made), made.policy, made.resources, _roles_of)


def _people(connection: Connection) -> Sequence[tuple[str, tuple[str, ...]]]:
    query = select(accounts.c.kind, accounts.c.name, accounts.c.roles)
    rows = connection.execute(query.where(accounts.c.state == AccountState.ACTIVE.value))
    return [(f"{row.kind}:{row.name}", tuple(row.roles)) for row in rows]


def _roles_of(connection: Connection, principal: str) -> tuple[str, ...]:
    """The roles of an account; raises NotFound."""
    kind, _, name = principal.partition(":")
    query = select(accounts.c.roles).where(accounts.c.kind == kind, accounts.c.name == name)
    found = connection.execute(query).scalar()
    if found is None:
        raise NotFound(
            f"There is no account {principal!r}.", hint="`falaj accounts list` shows all."
        )
    return tuple(found)
