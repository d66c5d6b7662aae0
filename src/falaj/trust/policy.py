"""The policy: Cedar text, prepared once, asked once for each different question.

Cedar is the judge; this module only remembers its answers. Everything that a decision depends
on stands in the key of its answer, and a change of the policies begins an empty memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, TypeAlias

import cedarpy
import msgspec

from falaj.kernel.actions import Action
from falaj.kernel.call import STEP_UP_WINDOW, Caller
from falaj.kernel.clock import Clock, SystemClock
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Decision, Resource
from falaj.trust.duties import GROUPS, Grouped, grouped
from falaj.trust.policy_model import Why
from falaj.trust.policy_slices import Slice, Written, sliced

_TYPES = {"user": "User", "service": "Service", "system": "System"}
_ATTRIBUTES = (
    "owner", "requested_by", "classification", "region", "stage", "environment", "workspace",
)  # fmt: skip
"""The attributes of a resource that policies may speak of; others are not shown to them."""
_MOST_KEPT = 100_000
_json = msgspec.json.Encoder().encode
UNKNOWN_ACTION = Decision(False, ("unknown-action",))
UNKNOWN_PRINCIPAL = Decision(False, ("unknown-principal",))
BROKEN_POLICY = "policy-error"
DEFAULT = "no-policy-permits"

_BUCKETS = (60, 300, 900, 3600, 28_800, 86_400)
"""The ages of a second factor that policies can tell apart, in seconds: at most so old."""

Question: TypeAlias = tuple[
    str, tuple[str, ...], str, str, str, tuple[tuple[str, str], ...], bool, str | None,
    int | None, str,
]  # fmt: skip
"""All that an answer depends on: who, roles, action, kind and key of the asset, its attributes,
whether a second factor is fresh, the purpose, the factor's age and the interface (where asked)."""


@dataclass
class _Prepared:
    """One set of policies, parsed, with the answers that it has given."""

    by_id: Mapping[str, Written]
    asks_age: bool
    """Whether a policy speaks of the age of the second factor, so that it changes answers."""
    asks_via: bool
    kept: dict[Question, Decision] = field(default_factory=dict)
    slices: dict[tuple[str, str], Slice] = field(default_factory=dict)
    told: int = 0
    """How many of the kept questions ``new_questions`` has given; dicts keep their order."""

    @property
    def text(self) -> str:
        """All policies as one text."""
        return "\n".join(policy.text for policy in self.by_id.values())

    def slice_for(self, item: Grouped, principal_type: str) -> Slice:
        """What of the policies can say something to an action and a type of principal."""
        found = self.slices.get((item.name, principal_type))
        if found is None:
            found = sliced(self.by_id.values(), item, principal_type)
            self.slices[item.name, principal_type] = found
        return found


