"""What roles may do, what nobody may, and that remembering answers changes none of them."""

from __future__ import annotations

import json
import random
import threading
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files

import cedarpy
import pytest

from falaj.kernel.actions import Action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Decision, Resource
from falaj.testing.counting import n_calls
from falaj.testing.policies import CedarsOwn, Dice, added_policies
from falaj.trust.duties import unassigned
from falaj.trust.model import Role
from falaj.trust.policy import BUILT_IN, CedarPolicy
from falaj.trust.service import AccountsService
from falaj.wiring.services import service_classes


def act(name: str, method: str = "POST", on: str = "model", step_up: bool = False) -> Action:
    service, verb = name.split(".")
    return Action(service, verb, method, "/x", on, step_up, method != "GET", len)


ACTIONS = [
    *AccountsService.actions(),
    act("assets.search", "GET", "platform"),
    act("assets.get", "GET", "asset"),
    act("assets.describe", on="asset"),
    act("definitions.plan", on="platform"),
    act("definitions.apply", on="platform"),
    act("changes.list", "GET", "platform"),
    act("changes.approve", on="change", step_up=True),
    act("changes.reject", on="change", step_up=True),
    act("alerts.acknowledge", on="alert"),
    act("incidents.open", on="platform"),
    act("tables.list", "GET", "platform"),
    act("tables.rows", "GET", "table"),
    act("tables.query", "POST", "platform"),
    act("tables.erase_subject", "POST", "table", step_up=True),
    act("sources.load", on="source"),
    act("features.read_online", "POST", "feature_service"),
    act("features.push", "POST", "source"),
    act("training.train", on="platform"),
    act("runs.get", "GET", "run"),
    act("runs.log", on="run"),
    act("models.list", "GET", "platform"),
    act("models.register", on="model"),
    act("models.promote", on="model_version", step_up=True),
    act("endpoints.deploy", on="endpoint"),
    act("endpoints.activate", on="endpoint"),
    act("endpoints.rollback", on="endpoint"),
    act("endpoints.predict", on="endpoint"),
    act("jobs.cancel", on="job"),
    act("jobs.list", "GET", "platform"),
    act("keys.list", "GET", "platform"),
    act("keys.rotate", on="platform", step_up=True),
    act("provisioning.list_users", "GET", "platform"),
    act("provisioning.put_user", on="provisioned_user"),
    act("provisioning.hand_over", on="account", step_up=True),
    act("audit.search", "GET", "platform"),
    act("audit.verify", "POST", "platform"),
    act("oddities.frob", on="platform"),
]
NAMES = [action.name for action in ACTIONS]


@pytest.fixture(scope="module")
def policy() -> CedarPolicy:
    return CedarPolicy(ACTIONS)


def caller(*roles: str, principal: str = "user:amina", purpose: str | None = None) -> Caller:
    kind = PrincipalKind(principal.partition(":")[0])
    return Caller(Principal(principal, kind, roles), purpose=purpose)


def asset(kind: str = "model", key: str = "x", **attributes: str) -> Resource:
    return Resource(AssetRef(kind, key), attributes)


def may(policy, who: Caller, action: str, what: Resource | None = None, stepped_up=True) -> bool:
    return policy.decide(who, action, what or asset(), stepped_up=stepped_up).allowed


def permitted(policy, role: str) -> set[str]:
    """What a role may do with all factors, on an unclassified asset of nobody."""
    who = caller(role, principal="service:ci" if role == "service" else "user:amina")
    return {name for name in NAMES if may(policy, who, name)}


