from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Classification, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.door import LocalDoor, face
from falaj.kernel.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    InvalidInput,
    NotFound,
    Unavailable,
)
from falaj.serving import tables
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import BadRequest, ReleaseRefused
from falaj.serving.makingreleases import release_ref
from falaj.serving.meters import Meters
from falaj.serving.model import (
    Approved,
    Combination,
    Composition,
    Endpoint,
    FieldType,
    Member,
    RequestField,
    ServableModel,
)
from falaj.serving.plans import Keeper, Plans
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.predictor import Predictor
from falaj.serving.releases import Releases
from falaj.serving.routing import RoutingTable
from falaj.serving.service import EndpointService
from falaj.serving.spools import DirectorySpools, PredictionDrain
from falaj.serving.tracing import Tracing
from falaj.testing.calls import make_door, opened_call
from falaj.testing.fakes import MemoryAudit
from falaj.testing.seeing import whole
from falaj.testing.serving import MemoryBundles, servable

FIELDS = tuple(RequestField(name=name, type=FieldType.FLOAT) for name in "abc")
ROW = {"a": 0.5, "b": -1.25, "c": 2.0}


class Versions:
    """Approved model versions, in memory."""

    def __init__(self) -> None:
        self.known = {1: "sha256:a", 2: "sha256:b"}
        self.production: int | None = 1
        self.approved_ones = {1}
        self.others: dict[str, str] = {}
        self.taken_out: set[int] = set()
        self.tried = {2}
        self.quarantined: set[int] = set()

    def challenging(self, connection: Connection, model: str, version: int) -> Approved:
        if version in self.quarantined or version not in self.tried | self.approved_ones:
            raise Conflict(f"{model}/{version} may not be tried.")
        return Approved(model=model, version=version, bundle=self.known[version])

    def may_return(self, connection: Connection, model: str, version: int) -> None:
        if version in self.taken_out:
            raise Conflict(f"{model}/{version} was taken out of production.")

    def approved(self, connection: Connection, model: str, version: int | None) -> Approved:
        if model in self.others:
            return Approved(model=model, version=7, bundle=self.others[model])
        which = version or self.production
        if which is None or which not in self.approved_ones:
            raise Conflict(f"{model}/{which} is not approved.")
        return Approved(model=model, version=which, bundle=self.known[which], change="change_1")


class World:
    def __init__(
        self,
        database: Database,
        table: RoutingTable,
        compiler: PlanCompiler,
        bundles: MemoryBundles,
        tmp_path: Path,
        keys: Any,
        lake: Any,
    ) -> None:
        self.database, self.table, self.compiler, self.bundles = database, table, compiler, bundles
        self.catalog = Catalog()
        self.versions = Versions()
        self.releases = Releases(table, compiler, self.versions, None, self.catalog)
        self.definitions = Definitions(
            self.catalog, {"endpoint": Endpoint}, {"endpoint": self.releases.applied}
        )
        self.spool = tmp_path / "spool"
        self.keys, self.lake = keys, lake
        self.log = PredictionLog(DirectorySpools(self.spool, keys))
        self.plans = Plans(table, compiler)
        self.audit = MemoryAudit()
        self.service = EndpointService(
            self.releases,
            table,
            Predictor(self.plans, self.log),
            Tracing(lake, self.catalog, bundles, {"model_version": lambda _c, key: {"named": key}}),
            Meters(tmp_path / "meters", "control"),
            lambda _call, action, _ref: action not in self.forbidden,
            None,  # type: ignore[arg-type] - nothing is scored in batches here
            whole(lake),
            lambda _caller, _release: None,
        )
        self.forbidden: set[str] = set()
        self.door: LocalDoor = make_door(database, [self.service], audit=self.audit)
        self.endpoints = face(EndpointService, self.door)

    def apply(self, *endpoints: Endpoint) -> None:
        with opened_call(self.database) as call:
            for name in {endpoint.model for endpoint in endpoints}:
                self.catalog.record(call, AssetRef("model", name))
            self.definitions.apply(call, list(endpoints))


@pytest.fixture
def world(
    sqlite_database: Database,
    table: RoutingTable,
    compiler: PlanCompiler,
    bundles: MemoryBundles,
    tmp_path: Path,
    keyring: Any,
    ducklake: Any,
) -> World:
    made = World(sqlite_database, table, compiler, bundles, tmp_path, keyring, ducklake)
    made.apply(Endpoint(name="delays", model="delay", fields=FIELDS))
    return made


