"""Deploy keys: each step's rights are exactly those that its commands need."""

from itertools import combinations

import pytest

from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Resource
from falaj.models.cikeys import ROLES, CiStep, rights_of
from falaj.trust.accounts import check_roles
from falaj.trust.policy import CedarPolicy
from falaj.wiring.services import service_classes

ACTIONS = [one for service in service_classes().values() for one in service.actions()]
NEEDED = {
    CiStep.PLAN: {"definitions.plan"},
    CiStep.APPLY: {"definitions.plan", "definitions.apply"},
    CiStep.GATE: {"models.gates", "models.gate_report", "models.versions", "jobs.get"},
    CiStep.PROPOSE: {"ci.propose"},
    CiStep.DEPLOY: {"endpoints.deploy"},
}
SEEN = {"accounts.me", "assets.get"}
"""What every job may ask besides: who it is, and what is known of what it names."""


@pytest.fixture(scope="module")
def policy():
    return CedarPolicy(ACTIONS)


def permitted(policy, steps, kind=PrincipalKind.SERVICE, *, stepped_up=True):
    roles = tuple(ROLES[step].value for step in steps)
    caller = Caller(Principal(f"{kind.value}:ci", kind, roles))
    thing = Resource(AssetRef("thing", "x"), {})
    return {
        action.name
        for action in ACTIONS
        if policy.decide(caller, action.name, thing, stepped_up=stepped_up).allowed
    }


@pytest.mark.parametrize(
    "steps", [steps for n in (1, 2, 5) for steps in combinations(CiStep, n)], ids=str
)
def test_a_key_may_do_what_its_steps_need_and_nothing_else(policy, steps):
    wanted = SEEN | set[str]().union(*(NEEDED[step] for step in steps))
    assert permitted(policy, steps) == wanted == set(rights_of(steps))


def test_no_key_may_do_what_needs_a_second_factor(policy):
    sensitive = {action.name for action in ACTIONS if action.step_up}
    assert not permitted(policy, tuple(CiStep)) & sensitive


def test_the_roles_of_jobs_are_for_programs(policy):
    assert permitted(policy, tuple(CiStep), PrincipalKind.USER) == {"accounts.me"}
    for role in ROLES.values():
        check_roles((role,), PrincipalKind.SERVICE)
        with pytest.raises(InvalidInput):
            check_roles((role,), PrincipalKind.USER)