READS = {
    "assets.search",
    "assets.get",
    "changes.list",
    "tables.list",
    "runs.get",
    "models.list",
    "jobs.list",
}
SERVES = {"features.read_online", "features.push", "endpoints.predict"}
EXPERIMENTS = {"definitions.plan", "training.train", "runs.log", "models.register"}


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("viewer", {*READS, "tables.rows", "features.read_online"}),
        ("data_scientist", {*READS, *SERVES, *EXPERIMENTS, "tables.rows", "tables.query"}),
        (
            "ml_engineer",
            {
                *READS,
                *SERVES,
                *EXPERIMENTS,
                "tables.rows",
                "tables.query",
                "assets.describe",
                "definitions.apply",
                "sources.load",
                "models.promote",
                "endpoints.deploy",
                "endpoints.activate",
                "endpoints.rollback",
                "alerts.acknowledge",
                "incidents.open",
                "jobs.cancel",
            },
        ),
        ("approver", {*READS, "changes.approve", "changes.reject"}),
        (
            "steward",
            {
                *READS,
                "tables.rows",
                "tables.query",
                "features.read_online",
                "assets.describe",
                "definitions.plan",
                "definitions.apply",
                "tables.erase_subject",
            },
        ),
        (
            "operator",
            {
                *READS,
                "alerts.acknowledge",
                "incidents.open",
                "endpoints.activate",
                "endpoints.rollback",
                "jobs.cancel",
                "keys.list",
                "keys.rotate",
            },
        ),
        (
            "auditor",
            {
                *READS,
                "audit.search",
                "audit.verify",
                "keys.list",
                "accounts.list",
                "accounts.get",
                "accounts.sessions",
                "accounts.factors",
                "provisioning.list_users",
            },
        ),
        (
            "administrator",
            {
                *READS,
                "keys.list",
                *(a.name for a in AccountsService.actions()),
                "provisioning.list_users",
                "provisioning.put_user",
                "provisioning.hand_over",
            },
        ),
        ("service", SERVES),
        ("provisioner", {"provisioning.list_users", "provisioning.put_user"}),
        ("nonsense", set()),
    ],
)
def test_each_role_may_do_its_duties_and_nothing_else(policy, role, expected):
    assert permitted(policy, role) == {*expected, "accounts.me"}


def test_every_role_is_known_to_the_policy(policy):
    # Those of CI jobs are for programs: tests/models/test_cikeys.py holds them against all actions.
    roles = {role.value for role in Role if not role.value.startswith("ci_")}
    assert {role for role in roles if permitted(policy, role) > {"accounts.me"}} == roles


def test_an_action_that_no_duty_names_is_nobodys(policy):
    everybody = caller(*(role.value for role in Role))
    assert not may(policy, everybody, "oddities.frob")
    assert unassigned(ACTIONS) == ["oddities.frob"]


def test_an_unknown_action_or_kind_of_principal_is_refused(policy):
    administrator = caller("administrator")
    assert policy.decide(administrator, "accounts.burn", asset(), stepped_up=True) == Decision(
        False, ("unknown-action",)
    )
    for group in ("read", "administer", "change"):
        assert not may(policy, administrator, group)
    for odd in ("robot:x", "user:", "amina", ""):
        who = Caller(Principal(odd, PrincipalKind.USER, ("administrator",)))
        assert not may(policy, who, "accounts.list")


def test_the_kind_of_a_principal_comes_from_its_id_alone(policy):
    impostor = Caller(Principal("user:mallory", PrincipalKind.SYSTEM, ()))
    assert not may(policy, impostor, "models.promote")


def test_nobody_grants_roles_to_oneself(policy):
    who = caller("administrator")
    assert may(policy, who, "accounts.set_roles", asset("account", "omar"))
    refused = policy.decide(who, "accounts.set_roles", asset("account", "amina"), stepped_up=True)
    assert refused == Decision(False, ("nobody-grants-to-oneself",))


def test_a_data_scientist_does_not_grant_at_all(policy):
    for key in ("amina", "omar"):
        who = caller("data_scientist", "ml_engineer")
        assert not may(policy, who, "accounts.set_roles", asset("account", key))


@pytest.mark.parametrize("attribute", ["owner", "requested_by"])
def test_nobody_approves_the_own_change(policy, attribute):
    who = caller("approver", "ml_engineer")
    assert may(policy, who, "changes.approve", asset("change", "c1", **{attribute: "user:omar"}))
    own = asset("change", "c1", **{attribute: "user:amina"})
    assert not may(policy, who, "changes.approve", own)
    assert not may(policy, who, "changes.reject", own)


def test_a_program_neither_approves_nor_administers_whatever_its_roles(policy):
    who = caller(*(role.value for role in Role), principal="service:ci")
    for name in ("changes.approve", "accounts.set_roles", "accounts.invite"):
        assert not may(policy, who, name)


def test_sensitive_actions_need_a_fresh_factor_and_others_do_not(policy):
    who = caller("ml_engineer")
    assert not may(policy, who, "models.promote", stepped_up=False)
    assert may(policy, who, "models.promote", stepped_up=True)
    assert may(policy, who, "endpoints.deploy", stepped_up=False)