@pytest.fixture
def worker(table: RoutingTable, compiler: PlanCompiler) -> Iterator[Plans]:
    plans = Plans(table, compiler)
    keeper = Keeper(plans, table, worker="w0")
    keeper.start()
    yield plans
    keeper.stop()


def test_a_deployed_release_serves_nothing_until_it_is_activated(
    world: World, worker: Plans
) -> None:
    release = world.endpoints.deploy("delays")
    assert release.model == "delay/1"
    assert release.change == "change_1"
    assert world.endpoints.status("delays").active is None
    with pytest.raises(NotFound, match="serves"):
        world.endpoints.predict("delays", [ROW])
    world.endpoints.activate("delays", release.id)
    answer = world.endpoints.predict("delays", [ROW], request_id="r1")
    assert (answer.release, answer.request_id) == (release.id, "r1")
    worker.catch_up()
    assert worker.named("delays").release.id == release.id
    status = world.endpoints.status("delays")
    assert status.active == release
    assert [one.id for one in status.workers] == ["w0"]
    assert status.workers[0].prepared[release.id] == "ready"
    assert [item.model_dump() for item in world.endpoints.list()] == [
        {"name": "delays", "model": "delay", "active": release.id, "version": 1}
    ]


def test_a_version_that_is_not_approved_is_not_deployed(world: World) -> None:
    with pytest.raises(Conflict, match="not approved"):
        world.endpoints.deploy("delays", version=2)
    assert world.endpoints.releases("delays") == []


def test_a_unit_that_is_no_request_field_is_refused_with_the_way_to_declare_it(
    world: World,
) -> None:
    world.apply(Endpoint(name="delays", model="delay", unit="customer"))
    with pytest.raises(InvalidInput, match="unit 'customer' of 'delays'") as refused:
        world.endpoints.deploy("delays")
    assert 'RequestField(name="customer"' in refused.value.hint
    assert world.endpoints.releases("delays") == []


def test_an_approval_that_was_withdrawn_stops_the_activation(world: World) -> None:
    release = world.endpoints.deploy("delays")
    world.versions.approved_ones.clear()
    with pytest.raises(Conflict, match="not approved"):
        world.endpoints.activate("delays", release.id)
    assert world.table.active()[1] == {}


def test_a_composition_pins_every_member_and_all_of_them_must_stay_approved(world: World) -> None:
    composition = Composition(
        combine=Combination.MEAN, members=(Member(model="delay"), Member(model="weather"))
    )
    world.versions.others["weather"] = "sha256:b"
    with opened_call(world.database) as call:
        world.catalog.record(call, AssetRef("model", "weather"))
    endpoint = Endpoint(name="both", model="delay", fields=FIELDS, composition=composition)
    world.apply(endpoint)
    release = world.endpoints.deploy("both", activate=True)
    (variant,) = release.variants
    assert [one.label for one in variant.members] == ["delay/1", "weather/7"]
    assert variant.label == "delay/1"
    with world.database.reading() as connection:
        lineage = world.catalog.walk(connection, release_ref("both", release.id))
    assert {branch.ref.key for branch in lineage.root.branches} >= {"delay/1", "weather/7"}
    answer = world.endpoints.predict("both", [ROW])
    alone = [
        float(OnnxRuntime().load(servable(seed)).run(np.array([list(ROW.values())], "f4"))[0, 0])
        for seed in (0, 1)
    ]
    assert answer.predictions[0]["score"] == pytest.approx(sum(alone) / 2, abs=1e-6)
    again = world.endpoints.deploy("both")
    del world.versions.others["weather"]
    world.versions.approved_ones.clear()
    with pytest.raises(Conflict, match="not approved"):
        world.endpoints.activate("both", again.id)


def test_a_bundle_that_does_not_verify_never_becomes_active(world: World) -> None:
    release = world.endpoints.deploy("delays")
    world.bundles.models["sha256:a"] = Corrupt("The bundle was changed.")
    with pytest.raises(Corrupt, match="changed"):
        world.endpoints.deploy("delays")
    with pytest.raises(Corrupt, match="changed"):
        world.endpoints.activate("delays", release.id)
    assert world.table.active()[1] == {}
    assert [item.state for item in world.endpoints.releases("delays")] == ["deployed"]


