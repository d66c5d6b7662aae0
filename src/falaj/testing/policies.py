"""Questions to policies drawn at random, and Cedar's own answer to each, without our memory."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import cedarpy

from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import Clock
from falaj.kernel.ports import Resource
from falaj.trust.model import Role
from falaj.trust.policy import CedarPolicy

Asked: TypeAlias = tuple[Caller, str, Resource, bool]
_KINDS = ("model", "endpoint", "table", "feature_view", "account", "change", "job")
_AGES = (None, 0.0, 30.0, 200.0, 1_000.0, 10_000.0, 200_000.0)
_STEPS = (60, 300, 900, 3600, 28_800, 86_400)


def added_policies(n: int) -> dict[str, str]:
    """An operator's own policies: half permit, half forbid, over every attribute there is."""
    wheres = (
        'resource has region && resource.region == "eu-{n}"',
        'resource has stage && resource.stage == "production" && !context.stepped_up',
        "context has mfa_seconds && context.mfa_seconds > 300",
        'context.via == "job" && resource.kind == "table"',
        'context.environment == "production" && resource.key like "m{n}*"',
        'resource has owner && resource.owner == "user:u{n}"',
        'context has purpose && context.purpose == "p{n}"',
    )
    groups = ("read", "engineer", "rows", "change", "serve", "administer", "sensitive")
    made = {}
    for number in range(n):
        effect = ("permit", "forbid")[number % 2]
        group, where = groups[number % len(groups)], wheres[number // 2 % len(wheres)]
        made[f"added-{number}"] = (
            f'@id("added-{number}") {effect} (principal, action in Action::"{group}", resource) '
            f"when {{ {where.replace('{n}', str(number % 20))} }};"
        )
    return made


class Dice:
    """Draws questions.

    Args:
        seed: the same one draws the same questions.
        actions: names to draw from.
        clock: second factors are so old at its time.
        n_people, n_assets: how many entities of each there are.
    """

    def __init__(
        self,
        seed: int,
        actions: Sequence[str],
        clock: Clock,
        *,
        n_people: int = 500,
        n_assets: int = 500,
    ) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret is drawn
        self._actions = actions
        self._clock = clock
        self._people = [self._person(number) for number in range(n_people)]
        self._assets = [self._asset(number) for number in range(n_assets)]

    def question(self) -> Asked:
        """One question."""
        dice = self._random
        age = dice.choice(_AGES)
        caller = Caller(
            dice.choice(self._people),
            mfa_at=None if age is None else self._clock.now() - timedelta(seconds=age),
            purpose=dice.choice([None, None, "", "p1", "p2", "fraud"]),
            via=dice.choice(["http", "local", "job"]),
        )
        return (
            caller,
            dice.choice(self._actions),
            dice.choice(self._assets),
            caller.stepped_up(self._clock.now()),
        )

    def _person(self, number: int) -> Principal:
        kind = PrincipalKind(self._random.choice(["user", "user", "user", "service", "system"]))
        n_roles = self._random.choice([0, 1, 1, 2, 3])
        roles = tuple(self._random.sample([role.value for role in Role], n_roles))
        return Principal(f"{kind.value}:u{number}", kind, roles)

    def _asset(self, number: int) -> Resource:
        dice = self._random
        drawn: dict[str, Sequence[str]] = {
            "owner": [f"user:u{n}" for n in range(20)],
            "requested_by": [f"user:u{n}" for n in range(20)],
            "classification": ["public", "internal", "personal", "sensitive"],
            "region": [f"eu-{n}" for n in range(4)],
            "stage": ["none", "staging", "production"],
            "unheard_of": ["x"],
        }
        attributes = {
            name: dice.choice(values) for name, values in drawn.items() if dice.random() < 0.5
        }
        key = dice.choice([f"m{number}", f"u{number}", f'o"d\\d\n{number}'])
        return Resource(AssetRef(dice.choice(_KINDS), key), attributes)


class CedarsOwn:
    """Asks Cedar itself: all policies at once, the whole schema, nothing remembered.

    Args:
        policy: whose policies and schema.
        clock: as the policy's.
        environment: as the policy's.
    """

    def __init__(self, policy: CedarPolicy, clock: Clock, *, environment: str = "") -> None:
        self._policies = cedarpy.PolicySet.from_str(policy.text)
        self._schema = cedarpy.Schema.from_str(policy.schema)
        self._clock = clock
        self._environment = environment

    def answer(self, asked: Asked) -> tuple[bool, tuple[str, ...]]:
        """Whether it is permitted, and the ids of the policies that decided.

        Raises:
            ValueError: Cedar could not evaluate a policy.
        """
        caller, action, resource, stepped_up = asked
        kind, _, name = caller.principal.id.partition(":")
        principal = {"type": kind.title(), "id": caller.principal.id}
        about = {"type": "Asset", "id": str(resource.ref)}
        known = {key: value for key, value in resource.attributes.items() if key != "unheard_of"}
        entities = [
            {
                "uid": principal,
                "attrs": {"id": caller.principal.id, "name": name},
                "parents": [{"type": "Role", "id": role} for role in caller.principal.roles],
            },
            {
                "uid": about,
                "attrs": {"kind": resource.ref.kind, "key": resource.ref.key, **known},
                "parents": [],
            },
        ]
        answer = cedarpy.is_authorized(
            {
                "principal": principal,
                "action": {"type": "Action", "id": action},
                "resource": about,
                "context": self._context(caller, stepped_up),
            },
            self._policies,
            cedarpy.Entities.from_json_str(json.dumps(entities), self._schema),
            self._schema,
        )
        if answer.diagnostics.errors:
            raise ValueError(f"Cedar could not answer: {answer.diagnostics.errors}")
        names = answer.diagnostics.id_annotations_by_reason
        return answer.allowed, tuple(sorted(names.values()))

    def _context(self, caller: Caller, stepped_up: bool) -> Mapping[str, Any]:
        context: dict[str, Any] = {
            "stepped_up": stepped_up,
            "via": caller.via,
            "environment": self._environment,
        }
        if caller.purpose is not None:
            context["purpose"] = caller.purpose
        if caller.mfa_at is not None:
            age = (self._clock.now() - caller.mfa_at).total_seconds()
            step = next((step for step in _STEPS if age <= step), None)
            if step is not None:
                context["mfa_seconds"] = step
        return context