class CedarPolicy:
    """Decides by Cedar policies; implements ``kernel.ports.Policy``.

    Args:
        actions: all actions of the platform; they become the schema's actions.
        added: the operator's own policies, Cedar text by name.
        environment: what this installation is for, as policies see it; empty if nothing is said.
        clock: tells how old a second factor is.

    Raises:
        InvalidInput: a policy does not parse, or does not fit the schema.

    Safe from many threads. A repeated question is answered from memory (about 1 µs), a new one
    by Cedar (about 60 µs; see benchmarks/trust/identity.py).
    """

    def __init__(
        self,
        actions: Iterable[Action],
        *,
        added: Mapping[str, str] | None = None,
        environment: str = "",
        clock: Clock | None = None,
    ) -> None:
        self._environment = environment
        self._clock = clock or SystemClock()
        self._actions = grouped(actions)
        self.schema = _schema(self._actions.values())
        self._prepared = self._parsed(added or {})

    @property
    def text(self) -> str:
        """All policies in force, as Cedar text."""
        return self._prepared.text

    def replace(self, added: Mapping[str, str]) -> None:
        """Put other policies of the operator in force, beside the built-in ones.

        Raises:
            InvalidInput: one of them does not parse or validate; the old ones stay in force.
        """
        self._prepared = self._parsed(added)

    def with_added(self, added: Mapping[str, str]) -> CedarPolicy:
        """Another policy with other texts of the operator beside the built-in ones.

        Raises:
            InvalidInput: one of them does not parse or validate.
        """
        other = CedarPolicy.__new__(CedarPolicy)
        other._environment, other._clock = self._environment, self._clock
        other._actions, other.schema = self._actions, self.schema
        other._prepared = other._parsed(added)
        return other

    def decide(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool
    ) -> Decision:
        """May this caller do this? With the ids of the policies that decided."""
        prepared = self._prepared
        principal = caller.principal
        ref = resource.ref
        attributes = resource.attributes
        key = (
            principal.id,
            principal.roles,
            action,
            ref.kind,
            ref.key,
            tuple(attributes.items()) if attributes else (),
            stepped_up,
            caller.purpose,
            self._age(caller, stepped_up) if prepared.asks_age else None,
            caller.via if prepared.asks_via else "",
        )
        decision = prepared.kept.get(key)
        if decision is None:
            decision = self._asked(prepared, key)
            if len(prepared.kept) >= _MOST_KEPT:
                prepared.kept.clear()
            prepared.kept[key] = decision
        return decision

    def why(
        self, caller: Caller, action: str, resource: Resource, *, stepped_up: bool = False
    ) -> Why:
        """The decision with the policies behind it and what would change a no."""
        decision = self.decide(caller, action, resource, stepped_up=stepped_up)
        would_help = []
        if not decision.allowed:
            with_purpose = Caller(caller.principal, purpose=caller.purpose or "any")
            tries = (
                (("step-up",), caller, True),
                (("purpose",), with_purpose, stepped_up),
                (("step-up", "purpose"), with_purpose, True),
            )
            for needed, other, factor in tries:
                if self.decide(other, action, resource, stepped_up=factor).allowed:
                    would_help = list(needed)
                    break
        by_id = self._prepared.by_id
        known = self._actions.get(action)
        return Why(
            allowed=decision.allowed,
            reasons=decision.reasons,
            policies=tuple(by_id[reason].text for reason in decision.reasons if reason in by_id),
            roles=caller.principal.roles,
            groups=known.groups if known else (),
            would_help=tuple(would_help),
        )

    def new_questions(self) -> list[Question]:
        """The questions that were asked for the first time since this was last called.

        Not those of unknown actions or principals: nobody may do these, whatever is written.
        """
        prepared = self._prepared
        known, prepared.told = prepared.told, len(prepared.kept)
        if known > prepared.told:
            known = 0  # the memory was emptied meanwhile
        questions = list(prepared.kept)[known : prepared.told]
        return [one for one in questions if one[2] in self._actions and _typed(one[0])]

    def tells_apart(self, caller: Caller, action: str) -> bool:
        """True if answers may differ for two assets of a kind with the same attributes.

        They do where a policy that could apply speaks of the asset's key, or of one asset by
        its name. Where none does, who asks of thousands has to ask of each set of attributes
        once.
        """
        known = self._actions.get(action)
        principal_type = _TYPES.get(caller.principal.id.partition(":")[0])
        if known is None or principal_type is None:
            return False
        return any(
            policy.speaks_of_one_asset
            for policy in self._prepared.by_id.values()
            if policy.fits(known, principal_type)
        )

    def groups_of(self, action: str) -> tuple[str, ...]:
        """The groups that an action stands in; empty for an unknown one."""
        known = self._actions.get(action)
        return known.groups if known else ()

    def _age(self, caller: Caller, stepped_up: bool) -> int | None:
        """The age of the second factor in seconds, rounded up to a step; None if it is older.

        Asked what a fresh one would change, a fresh one is assumed.
        """
        if caller.mfa_at is None:
            return _BUCKETS[0] if stepped_up else None
        seconds = (self._clock.now() - caller.mfa_at).total_seconds()
        if stepped_up and not 0 <= seconds <= STEP_UP_WINDOW.total_seconds():
            return _BUCKETS[0]
        return next((step for step in _BUCKETS if 0 <= seconds <= step), None)

    def _asked(self, prepared: _Prepared, key: Question) -> Decision:
        """Cedar's answer to the question that a key states."""
        principal_id, roles, action, kind, asset, attributes, stepped_up, purpose, age, via = key
        if action not in self._actions:
            return UNKNOWN_ACTION
        prefix, _, name = principal_id.partition(":")
        principal_type = _TYPES.get(prefix)
        if principal_type is None or not name:
            return UNKNOWN_PRINCIPAL
        part = prepared.slice_for(self._actions[action], principal_type)
        context: dict[str, Any] = {
            "stepped_up": stepped_up,
            "via": via,
            "environment": self._environment,
        }
        if age is not None:
            context["mfa_seconds"] = age
        if purpose is not None:
            context["purpose"] = purpose
        principal = {"type": principal_type, "id": principal_id}
        resource = {"type": "Asset", "id": f"{kind}:{asset}"}
        shown = {name: value for name, value in attributes if name in _ATTRIBUTES}
        about = [
            {
                "uid": principal,
                "attrs": {"id": principal_id, "name": name},
                "parents": [{"type": "Role", "id": role} for role in roles],
            },
            {"uid": resource, "attrs": {"kind": kind, "key": asset, **shown}, "parents": []},
        ]
        answer = cedarpy.is_authorized(
            {
                "principal": principal,
                "action": {"type": "Action", "id": action},
                "resource": resource,
                "context": _json(context).decode(),
            },
            part.policies,
            part.entities.with_added_json_str(_json(about).decode()),
        )
        if answer.diagnostics.errors:
            # Cedar leaves out a policy that fails; a guard that fails must not open a door.
            return Decision(False, (BROKEN_POLICY,))
        names = answer.diagnostics.id_annotations_by_reason
        reasons = sorted(names.get(reason, reason) for reason in answer.diagnostics.reasons)
        return Decision(answer.allowed, tuple(reasons) or (DEFAULT,))

    def _parsed(self, added: Mapping[str, str]) -> _Prepared:
        by_id: dict[str, Written] = {}
        found = list(_shipped().items())
        for added_name, text in added.items():
            name = f"the added policy {added_name!r}"
            _check_fit(name, text, _read(self.schema))
            found.append((name, _by_id(name, text)))
        for name, checked in found:
            for policy_id, written in checked.items():
                if policy_id in by_id:
                    raise InvalidInput(
                        f"The policy id {policy_id!r} stands twice, again in {name}.",
                        hint="Give each policy an id of its own.",
                    )
                by_id[policy_id] = written
        asked = frozenset[str]().union(*(policy.asks for policy in by_id.values()))
        return _Prepared(by_id, asks_age="mfa_seconds" in asked, asks_via="via" in asked)