def test_a_worker_that_cannot_load_a_release_stops_the_switch(world: World) -> None:
    first = world.endpoints.deploy("delays", activate=True)
    second = world.endpoints.deploy("delays")
    world.table.report("w9", generation=1, prepared={second.id: "out of memory"})
    with pytest.raises(ReleaseRefused, match="out of memory"):
        world.endpoints.activate("delays", second.id)
    assert world.table.active()[1] == {"delays": first.id}
    assert world.table.announced()[1] == {}


def test_a_worker_that_does_not_answer_stops_the_switch(world: World) -> None:
    release = world.endpoints.deploy("delays")
    world.table.report("w9", generation=0, prepared={})
    with pytest.raises(Unavailable, match="w9"):
        world.endpoints.activate("delays", release.id, wait_seconds=0.05)
    assert world.table.active()[1] == {}


def test_rollbacks_walk_back_the_pile_of_what_served(world: World) -> None:
    one, two, three = (world.endpoints.deploy("delays", activate=True) for _ in range(3))
    assert world.endpoints.rollback("delays").id == two.id
    assert world.endpoints.rollback("delays").id == one.id
    with pytest.raises(Conflict, match="before"):
        world.endpoints.rollback("delays")
    world.endpoints.deactivate("delays")
    world.endpoints.deactivate("delays")
    assert world.endpoints.status("delays").active is None
    assert world.endpoints.rollback("delays").id == one.id
    served = [item.release for item in world.endpoints.history("delays")][::-1]
    assert served == [one.id, two.id, three.id, two.id, one.id, None, one.id]
    states = {item.release.id: item.state for item in world.endpoints.releases("delays")}
    assert states == {one.id: "active", two.id: "replaced", three.id: "replaced"}


def test_a_retired_release_is_neither_activated_nor_rolled_back_to(world: World) -> None:
    one, two, three = (world.endpoints.deploy("delays", activate=True) for _ in range(3))
    world.endpoints.retire("delays", two.id)
    with pytest.raises(Conflict, match="is retired"):
        world.endpoints.activate("delays", two.id)
    assert world.endpoints.rollback("delays").id == one.id  # past the retired one
    states = {item.release.id: item.state for item in world.endpoints.releases("delays")}
    assert states == {one.id: "active", two.id: "retired", three.id: "replaced"}
    world.endpoints.retire("delays", three.id)
    with pytest.raises(Conflict, match="before"):
        world.endpoints.rollback("delays")


def test_the_release_that_serves_is_not_retired(world: World) -> None:
    release = world.endpoints.deploy("delays", activate=True)
    with pytest.raises(Conflict, match="serves now"):
        world.endpoints.retire("delays", release.id)
    assert world.endpoints.status("delays").active is not None
    with pytest.raises(NotFound):
        world.endpoints.retire("delays", "release_nothing")


def test_a_release_that_is_retired_while_it_is_announced_is_not_kept_ready(world: World) -> None:
    release = world.endpoints.deploy("delays")
    assert world.table.announced()[1] == {"delays": release.id}
    world.endpoints.retire("delays", release.id)
    assert world.table.announced()[1] == {}


def test_a_version_that_was_taken_out_of_production_is_not_rolled_back_to(world: World) -> None:
    world.endpoints.deploy("delays", activate=True)
    world.versions.approved_ones.add(2)
    second = world.endpoints.deploy("delays", version=2, activate=True)
    world.versions.taken_out.add(1)
    with pytest.raises(Conflict, match="taken out"):
        world.endpoints.rollback("delays")
    assert world.table.active()[1] == {"delays": second.id}


@pytest.mark.parametrize("why", ["taken out", "changed"])
def test_the_mending_of_the_table_activates_nothing_that_may_not_serve(
    world: World, why: str
) -> None:
    release = world.endpoints.deploy("delays", activate=True)
    world.table.flip("delays", None)
    model = world.bundles.models["sha256:a"]
    if why == "changed":
        world.bundles.models["sha256:a"] = Corrupt("The bundle was changed.")
    else:
        world.versions.taken_out.add(1)
    with world.database.transaction() as connection:
        assert world.releases.reconcile(connection) == []
    assert world.table.active()[1] == {}
    world.bundles.models["sha256:a"] = model
    world.versions.taken_out.clear()
    with world.database.transaction() as connection:
        assert world.releases.reconcile(connection) == ["delays"]
    assert world.table.active()[1] == {"delays": release.id}


