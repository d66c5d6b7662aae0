"""Releases of rollouts: begun beside the champion, divided while they serve, ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, InvalidInput, Unavailable
from falaj.models.isolation import grown
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import NoRolloutRuns, RolloutRuns
from falaj.serving.layers import Stretch
from falaj.serving.model import (
    AnomalyPolicy,
    Approved,
    Combination,
    Composition,
    Endpoint,
    FieldType,
    Member,
    Release,
    RequestField,
)
from falaj.serving.plans import Plans
from falaj.serving.releases import Releases
from falaj.serving.rolloutreleases import RolloutReleases
from falaj.serving.routing import RoutingTable
from falaj.testing.calls import opened_call
from falaj.testing.serving import MemoryBundles, servable

FIELDS = (
    RequestField(name="who", type=FieldType.STRING, nullable=True),
    *(RequestField(name=name, type=FieldType.FLOAT) for name in "abc"),
)
LABELS = {1: "sha256:a", 2: "sha256:b", 3: "sha256:c"}


class Versions:
    """Versions of the models, and what may be done with them, in memory."""

    def __init__(self) -> None:
        self.production, self.staging = {1}, {2, 3}
        self.quarantined: set[int] = set()
        self.taken_out: set[int] = set()

    def approved(self, connection: Connection, model: str, version: int | None) -> Approved:
        return self._one(model, version or min(self.production), self.production)

    def challenging(self, connection: Connection, model: str, version: int) -> Approved:
        return self._one(model, version, self.production | self.staging)

    def may_return(self, connection: Connection, model: str, version: int) -> None:
        if version in self.taken_out | self.quarantined:
            raise Conflict(f"{model}/{version} may not return.")

    def _one(self, model: str, version: int, among: set[int]) -> Approved:
        if version not in among or version in self.quarantined:
            raise Conflict(f"{model}/{version} may not be served so.")
        return Approved(model=model, version=version, bundle=LABELS[version], change="change_1")


class World:
    def __init__(self, database: Database, table: RoutingTable, bundles: MemoryBundles) -> None:
        from falaj.serving.adapters.runtime_onnx import OnnxRuntime

        self.database, self.table, self.bundles = database, table, bundles
        self.versions, catalog = Versions(), Catalog()
        compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None)
        self.releases = Releases(table, compiler, self.versions, None, catalog)
        self.rollouts = RolloutReleases(self.releases, table, self.versions)
        self.plans = Plans(table, compiler)
        definitions = Definitions(
            catalog, {"endpoint": Endpoint}, {"endpoint": self.releases.applied}
        )
        both = Composition(
            combine=Combination.MEAN, members=(Member(model="delay"), Member(model="weather"))
        )
        endpoints = [
            Endpoint(name="delays", model="delay", fields=FIELDS, unit="who"),
            Endpoint(name="others", model="delay", fields=FIELDS, unit="who"),
            Endpoint(name="plain", model="delay", fields=FIELDS),
            Endpoint(name="both", model="delay", fields=FIELDS, unit="who", composition=both),
        ]
        with opened_call(database) as call:
            for name in ("delay", "weather"):
                catalog.record(call, AssetRef("model", name))
            definitions.apply(call, endpoints)

    def served(self, name: str = "delays") -> Release:
        """Deploy and activate a release of the version in production."""
        with opened_call(self.database) as call:
            release = self.releases.deploy(call, name)
            return self.releases.activate(call, name, release.id)

    def begun(self, name: str = "delays", *challengers: Any, **options: Any) -> Release:
        """Begin a rollout, of version 2 with half of the units at the end."""
        given = challengers or (("new", 2, 0.5),)
        with opened_call(self.database) as call:
            return self.rollouts.begin_rollout(call, name, given, **{"salt": "rol_1", **options})

    def divided(self, share: float, name: str = "delays") -> None:
        with opened_call(self.database) as call:
            self.rollouts.divide(call, name, {"new": share})

    def ended(self, name: str = "delays", **options: Any) -> Release:
        with opened_call(self.database) as call:
            return self.rollouts.end_rollout(call, name, **options)

    def mended(self) -> list[str]:
        with self.database.transaction() as connection:
            return self.releases.reconcile(connection)

    def apart(self) -> bool:
        with self.database.reading() as connection:
            return self.releases.apart(connection)

    def routed(self) -> tuple[str | None, dict[str, float]]:
        """The active release of ``delays`` in the table, and its present shares."""
        _, routes, splits = self.table.served()
        split = splits.get("delays")
        return routes.get("delays"), {} if split is None else dict(split.shares)


@contextmanager
def opened_world(database: Database, folder: Path) -> Iterator[World]:
    table = RoutingTable(folder / "routing")
    bundles = MemoryBundles({bundle: servable(seed) for seed, bundle in enumerate(LABELS.values())})
    yield World(database, table, bundles)
    table.close()


@pytest.fixture
def world(sqlite_database: Database, tmp_path: Path) -> Iterator[World]:
    with opened_world(sqlite_database, tmp_path) as made:
        yield made


def test_a_rollout_begins_with_all_units_at_the_champion(world: World) -> None:
    before = world.served()
    release = world.begun()
    assert [(one.name, one.label, one.share) for one in release.variants] == [
        ("champion", "delay/1", 1.0),
        ("new", "delay/2", 0.0),
    ]
    assert release.base == before.id
    assert world.routed() == (release.id, {})
    world.plans.catch_up()
    assigner = world.plans.named("delays").assigner
    assert assigner is not None
    assert not assigner.on


def test_shares_are_divided_without_another_release_and_seen_by_every_plan(world: World) -> None:
    world.served()
    release = world.begun()
    world.plans.catch_up()
    plan = world.plans.named("delays")
    opened = len(world.bundles.opened)
    world.divided(0.2)
    assert world.plans.behind
    assert world.plans.switch()
    assert world.plans.named("delays") is plan
    assert len(world.bundles.opened) == opened
    for one in (plan, plan.aside):
        assert one.assigner is not None
        assert one.assigner.present == (0.2,)
    assert world.routed() == (release.id, {"new": 0.2})
    world.divided(0.0)
    assert world.plans.switch()
    assert plan.assigner is not None
    assert not plan.assigner.on


def test_a_challenger_that_may_not_be_tried_is_refused(world: World) -> None:
    before = world.served()
    world.versions.quarantined = {2}
    with pytest.raises(Conflict, match="delay/2"):
        world.begun()
    world.versions.quarantined, world.versions.staging = set(), {3}
    with pytest.raises(Conflict, match="delay/2"):
        world.begun()
    assert world.routed() == (before.id, {})


def test_a_share_of_a_quarantined_challenger_can_only_shrink(world: World) -> None:
    world.served()
    world.begun()
    world.divided(0.2)
    world.versions.quarantined = {2}
    with pytest.raises(Conflict, match="delay/2"):
        world.divided(0.3)
    world.divided(0.1)
    world.divided(0.0)
    assert world.routed()[1] == {"new": 0.0}


@pytest.mark.parametrize(
    ("shares", "named"), [({"new": 0.6}, "new"), ({"new": -0.1}, "new"), ({"old": 0.1}, "old")]
)
def test_shares_that_the_release_does_not_allow_are_refused(
    world: World, shares: dict[str, float], named: str
) -> None:
    world.served()
    world.begun()
    with pytest.raises(InvalidInput, match=named), opened_call(world.database) as call:
        world.rollouts.divide(call, "delays", shares)


def test_the_champion_returns_as_the_release_from_which_the_rollout_began(world: World) -> None:
    before = world.served()
    world.begun()
    world.divided(0.5)
    assert world.ended().id == before.id
    assert world.routed() == (before.id, {})
    with pytest.raises(NoRolloutRuns):
        world.divided(0.1)
    with pytest.raises(NoRolloutRuns):
        world.ended()


def test_a_champion_whose_release_was_retired_returns_as_a_new_one(world: World) -> None:
    before = world.served()
    world.begun()
    with opened_call(world.database) as call:
        world.releases.retire(call, "delays", before.id)
    after = world.ended()
    assert after.id != before.id
    assert (after.model, after.assignment) == ("delay/1", None)


def test_a_challenger_serves_alone_once_it_is_approved_for_production(world: World) -> None:
    world.served()
    world.begun()
    world.divided(0.5)
    with pytest.raises(Conflict, match="delay/2"):
        world.ended(keep="new")
    world.versions.production = {2}
    after = world.ended(keep="new")
    assert [(one.name, one.label, one.share) for one in after.variants] == [
        ("champion", "delay/2", 1.0)
    ]
    assert world.routed() == (after.id, {})


def test_releases_are_not_switched_by_hand_while_a_rollout_runs(world: World) -> None:
    before = world.served()
    running = world.begun()
    with opened_call(world.database) as call:
        other = world.releases.deploy(call, "delays")
    for name in (before.id, other.id):
        with pytest.raises(RolloutRuns), opened_call(world.database) as call:
            world.releases.activate(call, "delays", name)
    with pytest.raises(RolloutRuns):
        world.begun()
    world.ended()
    with pytest.raises(Conflict, match="made for a rollout"), opened_call(world.database) as call:
        world.releases.activate(call, "delays", running.id)


def test_a_rollback_by_hand_ends_a_rollout_and_never_returns_to_one(world: World) -> None:
    first, second = world.served(), world.served()
    world.begun()
    world.divided(0.5)
    with opened_call(world.database) as call:
        assert world.releases.rollback(call, "delays").id == second.id
    assert world.routed() == (second.id, {})
    with opened_call(world.database) as call:
        assert world.releases.rollback(call, "delays").id == first.id


def test_an_endpoint_is_switched_off_whatever_runs_on_it(world: World) -> None:
    world.served()
    world.begun()
    with opened_call(world.database) as call:
        world.releases.deactivate(call, "delays")
    assert world.routed() == (None, {})
    with pytest.raises(Conflict, match="serves nothing"):
        world.begun()


def test_a_revoked_challenger_leaves_the_champion_alone_and_a_revoked_champion_nothing(
    world: World,
) -> None:
    before = world.served()
    world.begun()
    world.divided(0.5)
    with opened_call(world.database) as call:
        assert world.releases.withdraw(call, lambda digest: digest == "sha256:b") == ["delays"]
    assert world.routed() == (before.id, {})
    world.begun(salt="rol_2")
    with opened_call(world.database) as call:
        assert world.releases.withdraw(call, lambda digest: digest == "sha256:a") == ["delays"]
    assert world.routed() == (None, {})


def test_a_share_that_was_flipped_and_never_committed_is_taken_back(world: World) -> None:
    world.served()
    release = world.begun()
    world.divided(0.1)
    _, _, splits = world.table.served()
    world.table.split("delays", splits["delays"].model_copy(update={"shares": {"new": 0.5}}))
    assert world.apart()
    assert world.mended() == ["delays"]
    assert world.routed() == (release.id, {"new": 0.1})
    world.table.split("delays", None)
    assert world.mended() == ["delays"]
    assert world.routed() == (release.id, {"new": 0.1})
    assert not world.apart()
    assert world.mended() == []


def test_a_control_process_that_is_killed_between_flip_and_commit_leaves_nothing_to_stay(
    world: World, tmp_path: Path
) -> None:
    world.served()
    release = world.begun()
    world.divided(0.1)
    program = Path(__file__).with_name("rollout_killed.py")
    url = world.database.url.render_as_string(hide_password=False)
    ended = subprocess.run(
        [sys.executable, str(program), url, str(tmp_path / "routing")], check=False, timeout=60
    )
    assert ended.returncode == -signal.SIGKILL
    assert world.routed() == (release.id, {"new": 0.5})  # it was flipped
    assert world.apart()
    assert world.mended() == ["delays"]
    assert world.routed() == (release.id, {"new": 0.1})  # and never committed
    world.divided(0.2)
    assert world.routed() == (release.id, {"new": 0.2})


def test_a_rollout_is_halted_while_another_transaction_holds_the_database(world: World) -> None:
    world.served()
    assert not world.rollouts.halt("delays")
    release = world.begun()
    assert not world.rollouts.halt("delays")
    world.divided(0.5)
    with world.database.transaction():  # an activation that waits for its workers
        assert world.rollouts.halt("delays")
        assert world.routed() == (release.id, {})
        world.plans.catch_up()
        assigner = world.plans.named("delays").assigner
        assert assigner is not None
        assert not assigner.on
    world.divided(0.0)
    assert not world.apart()
    world.divided(0.3)
    world.rollouts.halt("delays")  # and nobody divides
    assert world.mended() == ["delays"]
    assert world.routed() == (release.id, {"new": 0.3})


def test_a_new_machine_is_given_the_release_and_its_shares(world: World, tmp_path: Path) -> None:
    world.served()
    release = world.begun()
    world.divided(0.3)
    fresh = RoutingTable(tmp_path / "fresh")
    world.releases._table = fresh
    assert world.mended() == ["delays"]
    _, routes, splits = fresh.served()
    assert routes == {"delays": release.id}
    assert splits["delays"].shares == {"new": 0.3}
    fresh.close()


def test_mending_serves_the_champion_alone_where_a_challenger_may_not_be_tried_any_more(
    world: World,
) -> None:
    before = world.served()
    world.begun()
    world.table.flip("delays", None)
    world.versions.quarantined = {2}
    assert world.mended() == ["delays"]
    assert world.routed() == (before.id, {})


def test_a_worker_that_does_not_load_the_challenger_stops_the_beginning(world: World) -> None:
    before = world.served()
    world.table.report("w9", generation=1, prepared={before.id: "ready"})
    with pytest.raises(Unavailable, match="w9"):
        world.begun(wait_seconds=0.05)
    assert world.routed() == (before.id, {})
    world.table.leave("w9")
    world.begun()
    world.table.report("w9", generation=1, prepared={})
    world.divided(0.2)  # waits for nobody
    assert world.routed()[1] == {"new": 0.2}


def test_rollouts_of_one_layer_are_given_stretches_apart(world: World) -> None:
    world.served(), world.served("others"), world.served("plain")
    one = world.begun(layer="ranking", layer_share=0.6)
    two = world.begun("others", layer="ranking", layer_share=0.4)
    assert one.assignment is not None
    assert two.assignment is not None
    assert one.assignment.layer is not None
    assert two.assignment.layer is not None
    assert one.assignment.layer.stretch == Stretch(0.0, 0.6)
    assert two.assignment.layer.stretch == Stretch(0.6, 1.0)
    world.ended()
    with pytest.raises(InvalidInput, match="no room"):
        world.begun(layer="ranking", layer_share=0.7)
    world.begun(layer="ranking", layer_share=0.5)


def test_rollouts_of_one_layer_that_begin_at_once_are_given_stretches_apart(
    database: Database, tmp_path: Path
) -> None:
    names = ("delays", "others", "both")
    with opened_world(database, tmp_path) as world:
        for name in names:
            world.served(name)

        def begin(name: str) -> Release | None:
            try:
                return world.begun(name, layer="ranking", layer_share=0.5, salt=name)
            except InvalidInput:
                return None  # no room

        with ThreadPoolExecutor(3) as threads:
            begun = [one for one in threads.map(begin, names) if one is not None]
        places = [one.assignment.layer.stretch for one in begun]  # type: ignore[union-attr]
        assert sorted(places, key=lambda one: one.low) == [Stretch(0.0, 0.5), Stretch(0.5, 1.0)]
        for one in begun:
            world.divided(0.2, one.endpoint)
            world.divided(0.4, one.endpoint)
        _, _, splits = world.table.served()
        assert {one.endpoint: splits[one.endpoint].revision for one in begun} == {
            one.endpoint: 2 for one in begun
        }
        assert not world.apart()
        for one in begun:
            assert world.ended(one.endpoint).id == one.base
        assert world.table.served()[2] == {}


def test_a_rollout_without_a_unit_to_divide_by_is_refused_but_a_shadow_needs_none(
    world: World,
) -> None:
    world.served("plain")
    with pytest.raises(InvalidInput, match="unit"):
        world.begun("plain")
    with pytest.raises(InvalidInput, match="not a request field"):
        world.begun("plain", segment="city", period=timedelta(hours=1))
    release = world.begun("plain", ("new", 2, 1.0), ("newer", 3, 1.0), shadow=True)
    assert [one.shadow for one in release.variants] == [False, True, True]
    plan = world.plans
    plan.catch_up()
    assert [one.label for one in plan.named("plain").variants] == ["delay/1"]
    assert [one.label for one in plan.named("plain").shadows] == ["delay/2", "delay/3"]


def test_a_composition_is_tried_with_another_version_of_its_own_model(world: World) -> None:
    world.served("both")
    release = world.begun("both")
    champion, challenger = release.variants
    assert [one.label for one in champion.members] == ["delay/1", "weather/1"]
    assert [one.label for one in challenger.members] == ["delay/2", "weather/1"]


def test_a_release_without_a_rollout_is_written_as_before_there_were_any(world: World) -> None:
    document = world.served().model_dump(mode="json")
    assert "assignment" not in document
    assert "shadow" not in document["variants"][0]
    running = world.begun()
    assert Release.model_validate_json(running.model_dump_json()) == running


def test_a_challenger_without_a_forest_is_refused_where_the_champion_tags(world: World) -> None:
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    forest = grown(rows, n_trees=10, rows_per_tree=64, share=0.02, seed=1)
    world.bundles.models["sha256:a"] = replace(servable(0), isolation=forest)
    with opened_call(world.database) as call:
        tagging = Endpoint(
            name="delays", model="delay", fields=FIELDS, unit="who", anomalies=AnomalyPolicy.TAG
        )
        world.releases.applied(call, tagging)
    assert world.served().anomalies is AnomalyPolicy.TAG
    with pytest.raises(InvalidInput, match="delay/2 was trained without an isolation forest"):
        world.begun()
    world.bundles.models["sha256:b"] = replace(servable(1), isolation=forest)
    assert world.begun().anomalies is AnomalyPolicy.TAG
