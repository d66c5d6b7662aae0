"""The part of all policies that can say something to a question, ready for Cedar.

Cedar looks at each policy that it is given, and most of that time goes into scopes: who, which
action. A slice holds, for one action and one type of principal, the policies whose scopes these
fit, without the parts of their scopes that are met already. What is left out would say nothing, so
answer and reasons are those of all policies (tests/trust/test_policy.py asks for both).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import cedarpy

from falaj.trust.duties import Grouped

_ANY = {"op": "All"}
_OF_CONTEXT = ("mfa_seconds", "via")
"""Attributes of the context that are left out of most questions."""


@dataclass(frozen=True)
class Written:
    """One policy."""

    id: str
    text: str
    document: Mapping[str, Any]
    """The policy in Cedar's own JSON form, where no escape hides a name."""
    asks: frozenset[str]
    """Of the context's attributes that are left out of most questions: those it speaks of."""

    @classmethod
    def of(cls, policy_id: str, document: Mapping[str, Any]) -> Self:
        """A policy from its JSON form."""
        written = json.dumps(document)
        asks = frozenset(name for name in _OF_CONTEXT if f'"{name}"' in written)
        return cls(policy_id, _text(policy_id, document), document, asks)

    def fits(self, item: Grouped, principal_type: str) -> bool:
        """True unless its scope rules the action or the type of principal out."""
        principal = self.document["principal"]
        if principal["op"] == "is" and principal["entity_type"] != principal_type:
            return False
        action = self.document["action"]
        if action["op"] == "All":
            return True
        named = {entity["id"] for entity in action.get("entities") or [action["entity"]]}
        return bool(named & ({item.name, *item.groups} if action["op"] == "in" else {item.name}))

    @cached_property
    def shortened(self) -> str:
        """Its text without what of its scope is met by whatever it fits."""
        document = {**self.document, "action": _ANY}
        principal = self.document["principal"]
        if principal["op"] == "is" and "in" not in principal:
            document["principal"] = _ANY
        return _text(self.id, document)

    @cached_property
    def speaks_of_one_asset(self) -> bool:
        """Whether its scope or its conditions can tell assets apart by their names."""
        written, scope = json.dumps(self.document["conditions"]), self.document["resource"]
        named = scope["op"] != "All" and (scope["op"] != "is" or "in" in scope)
        return named or '"key"' in written or '"Asset"' in written

    @cached_property
    def speaks_of_actions(self) -> bool:
        """Whether its conditions need to know in which groups an action is."""
        written = json.dumps(self.document["conditions"])
        return '"action"' in written or '"Action"' in written


@dataclass(frozen=True, slots=True)
class Slice:
    """Policies for one action and one type of principal, and the entities that they need."""

    policies: cedarpy.PolicySet
    entities: cedarpy.Entities


def sliced(policies: Iterable[Written], item: Grouped, principal_type: str) -> Slice:
    """The part of policies that can say something to an action and a type of principal."""
    fitting = [policy for policy in policies if policy.fits(item, principal_type)]
    text = "\n".join(policy.shortened for policy in fitting)
    grouped = any(policy.speaks_of_actions for policy in fitting)
    return Slice(cedarpy.PolicySet.from_str(text), _entities(item if grouped else None))


def _text(policy_id: str, document: Mapping[str, Any]) -> str:
    alone = {"staticPolicies": {policy_id: document}, "templates": {}, "templateLinks": []}
    return str(cedarpy.policies_from_json_str(json.dumps(alone)))


def _entities(item: Grouped | None) -> cedarpy.Entities:
    """One action with the groups above it: all of the hierarchy that its decisions need."""
    if item is None:
        return cedarpy.Entities.from_json_str("[]")
    groups = [{"type": "Action", "id": group} for group in item.groups]
    entities = [{"uid": group, "attrs": {}, "parents": []} for group in groups]
    own = {"uid": {"type": "Action", "id": item.name}, "attrs": {}, "parents": groups}
    return cedarpy.Entities.from_json_str(json.dumps([*entities, own]))
