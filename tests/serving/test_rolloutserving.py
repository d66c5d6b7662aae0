"""A worker that serves a rollout: who answers, who stands in, what runs behind the answer."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.logged import SCHEMA
from falaj.serving.model import (
    FieldType,
    Release,
    RequestField,
    SeriesCounts,
    ServableModel,
    Variant,
)
from falaj.serving.routing import RoutingTable
from falaj.serving.shadows import MOST_ROWS
from falaj.serving.splits import Assignment, Split
from falaj.serving.spools import DirectorySpools, PredictionDrain
from falaj.serving.unitcounts import ERRED_ROW, bucket_of
from falaj.testing.serving import MemoryBundles, Running, make_release, servable, worker

FIELDS = (
    RequestField(name="who", type=FieldType.STRING),
    *(RequestField(name=name, type=FieldType.FLOAT) for name in "abc"),
)
POISON = 1_000.0


class Brittle:
    """A runtime whose models sum a row, fail on the poison, and wait for the gate."""

    formats = ("brittle",)
    n_inputs = 3

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()
        """Somebody waits at the closed gate."""
        self.n_rows = 0

    def load(self, model: ServableModel) -> Brittle:
        return self

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.gate.is_set():
            self.held.set()
            self.gate.wait(10)
        if (rows[:, 0] >= POISON).any():
            raise ValueError("this model fails on the poison")
        self.n_rows += len(rows)
        return np.asarray(rows.sum(axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def brittle() -> Brittle:
    return Brittle()


@pytest.fixture(scope="module")
def running(brittle: Brittle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("rollouts")
    table = RoutingTable(folder / "routing")
    sums = ServableModel("brittle", b"", ("a", "b", "c"))
    bundles = MemoryBundles({"sha256:a": servable(0), "sha256:b": servable(1), "sha256:x": sums})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu"), brittle], None)
    with worker(table, bundles, compiler, folder) as one:
        yield one
    table.close()


class Rollout:
    """A release of its own endpoint on the worker, and the shares of its challenger."""

    def __init__(self, running: Running, name: str, **given: Any) -> None:
        self.running, self.name = running, name
        bundle, shadow = given.pop("bundle", "sha256:b"), given.pop("shadow", False)
        champion = given.pop("champion", "sha256:a")
        self.release = make_release(
            f"release_{name}",
            endpoint=name,
            fields=FIELDS,
            unit="who",
            variants=(
                Variant(model="delay", version=1, bundle=champion),
                Variant(
                    name="new", model="delay", version=2, bundle=bundle, share=0.0, shadow=shadow
                ),
            ),
            assignment=Assignment(salt=name, final={"new": 1.0}, **given),
        )
        running.activate(self.release)

    def divided(self, share: float) -> None:
        split = Split(endpoint=self.name, release=self.release.id, shares={"new": share})
        self.running.table.split(self.name, split)

    def asked(self, *rows: dict[str, Any], name: str | None = None) -> list[dict[str, Any]]:
        body = {"inputs": list(rows), **({} if name is None else {"request_id": name})}
        answer = self.running.predict(body, endpoint=self.name)
        assert answer.status_code == 200, answer.text
        return list(answer.json()["predictions"])

    def logged(self, least: int = 0) -> list[dict[str, Any]]:
        """The rows of the log, once there are so many: its own thread may be writing some."""
        self.running.log.flush()
        until(lambda: len(self._flushed()) >= least)
        return self._flushed()

    def _flushed(self) -> list[dict[str, Any]]:
        return self.running.spools.rows(f"predictions_{self.name}")

    def units(self, variant: str, *, shadow: bool = False) -> dict[str, dict[int, int]]:
        """Answered and failed requests by bucket of units."""
        cells = self.running.meters.units(self.name)[variant, shadow]
        parts = {"answered": cells[:ERRED_ROW].sum(axis=0), "failed": cells[ERRED_ROW]}
        return {
            name: {int(place): int(one[place]) for place in one.nonzero()[0]}
            for name, one in parts.items()
        }

    def series(self) -> dict[tuple[str, bool], SeriesCounts]:
        return {
            (one.variant, one.shadow): one
            for one in self.running.meters.series()
            if one.endpoint == self.name
        }


def row(who: str = "x", a: float = 0.5) -> dict[str, Any]:
    return {"who": who, "a": a, "b": -1.25, "c": 2.0}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_shares_change_with_the_next_request_and_the_log_says_who_answered(
    running: Running,
) -> None:
    rollout = Rollout(running, "changing")
    units = [row(f"u{number}") for number in range(60)]
    met: dict[float, Counter[str]] = {}
    for share in (0.0, 1.0, 0.5, 0.0, 1.0):
        rollout.divided(share)
        met[share] = Counter(item["variant"] for item in rollout.asked(*units))
    assert met[0.0] == {"champion": 60}
    assert met[1.0] == {"new": 60}
    assert 15 < met[0.5]["new"] < 45
    rows = rollout.logged(300)
    assert len({one["prediction_id"] for one in rows}) == len(rows) == 300
    assert Counter(one["variant"] for one in rows) == {
        "champion": 120 + met[0.5]["champion"],
        "new": 120 + met[0.5]["new"],
    }
    assert {one["shadow"] for one in rows} == {False}


def test_one_request_may_meet_several_variants_each_row_by_its_unit(running: Running) -> None:
    rollout = Rollout(running, "several")
    rollout.divided(0.5)
    units = [row(f"u{number}") for number in range(20)]
    together = [item["variant"] for item in rollout.asked(*units)]
    alone = [rollout.asked(one)[0]["variant"] for one in units]
    assert together == alone
    assert set(together) == {"champion", "new"}


def test_a_challenger_that_fails_is_stood_in_for_by_the_champion_and_counted(
    running: Running,
) -> None:
    rollout = Rollout(running, "failing", bundle="sha256:x")
    rollout.divided(1.0)
    (good,) = rollout.asked(row())
    (stood_in,) = rollout.asked(row(a=POISON))
    assert (good["variant"], stood_in["variant"]) == ("new", "champion")
    assert [item["variant"] for item in rollout.asked(row(), row(a=POISON))] == ["champion"] * 2
    counted = rollout.series()
    assert (counted["new", False].requests, counted["new", False].failed) == (1, 2)
    assert (counted["champion", False].requests, counted["champion", False].failed) == (2, 0)
    assert counted["", False].failed == 0
    traffic = running.meters.traffic("failing")
    assert (traffic.requests, traffic.failed) == (3, 0)
    assert Counter(one["variant"] for one in rollout.logged(4)) == {"champion": 3, "new": 1}


def test_requests_and_failures_of_a_rollout_are_counted_by_their_units(running: Running) -> None:
    rollout = Rollout(running, "by_units", bundle="sha256:x")
    rollout.divided(1.0)
    for _ in range(3):
        rollout.asked(row("b", POISON))
    rollout.asked(row("a"), row("c"))
    assert rollout.units("new") == {"answered": {bucket_of("a"): 1}, "failed": {bucket_of("b"): 3}}
    # The champion has no units of its own, so it is compared by those that it answered for.
    assert rollout.units("champion") == {"answered": {bucket_of("b"): 3}, "failed": {}}
    # Both rows run together, so nobody knows which one it was: the first has it.
    rollout.asked(row("a"), row("d", POISON))
    assert rollout.units("new")["failed"] == {bucket_of("b"): 3, bucket_of("a"): 1}


def test_a_failure_of_the_champion_counts_for_its_unit(running: Running) -> None:
    rollout = Rollout(running, "broken_by_units", champion="sha256:x")
    running.predict({"inputs": [row("b", POISON)]}, endpoint=rollout.name)
    assert rollout.units("champion")["failed"] == {bucket_of("b"): 1}


@pytest.mark.parametrize("n", [1, 2])
def test_a_request_that_fails_with_the_champion_too_is_the_challengers_failure(
    running: Running, n: int
) -> None:
    name = f"both_broken_{n}"
    rollout = Rollout(running, name, champion="sha256:x", bundle="sha256:x")
    rollout.divided(0.5)
    units = [f"u{number}" for number in range(20)]
    met = {unit: rollout.asked(row(unit))[0]["variant"] for unit in units}
    unit = next(unit for unit in units if met[unit] == "new")
    answer = running.predict({"inputs": [row(unit, POISON)] * n}, endpoint=name)
    assert (answer.status_code, answer.json()["code"]) == (500, "model-failed")
    assert rollout.units("new")["failed"] == {bucket_of(unit): 1}
    assert rollout.units("champion")["failed"] == {}
    counted = rollout.series()
    assert [counted[one, False].failed for one in ("new", "champion", "")] == [1, 1, 1]


def test_where_all_meet_the_challenger_what_fails_with_both_is_counted_for_both(
    running: Running,
) -> None:
    rollout = Rollout(running, "all_broken", champion="sha256:x", bundle="sha256:x")
    rollout.divided(1.0)
    assert running.predict({"inputs": [row("b", POISON)]}, endpoint="all_broken").is_error
    for variant in ("new", "champion"):
        assert rollout.units(variant) == {"answered": {}, "failed": {bucket_of("b"): 1}}


def test_of_a_crowd_each_unit_stays_with_the_variant_that_it_meets(running: Running) -> None:
    """Also of those that are not tried any more, after some of a run have failed."""
    rollout = Rollout(running, "crowded_by_units", bundle="sha256:x")
    rollout.divided(0.5)
    names = [f"u{number}" for number in range(64)]
    variants = {name: rollout.asked(row(name))[0]["variant"] for name in names}
    before = {one: sum(rollout.units(one)["answered"].values()) for one in ("champion", "new")}
    with ThreadPoolExecutor(16) as crowd:
        list(crowd.map(lambda name: rollout.asked(row(name, POISON)), names))
    met = Counter(variants.values())
    after = {one: rollout.units(one) for one in ("champion", "new")}
    assert sum(after["champion"]["answered"].values()) - before["champion"] == met["champion"]
    assert 1 <= sum(after["new"]["failed"].values()) <= met["new"]


def test_a_shadow_is_counted_by_units_as_well(running: Running) -> None:
    rollout = Rollout(running, "shadowed_by_units", bundle="sha256:x", shadow=True)
    rollout.divided(1.0)
    rollout.asked(row("a"), row("a"))
    until(lambda: ("new", True) in running.meters.units(rollout.name))
    rollout.asked(row("b", POISON))
    until(lambda: bool(rollout.units("new", shadow=True)["failed"]))
    found = rollout.units("new", shadow=True)
    assert found == {"answered": {bucket_of("a"): 1}, "failed": {bucket_of("b"): 1}}


def test_without_a_rollout_nothing_is_counted_by_units(running: Running) -> None:
    running.activate(make_release("release_uncounted", endpoint="uncounted"))
    inputs = {name: value for name, value in row().items() if name != "who"}
    assert running.predict({"inputs": [inputs]}, endpoint="uncounted").status_code == 200
    assert running.meters.units("uncounted") == {}


def test_a_request_that_spoils_a_run_costs_the_challenger_no_other_one(running: Running) -> None:
    rollout = Rollout(running, "spoilt", bundle="sha256:x")
    rollout.divided(1.0)
    plan = running.plans
    plan.catch_up()
    made = plan.named("spoilt")
    bodies = [row(f"u{number}", POISON if number == 3 else 0.5) for number in range(8)]
    parsed = [
        made.parse(json.dumps({"inputs": [one]}).encode(), caller="user:a", started=0.0)
        for one in bodies
    ]
    answers, parts = made.score(parsed)
    told = [json.loads(bytes(one))["predictions"][0]["variant"] for one in answers]  # type: ignore[arg-type]
    assert told == ["champion" if number == 3 else "new" for number in range(8)]
    told_of = [
        {name: len(some) for name, some in part.failed.items()} for part in parts if part.failed
    ]
    assert told_of == [{"new": 1}]
    assert sorted(one for part in parts for one in part.ids) == sorted(
        json.loads(bytes(one))["predictions"][0]["id"]  # type: ignore[arg-type]
        for one in answers
    )


def test_a_dead_challenger_is_not_tried_for_each_request_of_a_crowd(
    running: Running, brittle: Brittle
) -> None:
    rollout = Rollout(running, "dead", bundle="sha256:x")
    rollout.divided(1.0)
    with ThreadPoolExecutor(16) as crowd:
        answers = list(crowd.map(lambda n: rollout.asked(row(f"u{n}", POISON)), range(64)))
    assert [one[0]["variant"] for one in answers] == ["champion"] * 64
    counted = rollout.series()
    assert counted["champion", False].requests == 64
    assert 1 <= counted["new", False].failed <= 64


def test_a_champion_that_fails_is_answered_by_the_error_and_counted_as_its_own(
    running: Running,
) -> None:
    rollout = Rollout(running, "broken", champion="sha256:x")
    answer = running.predict({"inputs": [row(a=POISON)]}, endpoint="broken")
    assert answer.status_code == 500
    assert answer.json()["code"] == "model-failed"
    counted = rollout.series()
    assert counted["champion", False].failed == 1
    assert counted["", False].failed == 1
    assert running.meters.traffic("broken").failed == 1


def test_a_shadow_runs_behind_the_answer_and_says_nothing_in_it(running: Running) -> None:
    rollout = Rollout(running, "shadowed", bundle="sha256:x", shadow=True)
    before = rollout.asked(row(), name="r0")
    rollout.divided(1.0)
    after = rollout.asked(row(), name="r1")
    assert before[0].keys() == after[0].keys()
    assert before[0]["score"] == after[0]["score"]
    assert "variant" not in after[0]
    until(lambda: ("new", True) in rollout.series() and len(rollout.logged()) == 3)
    shadow = next(one for one in rollout.logged() if one["shadow"])
    assert (shadow["variant"], shadow["version"]) == ("new", 2)
    assert shadow["request_id"] == "r1"
    assert shadow["score"] == pytest.approx(0.5 - 1.25 + 2.0)
    assert shadow["unit"] == "x"
    ids = [one["prediction_id"] for one in rollout.logged()]
    assert len(set(ids)) == 3
    counted = rollout.series()
    assert counted["new", True].requests == 1
    assert counted["champion", False].requests == 2
    traffic = running.meters.traffic("shadowed")
    assert (traffic.requests, traffic.predictions) == (2, 2)
    exposed = running.meters.exposition().decode()
    assert 'falaj_shadow_requests_total{endpoint="shadowed",variant="new"} 1' in exposed
    assert 'falaj_endpoint_requests_total{endpoint="shadowed",variant="new"}' not in exposed


def test_a_client_that_names_a_version_is_answered_beside_a_shadow_but_not_in_a_divided_rollout(
    running: Running,
) -> None:
    tensors = [
        {"name": name, "datatype": "FP32", "shape": [1], "data": [0.5]} for name in "abc"
    ] + [{"name": "who", "datatype": "BYTES", "shape": [1], "data": ["x"]}]

    def asked(rollout: Rollout) -> int:
        path = f"/v2/models/{rollout.name}/versions/1/infer"
        headers = {"authorization": "Bearer user:amina"}
        return running.client.post(path, headers=headers, json={"inputs": tensors}).status_code

    assert asked(Rollout(running, "named_shadow", bundle="sha256:x", shadow=True)) == 200
    assert asked(Rollout(running, "named_divided")) == 400


def test_a_shadow_that_fails_costs_no_answer(running: Running) -> None:
    rollout = Rollout(running, "failing_shadow", bundle="sha256:x", shadow=True)
    rollout.divided(1.0)
    rollout.asked(row(a=POISON))
    until(lambda: ("new", True) in rollout.series() and rollout.series()["new", True].failed == 1)
    rollout.asked(row())
    until(lambda: rollout.series()["new", True].requests == 1)
    traffic = running.meters.traffic("failing_shadow")
    assert (traffic.requests, traffic.failed) == (2, 0)


def test_a_shadow_that_hangs_delays_nobody_and_what_it_cannot_take_is_dropped(
    running: Running, brittle: Brittle
) -> None:
    rollout = Rollout(running, "hanging", bundle="sha256:x", shadow=True)
    rollout.asked(row())
    rollout.divided(1.0)
    brittle.gate.clear()
    try:
        many = [row(f"u{number}") for number in range(200)]
        n_requests = MOST_ROWS // 200 + 3
        for _ in range(n_requests):
            rollout.asked(*many)
        dropped = rollout.series()["new", True].dropped
        assert dropped == 3
    finally:
        brittle.gate.set()
    until(lambda: rollout.series()["new", True].requests == n_requests - 3)
    assert running.meters.traffic("hanging").shed == 0


def test_a_shadow_that_is_taken_out_does_not_run_on_what_waits(
    running: Running, brittle: Brittle
) -> None:
    rollout = Rollout(running, "stopped", bundle="sha256:x", shadow=True)
    rollout.asked(row())  # the model is warm
    rollout.divided(1.0)
    brittle.gate.clear()
    try:
        brittle.held.clear()
        rollout.asked(row())  # held up
        assert brittle.held.wait(10)
        rollout.asked(row())  # waits
        rollout.divided(0.0)
        rollout.asked(row())
    finally:
        brittle.gate.set()
    until(lambda: ("new", True) in rollout.series() and rollout.series()["new", True].requests > 0)
    time.sleep(0.05)
    assert rollout.series()["new", True].requests == 1


def test_a_release_without_a_rollout_writes_its_answers_as_before(running: Running) -> None:
    plain: Release = make_release("release_plain", endpoint="plain")
    running.activate(plain)
    inputs = {name: value for name, value in row().items() if name != "who"}
    answer = running.predict({"inputs": [inputs]}, endpoint="plain").json()
    assert set(answer["predictions"][0]) == {"id", "score"}
    running.plans.catch_up()
    assert running.plans.named("plain").assigner is None
    assert running.plans.named("plain").shadows == ()


def test_a_model_that_wakes_is_divided_as_the_table_says(running: Running) -> None:
    rollout = Rollout(running, "asleep")
    rollout.divided(1.0)
    assert rollout.asked(row())[0]["variant"] == "new"
    assert running.plans.sleep("asleep")
    rollout.divided(0.0)
    assert rollout.asked(row())[0]["variant"] == "champion"
    assert running.plans.sleep("asleep")
    rollout.divided(1.0)
    assert rollout.asked(row())[0]["variant"] == "new"


def test_a_release_that_cannot_be_loaded_holds_no_division_of_another_up(running: Running) -> None:
    broken = make_release("release_gone", endpoint="gone", bundle="sha256:gone")
    running.activate(broken)
    assert running.predict({"inputs": [row()]}, endpoint="gone").status_code >= 400
    rollout = Rollout(running, "beside")
    rollout.asked(row())
    opened = len(running.bundles.opened)
    for share in (1.0, 0.0, 1.0):
        rollout.divided(share)
        running.plans.switch()
        assert rollout.asked(row())[0]["variant"] == ("new" if share else "champion")
    assert len(running.bundles.opened) == opened


def test_old_rows_of_a_log_and_rows_with_the_mark_of_shadows_stand_in_one_table(
    tmp_path: Path, keyring: Any, ducklake: Any
) -> None:
    spool = DirectorySpools(tmp_path / "spool", keyring).open("predictions_delays")
    drain = PredictionDrain(tmp_path / "spool", keyring, ducklake)
    values: dict[str, Any] = dict.fromkeys(SCHEMA.names)
    new = pa.Table.from_pylist([{**values, "prediction_id": "n", "shadow": True}], schema=SCHEMA)
    old = new.drop_columns(["shadow"])
    for rows in (old, new, old):
        spool.append(rows)
        spool.flush()
        drain.run_once()
    marks = ducklake.scan("predictions_delays", columns=["shadow"]).column(0).to_pylist()
    assert sorted(marks, key=str) == [None, None, True]
