"""From a cause to a version in production: once, through gates, and by a person where due."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from falaj import declare as of
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.kernel.jobs import Worker
from falaj.monitoring.retraining import Retrainer
from falaj.monitoring.retrainingwords import RetrainingRun, RetrainingState
from falaj.operations.model import AlertState, ChangeState, Severity
from falaj.rollouts.starting import with_version
from falaj.testing import rolloutsubjects
from falaj.testing.world import BEGIN, World, training_spec
from falaj.wiring.retrainingparts import retrainer
from falaj.wiring.rolloutparts import RolloutParts

DAY = timedelta(days=1)
SMALL = {"n_trees": 15, "num_leaves": 7, "num_threads": 1}
CHAMPION = of.ChampionRule(metric="auc", require="not_worse", margin=0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: Path = tmp_path_factory.mktemp("world")
    with World.made(folder) as made:
        declare(made, policy())
        yield made
        made.close()


def policy(**changed: Any) -> of.ModelPolicy:
    given: dict[str, Any] = {
        "champion": CHAMPION, "floors": (of.MetricRule(metric="auc", limit=0.6),), **changed,
    }  # fmt: skip
    return of.ModelPolicy(
        name="late", feature_service="delays", label="late", calibration=None, latency=None,
        leakage=None, **given,
    )  # fmt: skip


def newest() -> of.NewestRows:
    """All rows of the small world, divided as its first training set."""
    lag = datetime.now(UTC) - (BEGIN + 75 * DAY)
    return of.NewestRows(lag=lag, test=15 * DAY, validation=15 * DAY)


def retraining(name: str, *triggers: Any, **given: Any) -> of.Retraining:
    training = {"model": "late", "params": SMALL, "spec": training_spec()}
    return of.Retraining.model_validate(
        {
            "name": name, "endpoint": "late", "model": "late", "training": training,
            "newest": newest(), "cool_down": timedelta(0),
            "triggers": triggers or (of.OnFinding(monitor="late-drift"),), **given,
        }
    )  # fmt: skip


def declare(world: World, *definitions: Any, principal: str = "user:amina") -> None:
    with world.call(principal) as call:
        world.premises.definitions.apply(call, [one.document() for one in definitions])


def finding(world: World, name: str = "drift-signal", monitor: str = "late-drift") -> str:
    with world.call() as call:
        return world.premises.alerts.raise_alert(
            call, name=f"{monitor}:{name}", subject=AssetRef("endpoint", "late"),
            severity=Severity.WARNING, message=f"{name} was found.", evidence={},
        ).id  # fmt: skip


def resolved(world: World) -> None:
    """Nothing is wrong any more."""
    alerts = world.premises.alerts
    with world.premises.database.reading() as connection:
        found = [one for one in alerts.listed(connection) if one.name.startswith("late-drift:")]
    for one in found:
        if one.state is not AlertState.RESOLVED:
            with world.call() as call:
                alerts.resolve(call, one.id, "It is over.")


def history(world: World, name: str) -> list[RetrainingRun]:
    with world.opened() as platform:
        return list(platform.retraining.history(name))


def gone_on(world: World, by: Retrainer | None = None) -> None:
    """Look and work until nothing moves."""
    by = by or retrainer(world.premises)
    worker = Worker(world.premises.jobs, world.premises.handlers, name="test")
    while by.run_once():
        while worker.run_one():
            pass


def withdrawn(world: World, name: str) -> None:
    """Declare it once more, at rest."""
    with world.premises.database.reading() as connection:
        found = world.premises.definitions.definition(connection, "retraining", name)
    declare(world, found.model_copy(update={"active": False}))


@pytest.fixture
def declared(world: World, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a retraining, which a test declares, at rest afterwards."""
    name = request.node.name.removeprefix("test_")[:40].rstrip("_")
    resolved(world)
    yield name
    withdrawn(world, name)