BUILT_IN = ("roles.cedar", "guards.cedar")
"""The policies that every installation has. A test holds them to the schema: to do it at each
start would take a quarter of a second."""


@cache
def _shipped() -> Mapping[str, Mapping[str, Written]]:
    """The built-in policies by text and ``@id``."""
    return {name: _by_id(name, _built_in(name)) for name in BUILT_IN}


@lru_cache(maxsize=4)
def _read(schema: str) -> cedarpy.Schema:
    return cedarpy.Schema.from_str(schema)


def _check_fit(name: str, text: str, schema: cedarpy.Schema) -> None:
    """Return if policies fit a schema; raises InvalidInput, also if they are none."""
    _json_of(name, text)
    result = cedarpy.validate_policies(text, schema)
    if not result.validation_passed:
        told = "; ".join(str(problem) for problem in result.errors[:3])
        raise InvalidInput(
            f"The policies of {name} do not fit the platform's schema: {told}.",
            hint="The package's trust/policies/entities.cedarschema names what there is.",
        )


def _json_of(name: str, text: str) -> Any:
    try:
        return json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise InvalidInput(
            f"The policies of {name} do not parse: {error}.", hint="Mend the Cedar text."
        ) from error


def _by_id(name: str, text: str) -> dict[str, Written]:
    """The policies of one text by their ``@id``; raises InvalidInput."""
    parsed = _json_of(name, text)
    if parsed.get("templates"):
        raise InvalidInput(
            f"The policies of {name} hold a template.", hint="Write out its policies."
        )
    by_id: dict[str, Written] = {}
    for policy in parsed["staticPolicies"].values():
        policy_id = policy.get("annotations", {}).get("id")
        if not policy_id or policy_id in by_id:
            raise InvalidInput(
                f"A policy of {name} has no `@id` of its own.",
                hint="Name each policy: decisions and audit records quote the name.",
            )
        by_id[policy_id] = Written.of(policy_id, policy)
    return by_id


def _typed(principal: str) -> bool:
    prefix, _, name = principal.partition(":")
    return prefix in _TYPES and bool(name)


def _built_in(name: str) -> str:
    return (files("falaj.trust") / "policies" / name).read_text(encoding="utf-8")


def _schema(actions: Iterable[Grouped]) -> str:
    """The Cedar schema: the entities' file, the groups, and the platform's actions in them."""
    applies = (
        "appliesTo { principal: [User, Service, System], resource: [Asset], context: Context };"
    )
    lines = [_built_in("entities.cedarschema")]
    lines += [f"action {json.dumps(group)} {applies}" for group in GROUPS]
    for item in actions:
        within = ", ".join(json.dumps(group) for group in item.groups)
        lines.append(f"action {json.dumps(item.name)} in [{within}] {applies}")
    return "\n".join(lines)