@pytest.mark.parametrize("classification", ["personal", "sensitive"])
def test_personal_rows_need_a_purpose_and_a_fresh_factor(policy, classification):
    rows = asset("table", "passengers", classification=classification)
    for purpose, stepped_up, allowed in (
        (None, False, False),
        (None, True, False),
        ("", True, False),
        ("fraud", False, False),
        ("fraud", True, True),
    ):
        who = caller("data_scientist", purpose=purpose)
        assert may(policy, who, "tables.rows", rows, stepped_up) is allowed
    service = caller("service", principal="service:app", purpose="fraud")
    assert may(policy, service, "features.read_online", rows, stepped_up=False)
    nameless = caller("service", principal="service:app")
    assert not may(policy, nameless, "features.read_online", rows, stepped_up=False)


def test_a_viewer_does_not_see_that_a_personal_asset_is_there(policy):
    hidden = asset("table", "passengers", classification="personal")
    assert not may(policy, caller("viewer", purpose="curiosity"), "assets.get", hidden)
    assert may(policy, caller("auditor"), "assets.get", hidden)


def test_everyone_ends_their_own_sessions_and_not_those_of_others(policy):
    who = caller("viewer")
    for name in ("accounts.sessions", "accounts.revoke_sessions", "accounts.factors"):
        assert may(policy, who, name, asset("account", "amina"), stepped_up=False)
        assert not may(policy, who, name, asset("account", "omar"))


def test_the_owner_of_a_job_may_cancel_it(policy):
    assert may(policy, caller("data_scientist"), "jobs.cancel", asset("job", owner="user:amina"))
    assert not may(policy, caller("data_scientist"), "jobs.cancel", asset("job", owner="user:o"))


def test_the_worker_does_jobs_but_neither_accounts_keys_approvals_nor_audit(policy):
    worker = caller(principal="system:worker")
    refused = {name for name in NAMES if not may(policy, worker, name, stepped_up=False)}
    assert refused == {
        *(action.name for action in AccountsService.actions() if action.verb != "me"),
        "changes.approve",
        "changes.reject",
        "keys.rotate",
        "audit.search",
        "audit.verify",
        "provisioning.list_users",
        "provisioning.put_user",
        "provisioning.hand_over",
    }


def test_people_provision_with_a_fresh_factor_and_programs_without(policy):
    administrator = caller("administrator")
    assert may(policy, administrator, "provisioning.put_user")
    assert not may(policy, administrator, "provisioning.put_user", stepped_up=False)
    program = caller("provisioner", principal="service:entra")
    assert may(policy, program, "provisioning.put_user", stepped_up=False)
    assert not may(policy, program, "provisioning.hand_over", asset("account", "amina"))


def test_why_names_the_policy_and_what_would_help(policy):
    rows = asset("table", "passengers", classification="personal")
    told = policy.why(caller("data_scientist"), "tables.rows", rows)
    assert not told.allowed
    assert told.would_help == ("step-up", "purpose")
    assert set(told.reasons) == {
        "personal-data-needs-a-purpose",
        "personal-data-needs-a-fresh-factor",
    }
    assert all(text.startswith("@id(") for text in told.policies)
    told = policy.why(caller("ml_engineer"), "models.promote", asset())
    assert told.would_help == ("step-up",)
    told = policy.why(caller("viewer"), "models.promote", asset())
    assert (told.would_help, told.reasons[0]) == ((), "sensitive-actions-need-a-fresh-factor")
    told = policy.why(caller("viewer"), "models.list", asset())
    assert told.allowed and told.reasons == ("viewer-reads",)
    assert policy.groups_of("models.promote") == ("engineer", "change", "sensitive")
    assert policy.groups_of("nothing.known") == ()