def template(**given: Any) -> of.ChangeTemplate:
    return of.ChangeTemplate(
        name="late-retrained", change="model_promotion", subjects=("model_version:late/*",),
        bounds=(of.Bound(fact="evidence.retraining.same_contract", one_of=(True,)),), **given,
    )  # fmt: skip


def test_a_finding_that_lasts_leads_to_one_version_which_waits_for_a_person(
    world: World, declared: str
) -> None:
    declare(world, retraining(declared, release=True))
    alert = finding(world)
    gone_on(world)
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.state, run.standard, run.cause.alerts) == (RetrainingState.WAITING, False, (alert,))
    assert [one.what for one in run.story] == ["cause", "training", "version", "gates", "change"]
    with world.call("user:omar") as call:
        world.premises.changes.approve(call, run.change or "", "It is no worse.")
    gone_on(world)
    (run,) = history(world, declared)
    assert run.state is RetrainingState.DONE
    assert [one.what for one in run.story][-2:] == ["decision", "release"]
    with world.opened() as platform:
        active = platform.endpoints.status("late").active
        upstream = platform.assets.lineage("run", run.run or "")
    assert active is not None
    assert (active.id, active.variants[0].version) == (run.release, run.version)
    assert alert in str(upstream)


@pytest.mark.nightly
def test_a_drift_that_is_still_there_under_the_new_version_is_another_cause(
    world: World, declared: str
) -> None:
    declare(world, retraining(declared, release=True))
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    with world.call("user:omar") as call:
        world.premises.changes.approve(call, run.change or "", "It is no worse.")
    gone_on(world)
    assert len(history(world, declared)) == 1, "its alert was last seen before the release"
    finding(world)
    gone_on(world)
    assert [one.champion for one in history(world, declared)] == [run.version, run.champion]


def test_inside_declared_and_approved_bounds_it_needs_nobody(world: World, declared: str) -> None:
    with world.call("user:omar") as call:
        world.premises.definitions.apply(call, [template().document()])
    standard = of.Standard(template="late-retrained", no_worse_by=0.05)
    declare(world, retraining(declared, standard=standard, release=True))
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.state, run.standard) == (RetrainingState.DONE, True)
    with world.premises.database.reading() as connection:
        change = world.premises.changes.get(connection, run.change or "")
    assert (change.state, str(change.type), change.decided_by) == (
        ChangeState.APPROVED, "standard", "user:omar",
    )  # fmt: skip
    assert change.evidence["retraining"]["same_feature_service"] is True


