"""Whether policies would shut out those who could take them back.

A forbid outweighs every permit. One that keeps every administrator from proposing policies or
from handing out roles, or every approver from approving, could never be withdrawn through the
platform. So what somebody may do under the built-in policies alone, somebody must still be able
to do under the new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from falaj.kernel.actions import PLATFORM
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import Clock
from falaj.kernel.ports import Resource
from falaj.trust.policy import CedarPolicy

Person = tuple[str, tuple[str, ...]]
"""A principal's id and roles."""
_PURPOSE = "administration"
_WAYS = ("http", "local")
_CHANGE = AssetRef("change", "any")
_TO_COME: Sequence[Person] = (
    ("user:administrator-to-come", ("administrator",)),
    ("user:approver-to-come", ("approver",)),
)

# None is about whoever asks.
_QUESTIONS: Sequence[tuple[str, str, tuple[AssetRef, Mapping[str, str]]]] = (
    ("propose policies", "policy.propose", (AssetRef(PLATFORM, "*"), {})),
    ("give roles", "accounts.set_roles", (AssetRef("account", "somebody-else"), {})),
    ("invite people", "accounts.invite", (AssetRef("account", "somebody-new"), {})),
    ("approve another's change", "changes.approve", (_CHANGE, {"owner": "user:somebody-else"})),
)


def shut_out(
    built_in: CedarPolicy, proposed: CedarPolicy, people: Sequence[Person], clock: Clock
) -> list[str]:
    """What nobody could do any more, one sentence each; empty if all is well.

    Args:
        built_in: the policies without any of the operator's.
        proposed: the policies as they would be.
        people: every active account.
        clock: a fresh second factor is assumed at its time.
    """
    found = []
    for told, action, about in _QUESTIONS:
        asked = (action, Resource(*about), clock)
        before = [one for one in people if _may(built_in, one, *asked)]
        # Where nobody has the role yet, whoever is given it must be able to.
        before = before or [one for one in _TO_COME if _may(built_in, one, *asked)]
        if not any(_may(proposed, one, *asked) for one in before):
            found.append(f"nobody could {told} any more ({action})")
    return found


def _may(
    policy: CedarPolicy, person: Person, action: str, resource: Resource, clock: Clock
) -> bool:
    name, roles = person
    kind = PrincipalKind(name.partition(":")[0])
    return any(
        policy.decide(
            Caller(Principal(name, kind, roles), mfa_at=clock.now(), purpose=_PURPOSE, via=way),
            action,
            resource,
            stepped_up=True,
        ).allowed
        for way in _WAYS
    )
