"""The actions on policies: proposing one's own, and asking which policy decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from falaj.catalog.planning import Plan
from falaj.kernel.actions import PLATFORM, Service, action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.ports import Resource, Resources
from falaj.operations.model import Change
from falaj.trust.policy_model import Comparison, Why

if TYPE_CHECKING:
    from falaj.operations.policies import PolicyProposals
    from falaj.trust.policy import CedarPolicy

Documents = list[dict[str, Any]]
RolesOf = Callable[[Connection, str], tuple[str, ...]]
"""The roles of a principal by its id; raises NotFound."""


class PolicyService(Service):
    """Policies: the operator's own, and which policy decides what."""

    name = "policy"

    def __init__(
        self,
        proposals: PolicyProposals,
        policy: CedarPolicy,
        resources: Resources,
        roles_of: RolesOf,
    ) -> None:
        self._proposals = proposals
        self._policy = policy
        self._resources = resources
        self._roles_of = roles_of

    @action(post="/policy/plans")
    def plan(self, documents: Documents) -> Plan:
        """What proposing these policies would create and update; changes nothing."""
        return self._proposals.plan(self.call.connection, documents)

    @action(post="/policy/proposals", step_up=True)
    def propose(self, documents: Documents, *, reason: str) -> Change:
        """Ask for policies of one's own; they are in force once another person approves."""
        return self._proposals.propose(self.call, documents, reason=reason)

    @action(post="/policy/comparisons")
    def compare(self, documents: Documents, *, days: int = 30) -> Comparison:
        """What these policies would change of all that was asked in the last days."""
        return self._proposals.compare(self.call, documents, days=days)

    @action(get="/policy/decisions/{who}/{action}/{what:path}")
    def why(
        self,
        who: str,
        action: str,
        what: str,
        *,
        purpose: str | None = None,
        factor_seconds: int | None = None,
        via: str = "http",
    ) -> Why:
        """Which policies decide whether somebody may do something, and what would help.

        ``who`` is ``user:amina``, ``what`` is ``kind:key`` (``platform:*`` for none);
        ``factor_seconds`` is the age of their second factor.
        """
        call = self.call
        if not self._policy.groups_of(action):
            raise NotFound(
                f"There is no action {action!r}.", hint="Name it as service.verb: models.promote."
            )
        try:
            kind = PrincipalKind(who.partition(":")[0])
            ref = AssetRef.parse(what)
        except ValueError:
            raise InvalidInput(
                f"{who!r} and {what!r} are no principal and no asset.",
                hint="Write user:amina or service:ci, and kind:key: model:late.",
            ) from None
        principal = Principal(who, kind, self._roles_of(call.connection, who))
        presented = None if factor_seconds is None else _ago(call.now, factor_seconds)
        caller = Caller(principal, mfa_at=presented, purpose=purpose, via=via)
        resource = (
            Resource(ref) if ref.kind == PLATFORM else self._resources.load(call.connection, ref)
        )
        return self._policy.why(caller, action, resource, stepped_up=caller.stepped_up(call.now))


def _ago(now: Any, seconds: int) -> Any:
    from datetime import timedelta

    if not 0 <= seconds <= 10**9:
        raise InvalidInput(f"factor_seconds is {seconds}; it is between 0 and 1,000,000,000.")
    return now - timedelta(seconds=seconds)