@pytest.mark.parametrize(
    ("bounds", "told"),
    [
        ({"template": "late-retrained", "no_worse_by": 0.0}, "may be worse by"),
        pytest.param(
            {"template": "nobody-approved-it", "no_worse_by": 0.05},
            "nobody-approved-it",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_outside_of_its_bounds_it_stops_for_a_person(
    world: World, bounds: dict[str, Any], told: str
) -> None:
    resolved(world)
    name = f"outside-{bounds['template']}"
    other = {"model": "late", "params": {**SMALL, "n_trees": 9}, "spec": training_spec()}
    declare(world, retraining(name, standard=bounds, training=other))
    finding(world)
    gone_on(world)
    (run,) = history(world, name)
    withdrawn(world, name)
    assert run.state is RetrainingState.WAITING
    assert told in run.story[-1].text
    with world.premises.database.reading() as connection:
        change = world.premises.changes.get(connection, run.change or "")
    assert told in str(change.evidence["retraining"]["outside"])


def test_a_version_that_fails_its_gates_is_never_promoted(world: World, declared: str) -> None:
    declare(world, policy(floors=(of.MetricRule(metric="auc", limit=0.999),)), retraining(declared))
    try:
        finding(world)
        gone_on(world)
    finally:
        declare(world, policy())
    (run,) = history(world, declared)
    assert (run.state, run.change) == (RetrainingState.NOT_PASSED, None)
    with world.opened() as platform:
        alerts = [one for one in platform.alerts.list() if one.name == f"{declared}:retraining"]
        assert str(platform.models.get("late", run.version or 0).stage) == "development"
    assert "auc" in alerts[0].message


@pytest.mark.nightly
def test_a_rejected_change_ends_it(world: World, declared: str) -> None:
    declare(world, retraining(declared, release=True))
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    with world.call("user:omar") as call:
        world.premises.changes.reject(call, run.change or "", "Not in this week.")
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.state, run.release) == (RetrainingState.DECLINED, None)
    assert "Not in this week." in run.story[-1].text


def test_new_labels_lead_to_one_retraining_for_each_training_set(
    world: World, declared: str
) -> None:
    import pyarrow as pa

    lake = world.premises.lake
    declare(
        world, retraining(declared, of.OnLabels(table="flights", label="late", key="flight", n=5))
    )
    gone_on(world)
    assert history(world, declared) == []
    rows = lake.scan("flights").slice(0, 6)
    late = pa.array([1, 0, 1, 0, 1, None], rows.schema.field("late").type)
    rows = rows.set_column(rows.schema.get_field_index("late"), rows.schema.field("late"), late)
    names = pa.array([f"new{i}" for i in range(6)], rows.schema.field("flight").type)
    lake.append("flights", rows.set_column(0, rows.schema.field("flight"), names))
    gone_on(world)
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.cause.on, run.cause.text.split()[0]) == ("labels", "5")


def test_labels_that_its_owner_may_not_read_are_not_counted(world: World, declared: str) -> None:
    person = world.person()
    with world.call() as call:
        accounts = world.premises.authentication.accounts
        accounts.change(
            call.connection, accounts.get(call.connection, person), now=call.now, roles=("viewer",)
        )
    declare(
        world, retraining(declared, of.OnLabels(table="flights", label="late", key="flight", n=1)),
        principal=f"user:{person}",
    )  # fmt: skip
    gone_on(world)
    assert history(world, declared) == []


@pytest.mark.nightly
def test_a_time_that_has_come_leads_to_one_and_a_cool_down_holds_the_next(
    world: World, declared: str
) -> None:
    every = of.OnSchedule(every=timedelta(seconds=1))
    declare(world, retraining(declared, every, cool_down=timedelta(hours=1)))
    until = datetime.now(UTC) + timedelta(seconds=30)
    while not history(world, declared) and datetime.now(UTC) < until:
        gone_on(world)
    (run,) = history(world, declared)
    assert run.cause.on == "schedule"
    with world.call("user:omar") as call:
        world.premises.changes.reject(call, run.change or "", "Once is enough.")
    gone_on(world)
    assert len(history(world, declared)) == 1
    with world.opened() as platform:
        assert platform.retraining.status(declared).next_not_before is not None


def test_more_than_its_budget_are_refused_and_told_once(world: World, declared: str) -> None:
    declare(world, retraining(declared, most=1))
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    with world.call("user:omar") as call:
        world.premises.changes.reject(call, run.change or "", "Not now.")
    finding(world, "drift-mean_2d")
    gone_on(world)
    gone_on(world)
    assert [str(one.state) for one in history(world, declared)] == ["refused", "declined"]
    with world.opened() as platform:
        alerts = [one for one in platform.alerts.list() if one.name == f"{declared}:retraining"]
    assert [one.n_seen for one in alerts] == [1]


@pytest.mark.nightly
def test_one_that_is_asked_for_goes_the_way_of_all_others(world: World, declared: str) -> None:
    declare(world, retraining(declared))
    with world.opened() as platform:
        begun = platform.retraining.run(declared, reason="The runways have changed.")
        with pytest.raises(FalajError, match="goes on already"):
            platform.retraining.run(declared, reason="Again.")
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.id, run.state) == (begun.id, RetrainingState.WAITING)
    assert "runways" in run.cause.text


def test_a_training_that_fails_ends_it_with_an_alert(world: World, declared: str) -> None:
    broken = {"model": "late", "spec": {**training_spec(), "label": "nothing"}}
    declare(world, retraining(declared, training=broken))
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.state, run.version) == (RetrainingState.FAILED, None)
    assert run.error is not None
    assert "nothing" in run.error["message"]


