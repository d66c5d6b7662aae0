"""One door: every action, through every interface, under the same rule and the same record."""

import re
from collections import Counter

import pytest
from sqlalchemy import func, select

from falaj.interfaces.cli import SERVICES
from falaj.interfaces.client import RemoteDoor
from falaj.kernel.errors import FalajError, Forbidden, NotFound, StepUpRequired, Unavailable
from falaj.testing.subjects import SUBJECTS, subject_of
from falaj.testing.world import WAYS, World, door_of
from falaj.trust.audit_tables import audit_records
from falaj.trust.duties import unassigned
from falaj.trust.refusals import FRONT as FRONT_REFUSALS
from falaj.wiring.services import service_classes

ACTIONS = {
    action.name: action for service in service_classes().values() for action in service.actions()
}
SENSITIVE = [name for name, action in ACTIONS.items() if action.step_up]
MUTATING = [name for name, action in ACTIONS.items() if action.mutates]
FOR_EVERYONE = {"accounts.me"}
NOTHING_THERE = "no-such-thing"
OTHER_ROUTES = {
    "/", "/enrol", "/enrol/factor", "/static", "/healthz", "/metrics", "/api/openapi.json",
    "/auth/enrol", "/auth/confirm", "/auth/login", "/auth/service-login", "/auth/refresh",
    "/auth/step-up", "/auth/logout", "/auth/certificate-login",
    *(f"/auth/passkeys/{one}{more}" for one in ("sign-in", "step-up", "registration", "enrolment")
      for more in ("", "-options")),
    "/auth/device", "/auth/device/step-up", "/auth/device/token",
    "/login", "/login/passkey", "/login/passkey/options", "/enrol/passkey",
    "/enrol/passkey/options", "/step-up", "/step-up/passkey", "/step-up/passkey/options",
    "/endpoints", "/endpoints/{name}", "/monitors", "/monitors/{name}",
    "/monitors/{name}/performance", "/sources", "/sources/{name}", "/contracts/{name}",
    "/rollouts", "/rollouts/{name}", "/rollouts/{name}/deeds/{deed}",
    "/alerts", "/alerts/{id}", "/alerts/{id}/deed", "/incidents", "/incidents/{id}",
    "/incidents/{id}/deed", "/problems", "/problems/{id}", "/changes", "/changes/{id}",
    "/silences", "/service-levels",
    "/account", "/account/sign-out", "/account/deeds/{deed}", "/account/passkey",
    "/account/authenticator", "/account/recovery-codes",
    "/account/passkey/options", "/device", "/device/decision",
    *(f"/login/with/{{provider}}{more}"
      for more in ("", "/callback", "/factor", "/passkey", "/passkey/options", "/logout")),
    "/step-up/with/{provider}", "/account/with/{provider}",
    "/auth/exchange",
    "/scim/v2/Users", "/scim/v2/Users/{id}", "/scim/v2/Groups", "/scim/v2/Groups/{id}",
    "/scim/v2/ServiceProviderConfig", "/scim/v2/ResourceTypes", "/scim/v2/ResourceTypes/{id}",
    "/scim/v2/Schemas", "/scim/v2/Schemas/{id}", "/scim/v2/Bulk", "/scim/v2/Me",
    "/mlflow/{rest:path}", "/t/{workspace}/mlflow/{rest:path}",
}  # fmt: skip

FOR_STRANGERS = {
    "/auth/passkeys/sign-in-options",  # a challenge, the same for everybody
    "/auth/device",  # codes that open nothing before somebody approves
    "/login", "/account", "/step-up", "/device", "/account/sign-out",  # lead to the sign-in
    "/rollouts", "/rollouts/{name}",  # so do these
    "/endpoints", "/endpoints/{name}", "/monitors", "/monitors/{name}",
    "/monitors/{name}/performance", "/sources", "/sources/{name}", "/contracts/{name}",
    "/alerts", "/alerts/{id}", "/incidents", "/incidents/{id}", "/problems", "/problems/{id}",
    "/changes", "/changes/{id}", "/silences", "/service-levels",
}  # fmt: skip

every_action = pytest.mark.parametrize("name", list(ACTIONS))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