def test_an_added_policy_is_in_force_at_once_also_for_remembered_questions(policy):
    fresh = CedarPolicy(ACTIONS)
    who = caller("ml_engineer")
    assert may(fresh, who, "endpoints.deploy")
    fresh.replace(
        {
            "freeze": '@id("freeze") forbid (principal, action == Action::"endpoints.deploy", '
            "resource);"
        }
    )
    decision = fresh.decide(who, "endpoints.deploy", asset(), stepped_up=True)
    assert decision == Decision(False, ("freeze",))
    fresh.replace({})
    assert may(fresh, who, "endpoints.deploy")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("permit (principal, action", "do not parse"),
        ('@id("a") permit (principal, action == Action::"models.burn", resource);', "schema"),
        (
            '@id("a") permit (principal, action, resource) when { resource.owner == "x" };',
            "schema",
        ),
        (
            '@id("a") permit (principal, action, resource) when { resource.colour == "x" };',
            "schema",
        ),
        ("permit (principal, action, resource);", "no `@id`"),
        ('@id("viewer-reads") permit (principal, action, resource);', "stands twice"),
        ('@id("a") permit (principal == ?principal, action, resource);', "template"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_and_the_old_ones_stay(text, why):
    fresh = CedarPolicy(ACTIONS)
    before = fresh.text
    with pytest.raises(InvalidInput, match=why):
        fresh.replace({"mine": text})
    assert fresh.text == before


def test_a_policy_that_fails_while_it_is_asked_refuses():
    overflow = (
        '@id("bad") forbid (principal, action, resource) when '
        "{ resource has owner && 9223372036854775807 + 1 == 0 };"
    )
    fresh = CedarPolicy(ACTIONS, added={"bad": overflow})
    who = caller("viewer")
    assert may(fresh, who, "models.list")
    decision = fresh.decide(who, "models.list", asset(owner="user:o"), stepped_up=True)
    assert decision == Decision(False, ("policy-error",))


def random_question(dice: random.Random) -> tuple[Caller, str, Resource, bool]:
    roles = tuple(dice.sample([role.value for role in Role], dice.choice([0, 1, 1, 2, 3])))
    principal = dice.choice(["user:amina", "user:omar", "service:ci", "system:worker"])
    attributes = {}
    for name, values in (
        ("owner", ["user:amina", "user:omar"]),
        ("requested_by", ["user:amina", "service:ci"]),
        ("classification", ["public", "internal", "personal", "sensitive"]),
        ("stage", ["production"]),
        ("unheard_of", ["x"]),
    ):
        if dice.random() < 0.5:
            attributes[name] = dice.choice(values)
    what = asset(
        dice.choice(["model", "account", "change", "job"]),
        dice.choice(["amina", "omar", 'a"b\\c\n']),
        **attributes,
    )
    purpose = dice.choice([None, "", "fraud"])
    return (
        caller(*roles, principal=principal, purpose=purpose),
        dice.choice(NAMES),
        what,
        dice.random() < 0.5,
    )


def cedars_own(policy: CedarPolicy, asked) -> tuple[bool, tuple[str, ...]]:
    """Cedar asked anew, with the schema and the whole hierarchy of actions."""
    who, action, what, stepped_up = asked
    kind, _, name = who.principal.id.partition(":")
    principal = {"type": kind.title(), "id": who.principal.id}
    resource = {"type": "Asset", "id": str(what.ref)}
    known = {key: value for key, value in what.attributes.items() if key != "unheard_of"}
    entities = [
        {
            "uid": principal,
            "attrs": {"id": who.principal.id, "name": name},
            "parents": [{"type": "Role", "id": role} for role in who.principal.roles],
        },
        {
            "uid": resource,
            "attrs": {"kind": what.ref.kind, "key": what.ref.key, **known},
            "parents": [],
        },
    ]
    context = {"stepped_up": stepped_up, "via": who.via, "environment": ""}
    if who.purpose is not None:
        context["purpose"] = who.purpose
    answer = cedarpy.is_authorized(
        {
            "principal": principal,
            "action": {"type": "Action", "id": action},
            "resource": resource,
            "context": context,
        },
        policy.text,
        cedarpy.Entities.from_json_str(json.dumps(entities), read_schema(policy)),
        read_schema(policy),
    )
    assert not answer.diagnostics.errors
    names = answer.diagnostics.id_annotations_by_reason
    return answer.allowed, tuple(sorted(names.values()))


@cache
def read_schema(policy: CedarPolicy) -> cedarpy.Schema:
    return cedarpy.Schema.from_str(policy.schema)


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_built_in_policies_fit_the_schema_of_the_platforms_actions(name):
    actions = [action for service in service_classes().values() for action in service.actions()]
    schema = read_schema(CedarPolicy(actions))
    text = (files("falaj.trust") / "policies" / name).read_text(encoding="utf-8")
    result = cedarpy.validate_policies(text, schema)
    assert result.validation_passed, result.errors
    broken = text.replace("resource.kind", "resource.kindness") + (
        '\n@id("odd")\npermit(principal, action, resource) when { resource.odd == 1 };'
    )
    assert not cedarpy.validate_policies(broken, schema).validation_passed


def test_remembered_answers_are_cedars_own(policy):
    dice = random.Random(7)
    questions = [random_question(dice) for _ in range(1_200)]
    for asked in questions:
        who, action, what, stepped_up = asked
        first = policy.decide(who, action, what, stepped_up=stepped_up)
        again = policy.decide(who, action, what, stepped_up=stepped_up)
        assert first == again
        allowed, reasons = cedars_own(policy, asked)
        assert first.allowed is allowed
        assert first.reasons == (reasons or ("no-policy-permits",))


def test_many_threads_get_the_same_answers(policy):
    fresh = CedarPolicy(ACTIONS)
    dice = random.Random(3)
    questions = [random_question(dice) for _ in range(200)]
    expected = [
        policy.decide(who, action, what, stepped_up=factor)
        for who, action, what, factor in questions
    ]
    answers: list[list[Decision]] = []

    def ask() -> None:
        answers.append(
            [fresh.decide(who, action, what, stepped_up=f) for who, action, what, f in questions]
        )

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [expected] * 4


def test_the_memory_of_answers_is_bounded(monkeypatch):
    monkeypatch.setattr("falaj.trust.policy._MOST_KEPT", 5)
    fresh = CedarPolicy(ACTIONS)
    for number in range(20):
        may(fresh, caller("viewer"), "models.list", asset(key=str(number)))
    assert len(fresh._prepared.kept) <= 5


def test_a_remembered_answer_takes_far_less_work_than_a_new_one():
    fresh = CedarPolicy(ACTIONS)
    who, what = caller("viewer"), asset(owner="user:o")

    def decide(resources: list[Resource]) -> None:
        for resource in resources:
            fresh.decide(who, "models.list", resource, stepped_up=False)

    new = n_calls(partial(decide, [asset(key=str(number)) for number in range(300)]))
    decide([what])
    assert n_calls(partial(decide, [what] * 300)) * 10 < new


def differing(n_questions: int, seed: int) -> int:
    """How many of so many random questions, on 100 policies and 1,000 entities, are answered
    unlike Cedar's own answer."""
    clock = SetClock(datetime(2026, 11, 30, 12, tzinfo=UTC))
    added = added_policies(100 - len(CedarPolicy(ACTIONS)._prepared.by_id))
    full = CedarPolicy(ACTIONS, added=added, environment="production", clock=clock)
    assert len(full._prepared.by_id) == 100
    own = CedarsOwn(full, clock, environment="production")
    dice = Dice(seed, NAMES, clock)
    n = 0
    for _ in range(n_questions):
        asked = dice.question()
        who, action, what, stepped_up = asked
        ours = full.decide(who, action, what, stepped_up=stepped_up)
        allowed, reasons = own.answer(asked)
        n += ours.allowed is not allowed or ours.reasons != (reasons or ("no-policy-permits",))
    return n


def test_decisions_with_an_operators_policies_are_cedars_own():
    assert differing(1_000, seed=11) == 0


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # a minute of one core
def test_none_of_a_hundred_thousand_decisions_differs_from_cedars_own():
    assert differing(100_000, seed=13) == 0


@pytest.mark.parametrize(
    ("text", "apart"),
    [
        ("", False),
        ('@id("x") forbid (principal, action, resource) when { resource.kind == "run" };', False),
        (
            '@id("x") forbid (principal, action, resource)'
            ' when { resource has workspace && resource.workspace == "risk" };',
            False,
        ),
        ('@id("x") forbid (principal, action, resource) when { resource.key == "a" };', True),
        ('@id("x") forbid (principal, action, resource) when { resource["key"] == "a" };', True),
        ('@id("x") forbid (principal, action, resource == Asset::"run:a");', True),
        (
            '@id("x") forbid (principal, action, resource)'
            ' when { [Asset::"run:a"].contains(resource) };',
            True,
        ),
        ('@id("x") forbid (principal is System, action, resource == Asset::"run:a");', False),
        ('@id("x") forbid (principal, action == Action::"runs.log", resource == Asset::"r:a");',
         False),
    ],
)  # fmt: skip
def test_a_policy_that_names_an_asset_tells_assets_apart(policy, text, apart):
    added = policy.with_added({"x": text} if text else {})
    assert added.tells_apart(caller(Role.DATA_SCIENTIST), "assets.get") is apart


def test_a_policy_may_speak_of_a_workspace(policy):
    text = (
        '@id("x") forbid (principal, action in Action::"experiment", resource)'
        ' when { resource has workspace && resource.workspace == "risk" };'
    )
    added = policy.with_added({"x": text})
    for workspace, allowed in (("risk", False), ("default", True)):
        run = Resource(AssetRef("run", "a"), {"workspace": workspace})
        assert may(added, caller(Role.DATA_SCIENTIST), "runs.log", run) is allowed