@pytest.mark.nightly
def test_two_workers_that_see_one_cause_begin_one_retraining(world: World, declared: str) -> None:
    declare(world, retraining(declared))
    finding(world)
    first, second = retrainer(world.premises), retrainer(world.premises)
    due = second._due

    def seen(*given: Any) -> Any:
        found = due(*given)
        if found and not history(world, declared):
            first._begin_due()
        return found

    second._due = seen  # type: ignore[method-assign]
    second._begin_due()
    assert len(history(world, declared)) == 1
    gone_on(world)


def test_a_pipeline_that_somebody_else_changed_is_not_run_with_its_owners_rights(
    world: World, declared: str
) -> None:
    given: dict[str, Any] = {"training": None, "newest": None, "pipeline": "counting"}
    declare(world, retraining(declared, **given))
    with world.premises.database.reading() as connection:
        pipeline = world.premises.definitions.definition(connection, "pipeline", "counting")
    declare(world, pipeline.model_copy(update={"description": "Other."}), principal="user:omar")
    finding(world)
    gone_on(world)
    (run,) = history(world, declared)
    assert run.error is not None
    assert (run.state, run.error["code"]) == (RetrainingState.FAILED, "forbidden")


@pytest.mark.nightly
def test_a_champion_that_changed_meanwhile_has_the_gates_run_again(world: World) -> None:
    resolved(world)
    with world.call("user:omar") as call:
        world.premises.definitions.apply(call, [template().document()])
    standard = of.Standard(template="late-retrained", no_worse_by=0.05)
    declare(world, *(retraining(name, standard=standard) for name in ("one", "two")))
    finding(world)
    gone_on(world)
    runs = [history(world, name)[0] for name in ("one", "two")]
    for name in ("one", "two"):
        withdrawn(world, name)
    assert [one.state for one in runs] == [RetrainingState.DONE] * 2
    assert sorted(sum(told.what == "again" for told in one.story) for one in runs) == [0, 1]


def tried(world: World, name: str, **given: Any) -> str:
    """The endpoint and rollout by which the versions of a retraining are tried, that was begun."""
    place = rolloutsubjects.declared(world)
    declare(world, retraining(name, endpoint=place, rollout=place, **given))
    with world.opened() as platform:
        platform.retraining.run(name, reason="The runways have changed.")
    return place


def test_a_version_is_tried_by_a_rollout_once_another_person_approves(
    world: World, declared: str
) -> None:
    place = tried(world, declared)
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.state, run.story[-1].what) == (RetrainingState.WAITING, "rollout")
    with world.call("user:omar") as call:
        asked = world.premises.changes.get(call.connection, run.change or "")
        assert (asked.evidence["version"]["stage"], asked.requested_by) == (
            "development", "user:amina",
        )  # fmt: skip
        assert "no template" in asked.reason
        world.premises.changes.approve(call, run.change or "", "Ten per cent of them.")
    gone_on(world)
    (run,) = history(world, declared)
    assert run.state is RetrainingState.DONE
    with world.opened() as platform:
        began = platform.rollouts.show(place)
        assert str(platform.models.get("late", run.version or 0).stage) == "staging"
    assert began.run is not None
    assert began.run.rollout.challengers[0].version == run.version
    assert began.run.state == "running"


def test_inside_bounds_a_rollout_begins_by_itself_and_the_next_one_waits_for_its_end(
    world: World, declared: str
) -> None:
    with world.call("user:omar") as call:
        permitted = of.ChangeTemplate(
            name="late-tried", change="rollout.start", subjects=("rollout:*",),
            bounds=(of.Bound(fact="evidence.version.same_contract", one_of=(True,)),),
        )  # fmt: skip
        world.premises.definitions.apply(call, [permitted.document()])
    standard = of.Standard(template="late-tried", no_worse_by=0.05)
    place = tried(world, declared, standard=standard)
    gone_on(world)
    (run,) = history(world, declared)
    assert (run.state, run.standard) == (RetrainingState.DONE, True)
    with world.opened() as platform:
        assert platform.rollouts.show(place).run.state == "running"
        platform.retraining.run(declared, reason="Once more.")
    gone_on(world)
    assert history(world, declared)[0].state is RetrainingState.PROMOTING
    with world.opened() as platform:
        platform.rollouts.stop(place, reason="It was a mistake.")
    RolloutParts(world.premises).engine().run_once()
    gone_on(world)
    assert history(world, declared)[0].state is RetrainingState.DONE


