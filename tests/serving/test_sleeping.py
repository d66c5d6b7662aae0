from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from falaj.kernel.errors import Corrupt, NotFound
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import Asleep
from falaj.serving.inference import InferenceApp
from falaj.serving.meters import Meters
from falaj.serving.model import Limits, ServableModel, Variant
from falaj.serving.plans import Keeper, Plans
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.routing import RoutingTable
from falaj.serving.sleeping import MOST_WAKES, Sleeping
from falaj.testing.fakes import AllowAll
from falaj.testing.installations import eventually
from falaj.testing.serving import (
    MemoryBundles,
    MemorySpools,
    NamedTokens,
    fronted,
    make_release,
)

ROW = {"a": 0.5, "b": -1.25, "c": 2.0}


class GatedBundles:
    """Bundles that open only while the gate is open; tells how many wait before it."""

    def __init__(self, bundles: MemoryBundles) -> None:
        self._bundles = bundles
        self.gate = threading.Event()
        self.gate.set()
        self.opened = 0
        self.inside = 0
        self.most_inside = 0
        self._lock = threading.Lock()

    def open(self, digest: str) -> ServableModel:
        with self._lock:
            self.inside += 1
            self.opened += 1
            self.most_inside = max(self.most_inside, self.inside)
        try:
            assert self.gate.wait(20)
            return self._bundles.open(digest)
        finally:
            with self._lock:
                self.inside -= 1


@pytest.fixture
def gated(bundles: MemoryBundles) -> GatedBundles:
    return GatedBundles(bundles)


@pytest.fixture
def plans(table: RoutingTable, gated: GatedBundles, compiler: PlanCompiler) -> Plans:
    compiler._bundles = gated
    return Plans(table, compiler)


class Worker:
    """A listening worker whose models the test puts to sleep."""

    def __init__(self, plans: Plans, client: httpx.Client) -> None:
        self.plans = plans
        self.client = client

    def predict(self, endpoint: str = "delays") -> httpx.Response:
        return self.client.post(
            f"/v1/endpoints/{endpoint}/predict",
            headers={"authorization": "Bearer user:amina"},
            json={"inputs": [ROW]},
        )