class Log:
    """The audit records that were added since this was made."""

    def __init__(self, world):
        self._world = world
        with world.premises.database.reading() as connection:
            self._since = connection.execute(select(func.max(audit_records.c.seq))).scalar() or 0

    def _rows(self):
        with self._world.premises.database.reading() as connection:
            columns = audit_records.c.action, audit_records.c.outcome
            return list(
                connection.execute(select(*columns).where(audit_records.c.seq > self._since))
            )

    def actions(self):
        """The names of the actions that were recorded, done or not.

        But for the sums of refused tokens, which are of other tests and come once a minute.
        """
        return {row.action for row in self._rows()} - {"auth.token"}

    def outcomes(self, action):
        """How often the action was recorded with each outcome."""
        found = [row.outcome for row in self._rows() if row.action == action]
        return dict(Counter(found))


_LATER = ("audit", "policy_questions", "sketch")


def contents(world):
    """All rows of the metadata database, by table; not the audit log's, nor the questions to
    policies, which are written down once a minute, nor sketches, which come behind an erasure."""
    with world.premises.database.reading() as connection:
        ask = connection.connection.cursor().execute  # some hundred questions: the driver alone
        tables = ask("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return {
            name: Counter(ask(f'SELECT * FROM "{name}"').fetchall())
            for (name,) in sorted(tables)
            if not name.startswith((*_LATER, "sqlite_"))
        }


def beyond(world):
    """What lies outside of the metadata database: what serves, the lake, the keys."""
    made = world.premises
    return (
        made.serving.routing.active(),
        made.lake.latest(),
        [key.id for key in made.keys.versions()],
    )


@every_action
def test_an_action_gives_the_same_answer_in_python_over_http_and_by_command(world, name):
    action, subject = ACTIONS[name], subject_of(name)
    answers = {way: world.ask(way, action, subject.arguments(world)) for way in WAYS}
    same = {way: subject.same(answer) for way, answer in answers.items()}
    assert same["http"] == same["python"]
    assert same["command"] == same["python"]


@every_action
def test_an_action_is_recorded_once_when_it_is_done(world, name):
    action = ACTIONS[name]
    arguments = subject_of(name).arguments(world)
    log = Log(world)
    door_of(world, world.caller()).call(action, arguments)
    assert log.outcomes(name) == {"done": 1}


