"""Rollouts under live load: a good challenger wins, a worse one and a dead one are rolled back.

One `falaj up` with real workers. Passengers are asked about without a pause; which of them buy
is decided here, by the variant that each met. A worker is killed in the middle, and at the end
every answer stands in the prediction log.
"""

import os
import random
import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pyarrow as pa
import pytest

from falaj.catalog.model import Classification
from falaj.declare import (
    Challenger,
    Endpoint,
    Guardrail,
    Metric,
    Rollout,
    RolloutKind,
    Stage,
    Success,
)
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError
from falaj.serving.model import FieldType, RequestField
from falaj.testing.installations import Installation, eventually
from falaj.wiring.assembly import assemble

BOUGHT = Metric(
    name="bought", measures="proportion", tables=("purchases",),
    sql="SELECT unit, known_at, value FROM purchases",
)  # fmt: skip
OFFERS = Endpoint(
    name="offers", model="late", feature_service="delays", unit="passenger",
    fields=(RequestField(name="passenger", type=FieldType.STRING, nullable=True),),
)  # fmt: skip
ONE_SECOND = timedelta(seconds=1)
PREDICT = "/v1/endpoints/offers/predict"
STEPS = (
    Stage(share=0.2, hold=2 * ONE_SECOND, least_units=20),
    Stage(share=0.5, hold=2 * ONE_SECOND, least_units=40),
)


def rollout(name, version, **more):
    told = {"look_every": ONE_SECOND, "endpoint": "offers"} | more
    challenger = Challenger(name=name, version=version, share=0.5)
    return Rollout(name=f"try-{name}", challengers=(challenger,), **told)


