"""A column behind a model's features becomes personal: nothing tells its values any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from falaj.kernel.door import LocalDoor
from falaj.lake.sight import SeenInPart
from falaj.testing.world import BEGIN, training_spec

INPUT = {"signal": 0.25, "carrier": "AA"}
AT = BEGIN.replace(month=2).isoformat()


class Asking:
    """The owner of a platform with a model in production, with a purpose or without one."""

    def __init__(self, shipped: Any) -> None:
        self._shipped = shipped
        self.premises = shipped.premises
        self.world = shipped.world

    def __call__(self, action: str, /, *, purpose: str | None = None, **arguments: Any) -> Any:
        backend = self.premises.backend
        door = LocalDoor(backend, self._shipped.world.caller()).with_purpose(purpose)
        return door.call(backend.services.actions[action], arguments)

    def refusals(self, action: str) -> list[str]:
        """The codes with which the action was refused, as audited."""
        return list(self._shipped.refusals(action))


@pytest.fixture(scope="module")
def ask(shipped: Any) -> Iterator[Asking]:
    asking = Asking(shipped)
    asking.world.serving()
    shipped.facts = {"before": asking("endpoints.predict", name="late", inputs=[INPUT], at=AT)}
    asking("tables.classify", table="flights", columns={"delay": "personal"})
    yield asking


def test_features_of_it_are_read_with_a_purpose_alone(ask: Asking) -> None:
    with pytest.raises(SeenInPart, match="'delay'"):
        ask("features.read", name="delays", rows=[INPUT])
    assert ask.refusals("features.read")[-1] == "seen-in-part"
    assert ask("features.read", purpose="punctuality", name="delays", rows=[INPUT]).rows


def test_a_prediction_is_answered_and_its_explanation_is_not(ask: Asking) -> None:
    assert ask("endpoints.predict", name="late", inputs=[INPUT], at=AT).predictions
    with pytest.raises(SeenInPart, match="'delay'"):
        ask("endpoints.predict", name="late", inputs=[INPUT], at=AT, explain=True)
    told = ask(
        "endpoints.predict", purpose="punctuality", name="late", inputs=[INPUT], at=AT,
        explain=True,
    )  # fmt: skip
    assert "features" in told.model_dump_json()


def test_the_log_that_stood_before_tells_no_features(ask: Asking, shipped: Any) -> None:
    from falaj.serving.spools import PredictionDrain

    made = ask.premises
    PredictionDrain(made.spool_folder, made.keys, made.lake).run_once()
    prediction = shipped.facts["before"].predictions[0]["id"]
    traced = ask("endpoints.trace", prediction=prediction)
    assert traced.facts["features"] == "(not for you, as you stand)"
    assert traced.facts["fields"] == "(not for you, as you stand)"
    assert isinstance(traced.facts["score"], float)
    clear = ask("endpoints.trace", purpose="punctuality", prediction=prediction)
    assert clear.facts["features"]["recent__count_2d"] is not None
    rows = ask("tables.read", table="predictions_late").rows
    assert rows
    assert all(row["features"] is None and row["fields"] in (None, "***") for row in rows)


@pytest.mark.parametrize("how", ["spec", "training set"])
def test_nobody_trains_on_it_unawares(ask: Asking, how: str) -> None:
    made = {"spec": training_spec(), "training set": None}[how]
    request = {"model": "late", "spec": made} if made else {
        "model": "late", "training_set": ask.world.facts["training_set"]
    }  # fmt: skip
    with pytest.raises(SeenInPart):
        ask("training.train", request=request)


def test_a_scoring_does_not_carry_it_out(ask: Asking, tmp_path: Any) -> None:
    asked = {"name": "late", "table": "flights", "at": "at"}
    for more in ({}, {"parquet": "out.parquet"}):
        with pytest.raises(SeenInPart, match="score table:flights"):
            ask("endpoints.score", **asked, to="scores_delay", keys=["flight", "delay"], **more)
    job = ask("endpoints.score", **asked, to="scores_plain", keys=["flight"])
    assert job.kind == "endpoints.score"
    ask(
        "endpoints.score", purpose="punctuality", **asked, to="scores_delay",
        keys=["flight", "delay"],
    )  # fmt: skip
    ask.world.work()
    rows = ask("tables.read", table="scores_delay", limit=5).rows
    assert {row["delay"] for row in rows} == {None}
    assert None not in {row["flight"] for row in rows}
    assert None not in {
        row["delay"] for row in ask("tables.read", purpose="punctuality", table="scores_delay").rows
    }