@pytest.fixture
def worker(table: RoutingTable, plans: Plans, tmp_path: Path) -> Iterator[Worker]:
    for number in range(4):
        name = f"delays{number or ''}"
        limits = Limits(deadline_seconds=1.0 if number == 1 else 20.0, concurrency=5)
        table.write(make_release(f"release_{number}", endpoint=name, limits=limits))
        table.flip(name, f"release_{number}")
    app = InferenceApp(
        plans=plans,
        keeper=Keeper(plans, table, worker="w0"),
        verifier=NamedTokens(),
        policy=AllowAll(),
        log=PredictionLog(MemorySpools()),
        meters=Meters(tmp_path / "meters", "w0"),
    )
    with fronted(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield Worker(plans, client)


def activated(table: RoutingTable, **values: Any) -> None:
    table.write(make_release(**values))
    table.flip("delays", values.get("release_id", "release_1"))


# -- plans -------------------------------------------------------------------------------


def test_a_sleeping_plan_is_gone_from_memory_without_waiting_for_the_collector(
    table: RoutingTable, plans: Plans
) -> None:
    activated(table)
    plans.catch_up()
    gone = weakref.ref(plans.active["delays"])
    models = [weakref.ref(one) for one in plans.active["delays"].variants]
    gc.disable()
    try:
        assert plans.sleep("delays")
        assert gone() is None
        assert [one() for one in models] == [None]
    finally:
        gc.enable()


def test_a_sleeping_release_counts_as_prepared_and_is_not_built_by_the_keeper(
    table: RoutingTable, plans: Plans, gated: GatedBundles
) -> None:
    activated(table)
    plans.catch_up()
    plans.sleep("delays")
    opened = gated.opened
    assert plans.prepared() == {"release_1": "ready"}
    table.write(make_release("release_9", endpoint="other"))
    table.flip("other", "release_9")  # a switch elsewhere wakes nobody
    assert plans.behind
    plans.catch_up()
    assert "delays" in plans.asleep
    assert plans.switch()
    assert gated.opened == opened + 1
    assert not plans.sleep("delays")
    with pytest.raises(Asleep):
        plans.named("delays")


def test_a_switch_of_a_sleeping_endpoint_serves_the_new_release_awake(
    table: RoutingTable, plans: Plans
) -> None:
    activated(table)
    plans.catch_up()
    plans.sleep("delays")
    table.write(
        make_release("release_2", variants=(Variant(model="d", version=2, bundle="sha256:b"),))
    )
    table.announce("delays", "release_2")
    plans.prepare()
    table.flip("delays", "release_2")
    assert plans.switch()
    assert plans.named("delays").release.id == "release_2"
    assert plans.asleep == {}


def test_an_endpoint_that_is_switched_off_while_it_sleeps_serves_no_more(
    table: RoutingTable, plans: Plans
) -> None:
    activated(table)
    plans.catch_up()
    plans.sleep("delays")
    table.flip("delays", None)
    plans.catch_up()
    with pytest.raises(NotFound):
        plans.wake("delays")


def test_an_endpoint_that_is_switched_while_it_wakes_is_served_by_the_new_release(
    table: RoutingTable, plans: Plans, gated: GatedBundles
) -> None:
    activated(table)
    plans.catch_up()
    plans.sleep("delays")
    table.write(make_release("release_2"))
    table.announce("delays", "release_2")
    plans.prepare()
    gated.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        waking = pool.submit(plans.wake, "delays")
        eventually(lambda: gated.inside == 1)
        table.flip("delays", "release_2")
        assert plans.switch()
        gated.gate.set()
        assert waking.result(20).release.id == "release_2"


def test_a_bundle_that_does_not_verify_any_more_does_not_wake(
    table: RoutingTable, plans: Plans, bundles: MemoryBundles
) -> None:
    activated(table)
    plans.catch_up()
    plans.sleep("delays")
    model = bundles.models["sha256:a"]
    bundles.models["sha256:a"] = Corrupt("The bundle cannot be trusted.", hint="Find out why.")
    with pytest.raises(Corrupt):
        plans.wake("delays")
    assert "delays" in plans.asleep
    bundles.models["sha256:a"] = model
    assert plans.wake("delays") is plans.active["delays"]


def test_an_endpoint_that_wakes_between_two_looks_is_found(
    table: RoutingTable, plans: Plans
) -> None:
    activated(table)
    plans.catch_up()

    class WokenMeanwhile(dict[str, Any]):
        def _woken(self) -> None:
            with ThreadPoolExecutor(1) as pool:
                plans.asleep = dict(self)
                pool.submit(plans.wake, "delays").result(20)

        def __contains__(self, name: object) -> bool:
            self._woken()
            return name in plans.asleep

        def get(self, name: str, default: Any = None) -> Any:
            self._woken()
            return plans.asleep.get(name, default)

    plans.sleep("delays")
    plans.asleep = WokenMeanwhile(plans.asleep)
    assert plans.named("delays").release.id == "release_1"
    plans.sleep("delays")
    plans.asleep = WokenMeanwhile(plans.asleep)
    found = plans.release("delays")
    assert found is not None
    assert found.id == "release_1"


def test_a_chore_that_fails_does_not_end_the_keeper(table: RoutingTable, plans: Plans) -> None:
    done: list[int] = []

    def chore() -> None:
        done.append(1)
        raise OSError("no space")

    keeper = Keeper(plans, table, worker="w0", also=chore)
    keeper.start()
    table.announce("delays", "release_1")
    eventually(lambda: bool(done))
    activated(table)
    eventually(lambda: "delays" in plans.active)
    keeper.stop()


def test_what_was_refused_and_withdrawn_may_be_asked_for_again(
    table: RoutingTable, plans: Plans, bundles: MemoryBundles
) -> None:
    table.write(make_release())
    model = bundles.models["sha256:a"]
    bundles.models["sha256:a"] = Corrupt("The bundle cannot be trusted.")
    table.announce("delays", "release_1")
    plans.prepare()
    assert "trusted" in plans.prepared()["release_1"]
    table.withdraw("delays")
    plans.prepare()
    assert plans.prepared() == {}  # else the next activation reads the old refusal at once
    bundles.models["sha256:a"] = model
    table.announce("delays", "release_1")
    plans.prepare()
    assert plans.prepared() == {"release_1": "ready"}


def test_only_what_was_not_asked_for_the_idle_time_goes_to_sleep(
    table: RoutingTable, plans: Plans, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activated(table)
    table.write(make_release("release_9", endpoint="busy"))
    table.flip("busy", "release_9")
    plans.catch_up()
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    sleeping = Sleeping(plans, idle_seconds=10.0)
    never = Sleeping(plans)
    for _ in range(12):
        plans.active["busy"].n_asked += 1
        sleeping.look()
        never.look()
        now[0] += 1.0
    assert set(plans.active) == {"busy"}
    assert set(plans.asleep) == {"delays"}
    sleeping.stop()
    never.stop()


# -- a worker ------------------------------------------------------------------------------


def test_the_first_request_wakes_a_model_and_all_that_come_meanwhile_wait_with_it(
    worker: Worker, gated: GatedBundles
) -> None:
    before = worker.predict().json()["predictions"][0]["score"]
    assert worker.plans.sleep("delays")
    assert worker.client.get("/readyz").status_code == 200
    opened = gated.opened
    gated.gate.clear()
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(worker.predict) for _ in range(5)]
        eventually(lambda: gated.inside == 1)
        time.sleep(0.1)
        assert worker.predict("delays2").status_code == 200  # those awake go on
        gated.gate.set()
        answers = [one.result() for one in asked]
    assert [one.status_code for one in answers] == [200] * 5
    assert {one.json()["predictions"][0]["score"] for one in answers} == {before}
    assert gated.opened == opened + 1


def test_a_request_waits_for_a_wake_no_longer_than_its_deadline(
    worker: Worker, gated: GatedBundles
) -> None:
    assert worker.predict("delays1").status_code == 200
    worker.plans.sleep("delays1")
    gated.gate.clear()
    late = worker.predict("delays1")
    assert late.status_code == 504
    assert late.json()["code"] == "deadline-exceeded"
    gated.gate.set()  # the model has gone on loading
    eventually(lambda: "delays1" in worker.plans.active)
    assert worker.predict("delays1").status_code == 200


def test_more_requests_than_the_endpoint_allows_do_not_wait_for_a_wake(
    worker: Worker, gated: GatedBundles
) -> None:
    worker.predict()
    worker.plans.sleep("delays")
    gated.gate.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(worker.predict) for _ in range(8)]
        eventually(lambda: sum(one.done() for one in asked) == 3)
        gated.gate.set()
        codes = sorted(one.result().status_code for one in asked)
    assert codes == [200] * 5 + [503] * 3


def test_a_worker_wakes_a_few_models_at_once_and_the_others_behind_them(
    worker: Worker, gated: GatedBundles
) -> None:
    names = ["delays", "delays2", "delays3"]
    for name in names:
        worker.predict(name)
        worker.plans.sleep(name)
    gated.gate.clear()
    gated.most_inside = 0
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(worker.predict, name) for name in names]
        eventually(lambda: gated.inside == MOST_WAKES)
        time.sleep(0.1)
        gated.gate.set()
        assert [one.result().status_code for one in asked] == [200] * 3
    assert gated.most_inside == MOST_WAKES