def test_a_switch_whose_audit_record_fails_does_not_happen(world: World) -> None:
    first = world.endpoints.deploy("delays", activate=True)
    second = world.endpoints.deploy("delays")
    world.audit.broken = True
    with pytest.raises(Unavailable):
        world.endpoints.activate("delays", second.id)
    assert world.table.active()[1] == {"delays": first.id}
    world.audit.broken = False
    status = world.endpoints.status("delays")
    assert status.active is not None
    assert status.active.id == first.id


def test_the_routing_table_is_mended_from_the_database(
    world: World, tmp_path: Path, compiler: PlanCompiler
) -> None:
    release = world.endpoints.deploy("delays", activate=True)
    world.table.flip("delays", None)
    world.table.flip("stranger", release.id)
    with world.database.transaction() as connection:
        assert sorted(world.releases.reconcile(connection)) == ["delays", "stranger"]
        assert world.releases.reconcile(connection) == []
    assert world.table.active()[1] == {"delays": release.id}


def test_unknown_endpoints_and_releases_are_named(world: World) -> None:
    with pytest.raises(NotFound, match="'nothing'"):
        world.endpoints.deploy("nothing")
    with pytest.raises(NotFound, match="release_x"):
        world.endpoints.activate("delays", "release_x")
    with pytest.raises(BadRequest, match="missing required field `c`"):
        world.endpoints.deploy("delays", activate=True)
        world.endpoints.predict("delays", [{"a": 1, "b": 2}])
    with pytest.raises(BadRequest, match="inputs"):
        world.endpoints.predict("delays", [])


def test_two_endpoints_never_share_a_prediction_table(world: World) -> None:
    world.apply(Endpoint(name="a-b", model="delay", fields=FIELDS))
    with pytest.raises(AlreadyExists, match="predictions_a_b"):
        world.apply(Endpoint(name="a_b", model="delay", fields=FIELDS))


def test_a_model_input_that_comes_from_nowhere_is_refused(world: World) -> None:
    world.apply(Endpoint(name="poor", model="delay", fields=FIELDS[:2]))
    with pytest.raises(InvalidInput, match="'c' is neither"):
        world.endpoints.deploy("poor")
    world.apply(
        Endpoint(
            name="wordy",
            model="delay",
            fields=(*FIELDS[:2], RequestField(name="c", type=FieldType.STRING)),
        )
    )
    with pytest.raises(InvalidInput, match="takes a number"):
        world.endpoints.deploy("wordy")
    world.bundles.models["sha256:a"] = ServableModel("pickle", b"", ("a",))
    with pytest.raises(InvalidInput, match="No runtime"):
        world.endpoints.deploy("delays")


def test_a_word_is_read_as_its_place_and_an_unknown_one_as_missing(world: World) -> None:
    words = {"c": ("low", "mid", "high")}
    world.bundles.models["sha256:a"] = servable(0, categories=words)
    fields = (*FIELDS[:2], RequestField(name="c", type=FieldType.STRING, nullable=True))
    world.apply(Endpoint(name="words", model="delay", fields=fields))
    world.endpoints.deploy("words", activate=True)
    rows = [{"a": 1, "b": 1, "c": word} for word in ("low", "high", "odd", None)]
    answer = world.endpoints.predict("words", rows, explain=True)
    shown = [item["features"]["c"] for item in answer.predictions]
    assert [item["value"] for item in shown] == [0.0, 2.0, None, None]
    assert shown[2]["status"] == "null"


def test_a_prediction_is_traced_back_to_its_release_and_model(world: World) -> None:
    release = world.endpoints.deploy("delays", activate=True)
    answer = world.endpoints.predict("delays", [ROW], at=datetime(2013, 10, 1, tzinfo=UTC))
    prediction = answer.predictions[0]["id"]
    with pytest.raises(NotFound, match="no prediction"):
        world.endpoints.trace(prediction)
    drain = PredictionDrain(world.spool, world.keys, world.lake)
    assert drain.run_once() == 1
    assert drain.run_once() == 0
    tree = world.endpoints.trace(prediction)
    assert tree.facts["score"] == answer.predictions[0]["score"]
    assert tree.facts["features"] == ROW
    assert tree.facts["predicted_for"] == "2013-10-01T00:00:00+00:00"
    (cause,) = tree.causes
    assert (cause.kind, cause.key, cause.relation) == (
        "release", f"delays/{release.id}", str(Relation.PREDICTED),
    )  # fmt: skip
    assert cause.facts["change"] == "change_1"
    (version,) = cause.causes
    assert (version.kind, version.key, version.facts["named"]) == (
        "model_version", "delay/1", "delay/1",
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="not the id"):
        world.endpoints.trace("pred_'; DROP")
    assert release_ref("delays", release.id).key in str(cause.key)