def test_a_rollout_that_tries_a_version_has_one_challenger() -> None:
    two = of.Rollout(
        name="two", endpoint="late", how="shadow",
        challengers=(of.Challenger(name="a", version=1), of.Challenger(name="b", version=2)),
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="2 challengers"):
        with_version(two, 3)


def test_a_retraining_tries_its_version_or_lets_it_serve() -> None:
    with pytest.raises(ValidationError, match="choose one"):
        retraining("both", rollout="late", release=True)


WORKER = """
import os, signal, sys, threading
from falaj.kernel.jobs import Worker
from falaj.kernel.settings import Settings
from falaj.monitoring.retrainings import Retrainings
from falaj.wiring.assembly import assemble
from falaj.wiring.retrainingparts import retrainer

folder, fatal = sys.argv[1:]
move = Retrainings.move

def moved(self, call, run, to, told=None, /, **facts):
    if to == fatal:  # what was asked for is done, and that it was is not written
        os.kill(os.getpid(), signal.SIGKILL)
    move(self, call, run, to, told, **facts)

Retrainings.move = moved
made = assemble(Settings.read(folder, job_lease_seconds=1), process="killed")
worker = Worker(made.jobs, made.handlers, name=f"killed-{os.getpid()}")
again = retrainer(made)
while again.run_once() or worker.run_one():
    pass
"""


