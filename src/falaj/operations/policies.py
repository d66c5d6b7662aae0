"""How the operator's own policies come into force: proposed by one, approved by another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions, Document, Resulting
from falaj.catalog.planning import Plan, PlannedDefinition, Step
from falaj.catalog.policies import KIND, Policy
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.clock import Clock
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.operations.changes import Changes
from falaj.operations.model import Change
from falaj.trust.policy import CedarPolicy
from falaj.trust.policy_lockout import Person, shut_out
from falaj.trust.policy_model import KEPT_DAYS, Comparison
from falaj.trust.policy_questions import compared
from falaj.trust.policy_store import in_force, put

CHANGE_KIND = "policy"
SUBJECT = AssetRef("policy_set", "operator")
"""What a change of policies is about: all of the operator's own, which act together."""
People = Callable[[Connection], Sequence[Person]]
"""Every active account with its roles."""


class PolicyReview:
    """Judges each plan that changes policies; fulfils ``catalog.definitions.Review``.

    Args:
        policy: knows the schema and the built-in policies.
        people: whom policies must not all shut out.
        clock: tells the time.
    """

    def __init__(self, policy: Callable[[], CedarPolicy], people: People, clock: Clock) -> None:
        self._policy = policy
        self._people = people
        self._clock = clock

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are.

        Raises:
            InvalidInput: the policies do not fit the schema or each other, or would shut out
                everybody who could take them back.
        """
        judged = list(items)
        if not any(
            item.kind == KIND and item.step in (Step.CREATE, Step.UPDATE) for item in judged
        ):
            return judged
        texts = {
            one.name: one.text
            for one in resulting.all(KIND)
            if isinstance(one, Policy) and one.enabled
        }
        policy = self._policy()
        proposed = policy.with_added(texts)
        built_in = policy.with_added({})
        problems = shut_out(built_in, proposed, self._people(connection), self._clock)
        if problems:
            raise InvalidInput(
                f"With these policies {'; '.join(problems)}.",
                hint="Leave somebody who can take them back.",
            )
        return judged


def policy_applied(call: Call, policy: Policy) -> None:
    """Put an applied policy in force, or out of force, in the call's transaction."""
    put(call.connection, policy.name, policy.text if policy.enabled else None, now=call.now)


class PolicyProposals:
    """Plans, proposes and carries out changes of the operator's policies.

    Args:
        definitions: where policies are kept, version by version.
        changes: where a proposal waits for another person.
        catalog: knows the set of policies as an asset.
        policy: knows the schema and the built-in policies.
        kinds: of definition, which are proposed so: policies and, of other rooms, what is
            guarded as they are.
    """

    def __init__(
        self,
        definitions: Definitions,
        changes: Changes,
        catalog: Catalog,
        policy: Callable[[], CedarPolicy],
        kinds: Collection[str] = (KIND,),
    ) -> None:
        self._policy = policy
        self._kinds = frozenset(kinds)
        self._definitions = definitions
        self._changes = changes
        self._catalog = catalog

    def plan(self, connection: Connection, documents: Sequence[Document]) -> Plan:
        """What applying these policies would do.

        Raises:
            InvalidInput: a document is no policy, or as ``Definitions.plan``.
        """
        for document in documents:
            kind = document.get("kind") if isinstance(document, Mapping) else document.kind
            if kind not in self._kinds:
                raise InvalidInput(
                    f"A {kind} is no policy, no read rule and no template of changes.",
                    hint="Plan it with `falaj definitions plan`.",
                )
        plan = self._definitions.plan(connection, documents)
        items = [item for item in plan.items if item.kind in self._kinds]
        return plan.model_copy(update={"items": items})

    def propose(self, call: Call, documents: Sequence[Document], *, reason: str) -> Change:
        """Ask for policies; they come into force with another person's approval.

        Raises:
            InvalidInput: as for ``plan``; or they change nothing.
            AlreadyExists: the same proposal waits already.
        """
        plan = self.plan(call.connection, documents)
        names = [item.name for item in plan.effective()]
        if not names:
            raise InvalidInput("These policies are in force already; nothing would change.")
        self._catalog.record(call, SUBJECT, description="The operator's own policies.")
        owned = [self._owned(document, call.principal.id) for document in documents]
        # The names of who proposed stand in the documents, so they are planned once more.
        plan = self.plan(call.connection, owned)
        return self._changes.open(
            call,
            kind=CHANGE_KIND,
            subject=SUBJECT,
            title=f"Policies: {', '.join(names)}",
            reason=reason,
            evidence={"plan": [item.model_dump(mode="json") for item in plan.effective()]},
            payload={"documents": owned, "steps": _steps(plan)},
        )

    def compare(self, call: Call, documents: Sequence[Document], *, days: int) -> Comparison:
        """What these policies would change of what was asked in the last days.

        Raises:
            InvalidInput: as for ``plan``, or ``days`` is not 1 to 30.
        """
        if not 1 <= days <= KEPT_DAYS:
            raise InvalidInput(f"days is {days}; it is between 1 and {KEPT_DAYS}.")
        self.plan(call.connection, documents)
        texts = in_force(call.connection)
        before = self._policy().with_added(texts)
        for document in documents:
            plain = document if isinstance(document, Mapping) else document.document()
            if plain["kind"] != KIND:
                continue  # what a read rule masks, no decision tells
            if plain.get("enabled", True):
                texts[plain["name"]] = plain["text"]
            else:
                texts.pop(plain["name"], None)
        after = self._policy().with_added(texts)
        return compared(call.connection, before, after, now=call.now, days=days)

    def carry_out(self, call: Call, change: Change) -> None:
        """Apply what was approved; the handler of this kind of change.

        Raises:
            Conflict: the policies are no longer those that it was proposed for.
            InvalidInput: they would now shut everybody out, or no longer fit the schema.
        """
        self._definitions.alone(call.connection)
        documents = change.payload["documents"]
        if _steps(self.plan(call.connection, documents)) != change.payload["steps"]:
            raise Conflict(
                "The policies have changed since this was proposed.",
                hint="Reject it, and have it proposed anew.",
            )
        self._definitions.apply(call, documents)

    @staticmethod
    def _owned(document: Document, principal: str) -> dict[str, Any]:
        """The policy belongs to who proposed it, not to who approves."""
        plain = dict(document if isinstance(document, Mapping) else document.document())
        if plain.get("owner") is None:
            plain["owner"] = principal
        return plain


def _steps(plan: Plan) -> list[list[Any]]:
    return [
        [item.kind, item.name, str(item.step), item.version, item.fingerprint]
        for item in plan.items
        if item.step is not Step.KEPT
    ]