def test_every_switch_is_audited_once(world: World) -> None:
    release = world.endpoints.deploy("delays")
    world.endpoints.activate("delays", release.id)
    told = [(entry.action, entry.resource, entry.outcome) for entry in world.audit.entries]
    assert told == [
        ("endpoints.deploy", "endpoint:delays", "done"),
        ("endpoints.activate", "endpoint:delays", "done"),
    ]


def test_a_dead_workers_report_is_not_waited_for(world: World, monkeypatch: Any) -> None:
    world.table.report("w9", generation=0, prepared={})
    clock: Callable[[], float] = time.monotonic
    assert [one.id for one in world.table.workers(alive_seconds=60)] == ["w9"]
    time.sleep(0.02)
    assert world.table.workers(alive_seconds=0.01) == []
    world.table.leave("w9")
    assert world.table.workers() == []
    assert clock() > 0


def test_a_trace_keeps_the_values_of_a_secret_log_from_who_may_not_read_them(world: World) -> None:
    world.endpoints.deploy("delays", activate=True)
    prediction = world.endpoints.predict("delays", [ROW]).predictions[0]["id"]
    PredictionDrain(world.spool, world.keys, world.lake).run_once()
    log = AssetRef("table", "predictions_delays")
    world.forbidden = {"tables.read"}
    assert world.endpoints.trace(prediction).facts["features"] == ROW
    with opened_call(world.database) as call:
        world.catalog.describe(call, log, classification=Classification.PERSONAL)
    told = world.endpoints.trace(prediction).facts
    assert ROW not in told.values()
    assert told["score"] == told["features"] == "(not for you, as you stand)"
    world.forbidden = set()
    assert world.endpoints.trace(prediction).facts["features"] == ROW


def test_an_endpoint_that_may_not_be_seen_is_neither_listed_nor_traced(world: World) -> None:
    world.endpoints.deploy("delays", activate=True)
    prediction = world.endpoints.predict("delays", [ROW]).predictions[0]["id"]
    PredictionDrain(world.spool, world.keys, world.lake).run_once()
    assert [one.name for one in world.endpoints.list()] == ["delays"]
    world.forbidden = {"assets.get"}
    assert list(world.endpoints.list()) == []
    with pytest.raises(NotFound, match="no prediction"):
        world.endpoints.trace(prediction)


def test_a_member_that_was_taken_out_of_production_does_not_come_back_with_its_composition(
    world: World,
) -> None:
    composition = Composition(
        combine=Combination.MEAN, members=(Member(model="delay"), Member(model="weather"))
    )
    world.versions.others["weather"] = "sha256:b"
    with opened_call(world.database) as call:
        world.catalog.record(call, AssetRef("model", "weather"))
    world.apply(Endpoint(name="both", model="delay", fields=FIELDS, composition=composition))
    first, second = (world.endpoints.deploy("both", activate=True) for _ in range(2))
    world.versions.taken_out.add(7)  # the version of weather
    with pytest.raises(Conflict, match="weather/7 was taken out"):
        world.endpoints.rollback("both")
    assert world.table.active()[1] == {"both": second.id}
    world.table.flip("both", first.id)
    with world.database.transaction() as connection:
        assert world.releases.reconcile(connection) == ["both"]
    assert world.table.active()[1] == {}


def test_an_endpoint_that_is_made_while_the_mending_waits_for_its_rows_goes_on_serving(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = world.endpoints.deploy("delays", activate=True)
    found = tables.endpoint_rows

    def waited(connection: Connection, *, locked: bool = False) -> list[Any]:
        rows = found(connection, locked=locked)  # as they were when it began to wait
        world.table.flip("new", release.id)
        return rows

    monkeypatch.setattr(tables, "endpoint_rows", waited)
    with world.database.transaction() as connection:
        assert world.releases.reconcile(connection) == []
    assert world.table.active()[1] == {"delays": release.id, "new": release.id}