@every_action
def test_an_action_is_refused_without_credentials_and_nothing_is_recorded_as_done(world, name):
    action = ACTIONS[name]
    log = Log(world)
    path = "/api" + re.sub(r"{\w+(:path)?}", "1", action.path)
    for headers in ({}, {"Authorization": "Bearer forged"}):
        answer = world.http.request(action.method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert log.outcomes(name) == {}


@pytest.mark.parametrize("name", [name for name in ACTIONS if name not in FOR_EVERYONE])
def test_an_action_is_refused_to_somebody_without_a_role_and_recorded_once_as_refused(world, name):
    action = ACTIONS[name]
    arguments = subject_of(name).arguments(world)
    nobody = world.caller(nobody=True)
    token = world.token(nobody)
    before = contents(world), beyond(world)
    for door in (door_of(world, nobody), RemoteDoor(world.http, lambda: token)):
        log = Log(world)
        with pytest.raises((Forbidden, NotFound)):
            door.call(action, arguments)
        assert log.outcomes(name) == {"refused": 1}
    assert (contents(world), beyond(world)) == before


@pytest.mark.parametrize("name", SENSITIVE)
def test_a_sensitive_action_needs_a_fresh_second_factor_through_every_door(world, name):
    action = ACTIONS[name]
    arguments = subject_of(name).arguments(world)
    log, before = Log(world), contents(world)
    for way in WAYS:
        with pytest.raises(StepUpRequired):
            world.ask(way, action, arguments, stepped_up=False)
    assert log.outcomes(name) == {"refused": len(WAYS)}
    assert contents(world) == before


class BrokenLog:
    """An audit log whose disk is full."""

    def append_many(self, connection, entries):
        raise Unavailable("The audit log cannot be written.", hint="Free some space.")


@every_action
def test_an_action_is_not_done_when_its_record_cannot_be_written(world, name, monkeypatch):
    action, subject = ACTIONS[name], subject_of(name)
    arguments = subject.arguments(world)
    log, before, around = Log(world), contents(world), beyond(world)
    with monkeypatch.context() as broken:
        broken.setattr(world.premises.backend, "audit", BrokenLog())
        with pytest.raises(Unavailable, match="audit log"):
            door_of(world, world.caller()).call(action, arguments)
    assert contents(world) == before
    assert log.outcomes(name) == {}
    if not subject.outside:
        assert beyond(world) == around


@pytest.mark.parametrize("name", MUTATING)
def test_a_repeat_with_the_same_idempotency_key_gets_the_first_answer_and_does_nothing(world, name):
    action = ACTIONS[name]
    arguments = subject_of(name).arguments(world)
    door, key = door_of(world, world.caller()), world.new("once")
    log = Log(world)
    first = door.call(action, arguments, idempotency_key=key)
    before = contents(world), beyond(world)
    again = door.call(action, arguments, idempotency_key=key)
    assert action.result.dump_json(again) == action.result.dump_json(first)
    assert (contents(world), beyond(world)) == before
    assert log.outcomes(name) == {"done": 2}


def fails(world, way, action, arguments):
    with pytest.raises(FalajError) as caught:
        world.ask(way, action, arguments)
    return type(caught.value), caught.value.code


def naming_nothing(action, arguments):
    """The arguments with a name in the path that nothing has."""
    kinds = {name: action.signature.parameters[name].annotation for name in action.path_arguments}
    return {**arguments, **{name: 10**9 if "int" in str(kind) else NOTHING_THERE
                            for name, kind in kinds.items()}}  # fmt: skip


TAKING_A_NAME = [name for name, action in ACTIONS.items() if action.path_arguments]
MAKING_IT = {
    "accounts.invite", "accounts.create_service", "models.register", "models.create",
    "ci.deploy_key",
}  # fmt: skip
"""Actions whose path names what they make."""


@pytest.mark.parametrize("name", [name for name in TAKING_A_NAME if name not in MAKING_IT])
def test_a_name_of_nothing_gives_the_same_error_through_every_door(world, name):
    action = ACTIONS[name]
    arguments = naming_nothing(action, subject_of(name).arguments(world))
    found = {way: fails(world, way, action, arguments) for way in WAYS}
    assert len(set(found.values())) == 1, found


@every_action
def test_an_unknown_argument_gives_the_same_error_near_and_far(world, name):
    action = ACTIONS[name]
    arguments = {**subject_of(name).arguments(world), "surprise": 1}
    with pytest.raises(FalajError) as near:
        door_of(world, world.caller()).call(action, arguments)
    token = world.token(world.caller())
    with pytest.raises(FalajError) as far:
        RemoteDoor(world.http, lambda: token).call(action, arguments)
    assert type(far.value) is type(near.value)
    assert near.value.code == "invalid-input"


def test_every_action_has_a_subject_or_needs_no_argument():
    for name, action in ACTIONS.items():
        needed = [
            one.name for one in action.signature.parameters.values() if one.default is one.empty
        ]
        assert name in SUBJECTS or not needed, f"{name} needs {needed}"
    assert set(SUBJECTS) <= set(ACTIONS)


def test_every_action_belongs_to_somebodys_duty():
    assert unassigned(ACTIONS.values()) == []


def routes(world):
    """Each (method, path) of the application but HEAD."""
    for route in world.http.app.routes:
        for method in getattr(route, "methods", None) or {"GET"}:
            if method != "HEAD":
                yield method, route.path


def test_every_route_is_an_action_or_one_of_the_few_that_make_or_tell_no_secret(world):
    of_actions = {(action.method, "/api" + action.path) for action in ACTIONS.values()}
    found = set(routes(world))
    assert of_actions <= found
    assert {path for _, path in found - of_actions} == OTHER_ROUTES


def test_the_routes_that_are_no_actions_open_nothing_to_a_stranger(world):
    for method, path in routes(world):
        if path in ("/", "/healthz", "/enrol", "/static") and method == "GET":
            continue
        if path in FOR_STRANGERS:
            continue
        if path in OTHER_ROUTES:
            answer = world.http.request(method, path)
            # No provider is configured here; a provider's logout is told by its own words.
            refusals = {401, 422} | ({400, 404} if "{provider}" in path else set())
            assert answer.status_code in refusals, (method, path)


def test_the_openapi_document_describes_each_action_and_nothing_else(world):
    bearer = {"Authorization": f"Bearer {world.token(world.caller())}"}
    document = world.http.get("/api/openapi.json", headers=bearer).json()
    described = {
        operation["operationId"]: (method.upper(), path, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert set(described) == set(ACTIONS)
    for name, action in ACTIONS.items():
        method, path, operation = described[name]
        assert (method, path) == (action.method, "/api" + action.path.replace(":path}", "}"))
        assert operation["x-permission"] == name
        assert operation["x-step-up"] == action.step_up
        assert operation["summary"] == action.summary
        body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        told = {one["name"]: one["required"] for one in operation["parameters"]}
        in_body = body.get("schema", {})
        told |= {one: one in in_body["required"] for one in in_body.get("properties", {})}
        parameters = action.signature.parameters.values()
        assert told == {one.name: one.default is one.empty for one in parameters}


def test_no_two_actions_share_a_method_and_a_path():
    shapes = Counter(
        (action.method, re.sub(r"{\w+(:path)?}", "{}", action.path)) for action in ACTIONS.values()
    )
    assert [shape for shape, count in shapes.items() if count > 1] == []


def test_every_action_says_in_a_sentence_what_it_does():
    for name, action in ACTIONS.items():
        assert re.fullmatch(r"[A-Z0-9].{8,}[.]", action.summary), f"{name}: {action.summary!r}"


def test_the_command_line_tells_of_each_service_what_the_service_tells_of_itself():
    told = {
        name: (service.__doc__ or "").strip().splitlines()[0]
        for name, service in service_classes().items()
    }
    assert told == SERVICES


def test_the_platform_object_has_each_service_and_each_action(world):
    with world.opened() as platform:
        for name, action in ACTIONS.items():
            assert action.verb in dir(getattr(platform, action.service)), name
    annotated = type(platform).__annotations__
    assert set(annotated) >= set(service_classes())


@pytest.mark.parametrize("way", WAYS)
def test_a_number_that_is_none_is_logged_and_read_through_every_door(world, way):
    run = world.started_run()
    points = [{"key": "loss", "value": float("nan")}, {"key": "worst", "value": float("inf")}]
    world.ask(way, ACTIONS["runs.log"], {"run": run, "metrics": points})
    for reader in WAYS:
        read = world.ask(reader, ACTIONS["runs.get"], {"run": run})["metrics"]
        assert {name: str(value).lower()[:3] for name, value in read.items()} == {
            "loss": "nan",
            "worst": "inf",
        }


ODD_NAMES = ["", ".", "..", "../x", "a/b", "a b?c#d&e=f%", "ملف"]


@pytest.mark.parametrize("name", [name for name in TAKING_A_NAME if name not in MAKING_IT])
def test_an_odd_name_gives_the_same_error_near_and_far_and_leads_nowhere_else(world, name):
    action = ACTIONS[name]
    arguments = naming_nothing(action, subject_of(name).arguments(world))
    places = [one for one in action.path_arguments if arguments[one] == NOTHING_THERE]
    for odd in ODD_NAMES if places else []:
        asked = {**arguments, **dict.fromkeys(places, odd)}
        near, log = fails(world, "python", action, asked), Log(world)
        assert fails(world, "http", action, asked) == near, odd
        # Sums of what the front refused in earlier tests are recorded up to a minute later.
        assert log.actions() <= {name, FRONT_REFUSALS}, odd


def test_a_metric_whose_name_holds_a_slash_is_read_through_every_door(world):
    run = world.started_run()
    points = [{"key": "train/loss of a b?", "value": 0.5}]
    world.ask("python", ACTIONS["runs.log"], {"run": run, "metrics": points})
    for way in WAYS:
        asked = {"run": run, "key": "train/loss of a b?"}
        (point,) = world.ask(way, ACTIONS["runs.history"], asked)
        assert point["value"] == 0.5


def test_a_purpose_may_be_said_in_any_language(world):
    caller, heard = world.caller(), []
    token = world.token(caller)
    decide = world.premises.policy.decide
    purpose = "تحسين 50% of الخدمة"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            world.premises.policy,
            "decide",
            lambda who, *rest, **more: heard.append(who.purpose) or decide(who, *rest, **more),
        )
        RemoteDoor(world.http, lambda: token, purpose=purpose).call(ACTIONS["accounts.me"], {})
    assert heard == [purpose]


def test_the_models_that_a_column_of_a_source_reaches_are_found_downstream_of_it(world):
    with world.opened() as platform:
        reached = platform.assets.lineage("column", "flights/delay", direction="downstream")
        harmless = platform.assets.lineage("column", "flights/at", direction="downstream")
    found = {str(node.ref) for node in reached.root.walked()}
    assert {"feature:recent:mean_2d", "feature_service:delays", "model_version:late/1"} <= found
    assert "feature:recent:count_2d" not in found
    assert "feature_view:recent" in {str(node.ref) for node in harmless.root.walked()}
