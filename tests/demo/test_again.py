"""The demo retrains itself inside of what was permitted, and plays passengers as it says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from falaj.demo import tried
from falaj.demo.again import NO_WORSE_BY, retraining, template
from falaj.demo.definitions.training import flight_retraining, newest
from falaj.demo.running import Answered
from falaj.kernel.call import AssetRef
from falaj.rollouts.model import CHAMPION

DECEMBER = datetime(2013, 12, 31, 22, tzinfo=UTC)


def test_the_newest_month_tests_and_the_one_before_decides_when_to_stop() -> None:
    asked = [DECEMBER - timedelta(days=day) for day in (40, 0, 90)]
    given = {"label": "late"}
    found = newest(pa.table({"asked_at": asked}), given)
    assert found["label"] == "late"
    assert datetime.fromisoformat(found["split"]["validation_until"]) == DECEMBER - timedelta(31)
    assert datetime.fromisoformat(found["split"]["train_until"]) == DECEMBER - timedelta(62)


def test_the_retraining_runs_the_declared_pipeline_on_the_features_of_the_model() -> None:
    plan: Any = SimpleNamespace(outputs=("desk_departures__late_7d", "flight_id"))
    made = retraining(plan)
    assert made.pipeline == flight_retraining.name
    assert set(made.parameters) <= set(flight_retraining.parameters)
    assert made.standard is not None
    assert made.standard.template == template().name


@pytest.mark.parametrize(
    ("low", "same", "n_today", "outside"),
    [
        (-NO_WORSE_BY, True, 0, 0),
        (-NO_WORSE_BY - 0.001, True, 0, 1),
        (0.01, False, 0, 1),
        (0.01, True, 1, 1),
    ],
)
def test_the_template_permits_one_version_a_day_that_is_no_worse(
    low: float, same: bool, n_today: int, outside: int
) -> None:
    told = {"difference": {"low": low}, "same_feature_service": True, "same_contract": same}
    broken = template().broken(
        "model_promotion", AssetRef("model_version", "flight-delay/2"),
        {"evidence": {"retraining": told}, "payload": {}}, now=DECEMBER, n_today=n_today,
    )  # fmt: skip
    assert len(broken) == outside


def test_each_passenger_is_new_and_what_is_played_hangs_on_the_variant_alone() -> None:
    class Questions:
        bodies: list[Any]

        def ask(self, bodies: list[Any]) -> list[Answered]:
            self.bodies = bodies
            variant = {0: CHAMPION, 1: tried.CHALLENGER}
            return [
                Answered(one["request_id"], "pred", 0.5, 0.001, variant[place % 2])
                for place, one in enumerate(bodies)
            ]

    written: list[pa.Table] = []
    lake = SimpleNamespace(
        exists=lambda _table: True, append=lambda _table, rows: written.append(rows)
    )
    row = dict.fromkeys(tried.REQUEST_COLUMNS, 1) | {"flight_id": "f", "asked_at": "2013-12-31"}
    questions: Any = Questions()
    premises: Any = SimpleNamespace(lake=lake)
    passengers = tried.Passengers(questions, premises, [row])
    met = passengers.advised(4_000)
    assert met == {CHAMPION: 2_000, tried.CHALLENGER: 2_000}
    units = written[0].column("unit").to_pylist()
    assert len(set(units)) == 4_000
    assert [one["inputs"][0]["advised"] for one in questions.bodies] == units
    rates = {name: passengers.caught[name] / 2_000 for name in met}
    assert rates == pytest.approx(tried.CATCHES, abs=0.04)
