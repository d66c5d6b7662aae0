"""What may be declared and started, and metrics that are Python functions."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from falaj.kernel.errors import Forbidden, InvalidInput
from falaj.kernel.resources import TimeLimit
from falaj.rollouts.metricfunctions import LimitedFunctions, measured
from falaj.rollouts.metrics import MetricRefused
from falaj.rollouts.model import Challenger, Guardrail, Metric, Rollout, Success
from falaj.rollouts.planning_service import PlanningService
from falaj.rollouts.rights import check_may_measure, check_measurable

METRICS = {
    "converted": {"sql": "SELECT unit, known_at, value FROM outcomes"},
    "seconds": {"sql": "SELECT unit, known_at, value FROM outcomes", "measures": "quantile"},
    "clicks": {"sql": "SELECT * FROM outcomes", "measures": "ratio"},
    "scores": {
        "sql": "SELECT unit, requested_at AS known_at, score AS value FROM predictions_shop"
    },
    "others": {"sql": "SELECT unit, known_at, value FROM predictions_bank"},
}


def declared(name):
    return Metric(name=name, tables=("outcomes",), **METRICS[name])


def rollout(**more):
    more.setdefault("success", Success(metric="converted"))
    challengers = (Challenger(name="new", version=2),)
    return Rollout(name="r", endpoint="shop", challengers=challengers, **{"how": "ab", **more})


@pytest.mark.parametrize(
    "more",
    [
        {"guardrails": (Guardrail(metric="error_rate", between="sex"),)},
        {"guardrails": (Guardrail(metric="seconds", between="sex"),)},
        {"success": Success(metric="latency")},
        {"success": Success(metric="seconds")},
        {"success": Success(metric="clicks", covariate="converted")},
        {"guardrails": (Guardrail(metric="others"),)},
        {"how": "interleaved", "segment": "city",
         "guardrails": (Guardrail(metric="converted", between="sex"),)},
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_before_the_start(more):
    with pytest.raises(InvalidInput):
        check_measurable(rollout(**more), declared)


def test_whoever_starts_must_be_allowed_to_read_what_metrics_read():
    asked, cleared = [], []
    guarded = SimpleNamespace(check_clear=lambda call, table, columns, todo: cleared.append(table))
    tried = rollout(guardrails=(Guardrail(metric="scores"),))

    def may(call, action, ref):
        asked.append((action, ref.key))
        return ref.key != "predictions_shop"

    with pytest.raises(Forbidden, match="predictions_shop"):
        check_may_measure(None, tried, declared, guarded, may)
    assert asked[0][0] == "tables.read"
    check_may_measure(None, rollout(), declared, guarded, may)
    assert cleared == ["outcomes"]


def function(name):
    return Metric(name="m", function=name, tables=("outcomes",))


ROWS = pa.table({"unit": ["a"], "known_at": [None], "value": [2.0]})


@pytest.fixture
def importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def test_a_marked_function_runs_in_a_process_of_its_own(importable):
    found = LimitedFunctions(seconds=30)(function("marked:doubled"), {"outcomes": ROWS})
    assert found["value"].to_pylist() == [4.0]


def test_one_that_never_ends_is_ended(importable):
    with pytest.raises(TimeLimit):
        LimitedFunctions(seconds=1)(function("marked:endless"), {"outcomes": ROWS})


@pytest.mark.parametrize(
    "name", ["os:_exit", "subprocess:run", "marked:unmarked", "marked:wrong", "nowhere:at_all", ""]
)
def test_functions_that_nobody_marked_are_not_run(name, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROWS.schema) as writer:
        writer.write_table(ROWS)
    item = {"metric": "m", "function": name, "tables": {"t": bytes(sink.getvalue())}}
    with pytest.raises((MetricRefused, ValueError)):
        measured(item)


def test_a_judge_without_anybody_who_runs_functions_says_so(ground):
    ground.metric("m", sql=None, function="marked:doubled")
    ground.predicted(["a"], ["new"], ground_start())
    ground.happened(["a"], [1], ground_start())
    look = ground.look(ground.rollout(success=Success(metric="m")))
    assert "nothing runs those" in look.unmeasured


def ground_start():
    from datetime import UTC, datetime

    return datetime(2026, 5, 4, 8, 1, tzinfo=UTC)


def test_a_plan_says_units_and_days():
    service = PlanningService()
    found = service.size(effect=0.1, rate=0.1, units_a_day=10_000)
    assert found.units >= found.fixed_units >= found.expected_units
    assert found.days == pytest.approx(found.units / 10_000)
    sequence = service.size(effect=0.1, rate=0.1, method="always_valid", units_a_day=10_000)
    assert sequence.units > found.units
    assert sequence.expected_days is None
    money = service.size(effect=0.02, mean=40.0, deviation=90.0)
    assert money.difference == pytest.approx(0.8)
    for wrong in ({}, {"rate": 0.1, "mean": 3.0, "deviation": 1.0}, {"mean": 3.0}):
        with pytest.raises(InvalidInput):
            service.size(effect=0.1, **wrong)


FAIR = (Guardrail(metric="converted", between="sex"),)


@pytest.mark.parametrize(
    "more",
    [
        {"guardrails": FAIR},
        {"success": Success(metric="converted", segments=("sex",))},
        {"how": "interleaved", "segment": "sex"},
    ],
)
def test_whoever_tells_units_apart_by_request_fields_must_be_allowed_to_read_requests(more):
    cleared = []
    guarded = SimpleNamespace(check_clear=lambda call, table, columns, todo: cleared.append(table))
    with pytest.raises(Forbidden, match="sex of 'predictions_shop'"):
        check_may_measure(
            None, rollout(**more), declared, guarded, lambda _call, _do, ref: ref.key == "outcomes"
        )
    check_may_measure(None, rollout(**more), declared, guarded, lambda *_: True)
    assert set(cleared) == {"outcomes", "predictions_shop"}