def killed_at(world: World, state: RetrainingState) -> None:
    """Let a process of its own go on until it would move a retraining to a state."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(world.folder), str(state)],
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    "states",
    [
        [RetrainingState.JUDGING, RetrainingState.RELEASING],
        pytest.param(
            [
                RetrainingState.TRAINING,
                RetrainingState.JUDGING,
                RetrainingState.PROMOTING,
                RetrainingState.RELEASING,
                RetrainingState.DONE,
            ],
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["two", "all"],
)
def test_a_worker_that_is_killed_trains_nothing_twice_and_promotes_nothing_without_gates(
    world: World, states: list[RetrainingState]
) -> None:
    resolved(world)
    with world.call("user:omar") as call:
        world.premises.definitions.apply(call, [template().document()])
    with world.opened() as platform:
        before = len(platform.models.versions("late"))
        changes = len(platform.changes.list())
        releases = len(platform.endpoints.releases("late"))
    standard = of.Standard(template="late-retrained", no_worse_by=0.05)
    declare(world, retraining("killed", standard=standard, release=True))
    finding(world)
    for state in states:
        killed_at(world, state)
    gone_on(world)
    run = history(world, "killed")[0]
    withdrawn(world, "killed")
    assert (run.state, run.error) == (RetrainingState.DONE, None)
    assert [one.what for one in run.story] == [
        "cause", "training", "version", "gates", "change", "release",
    ]  # fmt: skip
    with world.opened() as platform:
        assert len(platform.models.versions("late")) == before + 1
        assert len(platform.changes.list()) == changes + 1
        assert len(platform.endpoints.releases("late")) == releases + 1
        assert platform.models.gate_report("late", run.version or 0).passed


def test_a_worker_that_is_killed_behind_the_start_of_a_rollout_starts_no_second_one(
    world: World,
) -> None:
    with world.call("user:omar") as call:
        permitted = of.ChangeTemplate(
            name="late-tried", change="rollout.start", subjects=("rollout:*",)
        )
        world.premises.definitions.apply(call, [permitted.document()])
    with world.opened() as platform:
        changes = len(platform.changes.list())
    standard = of.Standard(template="late-tried", no_worse_by=0.05)
    place = tried(world, "killed-trying", standard=standard)
    killed_at(world, RetrainingState.DONE)  # the rollout runs, and nobody has said so
    gone_on(world)
    (run,) = history(world, "killed-trying")
    withdrawn(world, "killed-trying")
    assert (run.state, run.standard, run.error) == (RetrainingState.DONE, True, None)
    with world.opened() as platform:
        assert len(platform.changes.list()) == changes + 1
        assert [one.state for one in platform.rollouts.history(place).runs] == ["running"]


def changes_for(world: World, place: str) -> list[Any]:
    with world.opened() as platform:
        return [one for one in platform.changes.list() if str(one.subject) == f"rollout:{place}"]


@pytest.mark.parametrize("now_inside", [True, False], ids=["inside", "outside-otherwise"])
def test_a_worker_that_is_killed_behind_a_refusal_asks_the_same_person_again(
    world: World, now_inside: bool
) -> None:
    name = f"killed-refused-{now_inside}".lower()
    standard = of.Standard(template=name, no_worse_by=0.05)
    place = tried(world, name, standard=standard)
    killed_at(world, RetrainingState.WAITING)  # the change waits, and nobody has said so
    bounds = () if now_inside else (of.Bound(fact="evidence.how", one_of=("nothing",)),)
    with world.call("user:omar") as call:  # by now the template is there, and says otherwise
        permitted = of.ChangeTemplate(
            name=name, change="rollout.start", subjects=("rollout:*",), bounds=bounds
        )
        world.premises.definitions.apply(call, [permitted.document()])
    gone_on(world)
    (run,) = history(world, name)
    withdrawn(world, name)
    assert (run.state, run.standard, run.error) == (RetrainingState.WAITING, False, None)
    assert [one.id for one in changes_for(world, place)] == [run.change]
    with world.opened() as platform:
        assert platform.rollouts.history(place).runs == []


def test_a_rollout_that_began_inside_bounds_is_not_asked_for_again_outside_of_them(
    world: World,
) -> None:
    with world.call("user:omar") as call:
        permitted = of.ChangeTemplate(
            name="late-began", change="rollout.start", subjects=("rollout:*",)
        )
        world.premises.definitions.apply(call, [permitted.document()])
    standard = of.Standard(template="late-began", no_worse_by=0.05)
    place = tried(world, "killed-inside", standard=standard)
    killed_at(world, RetrainingState.DONE)
    by = retrainer(world.premises)
    by._promoting.outside = lambda *_: ["another champion"]  # type: ignore[method-assign]
    gone_on(world, by)
    (run,) = history(world, "killed-inside")
    withdrawn(world, "killed-inside")
    assert (run.state, run.standard, run.error) == (RetrainingState.DONE, True, None)
    assert [one.id for one in changes_for(world, place)] == [run.change]


def test_bounds_are_held_anew_once_a_rollout_that_was_in_the_way_has_ended(
    world: World, declared: str
) -> None:
    with world.call("user:omar") as call:
        permitted = of.ChangeTemplate(
            name="late-anew", change="rollout.start", subjects=("rollout:*",)
        )
        world.premises.definitions.apply(call, [permitted.document()])
    place = tried(world, declared, standard=of.Standard(template="late-anew", no_worse_by=0.05))
    gone_on(world)
    with world.opened() as platform:
        platform.retraining.run(declared, reason="Once more.")
    gone_on(world)
    assert history(world, declared)[0].choice is None
    with world.opened() as platform:
        platform.rollouts.stop(place, reason="It was a mistake.")
    RolloutParts(world.premises).engine().run_once()
    by = retrainer(world.premises)
    by._promoting.outside = lambda *_: ["another champion"]  # type: ignore[method-assign]
    gone_on(world, by)
    run = history(world, declared)[0]
    assert (run.state, run.standard) == (RetrainingState.WAITING, False)
    assert "another champion" in run.story[-1].text