class Passengers:
    """Asks about ever new passengers from a thread, and lets some of them buy."""

    def __init__(self, arena, buying, *, signal_of=lambda: random.gauss(0, 1), rows=20, every=0.1):
        self._arena, self._buying, self._signal = arena, buying, signal_of
        self._rows, self._every = rows, every
        self.answered, self.failed, self.met = 0, 0, {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped.set()
        self._thread.join()

    def _ask(self):
        arena, outcomes, told = self._arena, [], time.monotonic()
        with arena.people["bilal"].client(arena.installation.inference) as web:
            while not self._stopped.wait(self._every):
                rows = [
                    {"carrier": "WN", "signal": self._signal(), "passenger": arena.passenger()}
                    for _ in range(self._rows)
                ]
                try:
                    answer = web.post(PREDICT, json={"inputs": rows})
                except httpx.TransportError:
                    self.failed += 1
                    continue
                if answer.status_code != 200:
                    self.failed += 1
                    continue
                now = datetime.now(UTC)
                for row, said in zip(rows, answer.json()["predictions"], strict=True):
                    variant = said.get("variant", "champion")
                    self.met[variant] = self.met.get(variant, 0) + 1
                    buys = random.random() < self._buying.get(variant, 0.5)
                    outcomes.append((row["passenger"], now, float(buys)))
                self.answered += len(rows)
                if time.monotonic() > told + 0.5:
                    arena.purchased(outcomes)
                    outcomes, told = [], time.monotonic()


class Arena:
    """The running platform, its people, and the versions that are tried."""

    def __init__(self, folder, story):
        self.story, self._n, self._lock = story, 0, threading.Lock()
        self.installation = Installation(folder)
        self.installation.init()
        story.write_data(folder, n=900)
        with self.installation.near(stepped_up=True) as owner:
            self.invited = {
                "bilal": owner.accounts.invite("bilal", story.ENGINEER),
                "salma": owner.accounts.invite("salma", ["approver", "auditor"]),
            }
            owner.definitions.apply(story.documents())
            owner.definitions.apply(story.documents(OFFERS, BOUGHT))
        self.answered, self.n_versions, self.premises = 0, 0, None

    def begin(self):
        self.installation.up()
        self.people = {
            name: self.installation.enrolled(name, link.secret.get_secret_value())
            for name, link in self.invited.items()
        }
        self.premises = assemble(self.installation.settings, process="test")
        self._prepare()

    def platform(self, name="bilal"):
        return self.people[name].platform()

    def passenger(self):
        with self._lock:
            self._n += 1
            return f"passenger-{self._n}"

    def purchased(self, outcomes):
        units, times, values = zip(*outcomes, strict=True)
        stamps = pa.array(times, pa.timestamp("us", tz="UTC"))
        table = pa.table({"unit": list(units), "known_at": stamps, "value": list(values)})
        self.premises.lake.append("purchases", table)

    def close(self):
        if self.premises is not None:
            self.premises.close()
        self.installation.stop()

    def _prepare(self):
        story = self.story
        with self.platform() as engineer:
            for source in ("departures", "arrivals"):
                engineer.wait(engineer.sources.load(source))
            made = engineer.wait(engineer.training.prepare(story.SPEC)).result
            self.training_set = made["training_set"]
            with self.premises.calls.opened("test.prepare", "user:bilal") as call:
                self.premises.catalog.record(
                    call, AssetRef("table", "purchases"), classification=Classification.INTERNAL
                )
        self.brought("production")
        with self.platform() as engineer:
            engineer.endpoints.deploy("offers", activate=True)
        self.purchased([("nobody", datetime.now(UTC), 0.0)])

    def brought(self, to, *, breaks_at=np.inf):
        """A new version that says what all say: who sells is decided by the passengers."""
        self.n_versions += 1
        version, file = self.n_versions, f"model-{self.n_versions}.onnx"
        (self.installation.folder / file).write_bytes(made_model(1.3 + version / 1000, breaks_at))
        with self.platform() as engineer, self.platform("salma") as approver:
            engineer.wait(
                engineer.models.bring(
                    "late", file=file, model_format="onnx", inputs=[{"name": "signal"}],
                    training_set=self.training_set, trained_until=self.story.BEGIN,
                )
            )  # fmt: skip
            self.stage(engineer, approver, version, to)
        return version

    def stage(self, engineer, approver, version, to):
        engineer.wait(engineer.models.gates("late", version))
        change = engineer.models.promote("late", version, to=to, reason="It is to be tried.")
        approver.changes.approve(change.id, reason="The gates passed.")

    def started(self, declared):
        with self.platform() as engineer, self.platform("salma") as approver:
            engineer.definitions.apply([declared.document()])
            change = engineer.rollouts.start(declared.name, reason="It looks better.")
            approver.changes.approve(change.id, reason="Go.")

    def until(self, name, *states, seconds=150):
        """The run once it stands in one of these states and nothing is left to do at once."""

        def there():
            with self.platform() as engineer:
                try:
                    run = engineer.rollouts.show(name).run
                except FalajError as error:
                    if error.retryable:
                        return None
                    raise
            return run if run.state in states and run.step in ("await", "nothing") else None

        return eventually(there, seconds=seconds, every=0.2, what=f"{name} is {states}")

    def serving(self):
        with self.platform() as engineer:
            active = engineer.endpoints.status("offers").active
        return [one.version for one in active.variants]


def made_model(weight, breaks_at):
    """A model of made-up weights whose AUC is about 0.8; it fails at signals beyond a bound."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("IsNaN", ["x"], ["missing"]),
            helper.make_node("Where", ["missing", "table", "x"], ["known"]),
            helper.make_node("Mul", ["known", "weight"], ["raw"]),
            helper.make_node("Sigmoid", ["raw"], ["chance"]),
            helper.make_node("Abs", ["known"], ["size"]),
            helper.make_node("Div", ["size", "bound"], ["bounds"]),
            helper.make_node("Cast", ["bounds"], ["place"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "place"], ["found"]),
            helper.make_node("Add", ["chance", "found"], ["score"]),
        ],
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(np.array([weight], np.float32), "weight"),
            numpy_helper.from_array(np.array([breaks_at], np.float32), "bound"),
            numpy_helper.from_array(np.array([0], np.float32), "table"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model.SerializeToString()


@pytest.fixture(scope="module")
def arena(tmp_path_factory, story):
    made = Arena(tmp_path_factory.mktemp("arena") / "project", story)
    try:
        made.begin()
        yield made
    finally:
        made.close()


def every_answer_stands_in_the_log(arena):
    def logged():
        found = arena.premises.lake.query("SELECT count(*) AS n FROM predictions_offers")
        return found.to_pylist()[0]["n"] >= arena.answered

    eventually(logged, seconds=60, every=0.5, what="the log holds every answer")
    assert arena.premises.lake.query(
        "SELECT count(*) AS n, count(DISTINCT unit) AS units FROM predictions_offers"
    ).to_pylist() == [{"n": arena.answered, "units": arena.answered}]


def test_a_good_challenger_wins_and_is_promoted_though_a_worker_is_killed(arena):
    champion, good = arena.serving()[0], arena.brought("staging")
    arena.started(
        rollout("good", good, how=RolloutKind.AB, success=Success(metric="bought"),
                guardrails=(Guardrail(metric="bought"), Guardrail(metric="error_rate")))
    )  # fmt: skip
    with Passengers(arena, {"champion": 0.2, "good": 0.8}) as asked:
        eventually(lambda: asked.met.get("good", 0) > 100, seconds=30, what="units of both")
        killed = arena.installation.pid("worker")
        os.kill(killed, signal.SIGKILL)
        run = arena.until("try-good", "succeeded", "stopped", "rolled_back")
    arena.answered += asked.answered
    assert (run.state, run.outcome.winner) == ("succeeded", "good")
    assert arena.installation.pid("worker") != killed
    assert arena.serving() == [champion, good]  # until somebody has decided
    with arena.platform("salma") as approver:
        promotion = approver.changes.get(run.outcome.promotion)
        assert promotion.evidence["rollout"]["success"][0]["decided"] == "better"
        approver.changes.approve(promotion.id, reason="It pays.")
    eventually(lambda: arena.serving() == [good], seconds=20, what="the winner serves alone")
    every_answer_stands_in_the_log(arena)


@pytest.mark.nightly
def test_a_challenger_that_sells_a_tenth_less_is_rolled_back(arena):
    worse = arena.brought("staging")
    arena.started(rollout("worse", worse, stages=STEPS, guardrails=(Guardrail(metric="bought"),)))
    champion = arena.serving()[0]
    with Passengers(arena, {"champion": 0.9, "worse": 0.81}, rows=100, every=0.02) as asked:
        run = arena.until("try-worse", "succeeded", "stopped", "rolled_back")
        seen = dict(asked.met)
        eventually(lambda: asked.met["champion"] > seen["champion"] + 500, what="more passengers")
        assert asked.met["worse"] == seen["worse"]  # nobody meets it any more
    arena.answered += asked.answered
    assert (run.state, run.step) == ("rolled_back", "nothing")
    assert arena.serving() == [champion]
    with arena.platform("salma") as auditor:
        incident = auditor.incidents.get(run.outcome.incident)
        change = auditor.changes.get(run.outcome.emergency)
    assert str(incident.subject) == "endpoint:offers"
    assert (change.type, change.state) == ("emergency", "in_review")
    assert change.evidence["guardrails"][0]["breached"]
    assert change.evidence["samples"]["worse"]
    with arena.platform() as engineer, pytest.raises(FalajError, match="quarantine"):
        engineer.models.promote("late", worse, to="production", reason="All the same.")


def test_a_challenger_whose_model_fails_is_rolled_back_and_nobody_notices(arena):
    dead = arena.brought("staging", breaks_at=1e6)
    arena.started(rollout("dead", dead, stages=STEPS))
    with Passengers(arena, {}, signal_of=lambda: 5e6, rows=1, every=0.02) as asked:
        run = arena.until("try-dead", "succeeded", "stopped", "rolled_back")
        eventually(lambda: asked.met["champion"] > 100, what="more passengers")
    arena.answered += asked.answered
    assert (run.state, run.outcome.harmful) == ("rolled_back", ["dead"])
    assert "error_rate of dead" in run.why
    assert (asked.failed, set(asked.met)) == (0, {"champion"})  # which stood in for the dead one
    every_answer_stands_in_the_log(arena)
