"""Metrics that cannot be measured are refused when they are declared, or at the start."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from falaj.catalog.planning import Step
from falaj.rollouts.metricreview import MetricReview
from falaj.rollouts.metrics import MetricRefused
from falaj.rollouts.model import Challenger, Guardrail, Metric, Rollout
from falaj.rollouts.rights import check_measurable, check_tables
from falaj.testing.installations import Installation

GOOD = "SELECT unit, known_at, value FROM orders"
NONE = [
    f"{GOOD}; DROP TABLE orders",
    "DELETE FROM orders",
    "SELEC x",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r)"
    " SELECT n AS unit, now() AS known_at, 1 AS value FROM r",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT unit, known_at, value FROM customers",
    "SELECT known_at, value FROM orders",
    "SELECT unit, value FROM orders",
    "SELECT unit, known_at, value + 1 FROM orders",
    "SELECT unit, known_at FROM orders UNION ALL SELECT unit, known_at FROM orders",
]


def metric(sql, **more):
    return Metric(name="m", sql=sql, tables=("orders",), **more)


def reviewed(one):
    item = SimpleNamespace(kind="metric", name="m", step=Step.CREATE)
    return MetricReview()(None, [item], SimpleNamespace(get=lambda kind, name: one))


def rollout(**more):
    return Rollout(
        name="r",
        endpoint="shop",
        how="shadow" if more else "interleaved",
        segment=None if more else "city",
        challengers=(Challenger(name="new", version=2),),
        guardrails=(Guardrail(metric="m"),),
    )


@pytest.mark.parametrize("sql", NONE)
def test_a_text_that_is_no_metric_is_refused_with_the_plan_and_at_the_start(sql):
    with pytest.raises(MetricRefused):
        reviewed(metric(sql))
    with pytest.raises(MetricRefused):
        check_measurable(rollout(), lambda name: metric(sql))


@pytest.mark.parametrize(
    "sql",
    [
        GOOD,
        "SELECT * FROM orders",
        "SELECT o.unit, p.requested_at AS known_at, 1 AS VALUE FROM orders o"
        " JOIN predictions_shop p USING (unit)",
        f"WITH found AS ({GOOD}) SELECT * FROM found",
        f"{GOOD} UNION ALL {GOOD}",
        "SELECT unnest(whole) FROM orders",
    ],
)
def test_what_may_be_a_metric_is_planned(sql):
    assert len(reviewed(metric(sql))) == 1


def test_a_ratio_needs_a_denominator_and_a_shadow_a_variant():
    with pytest.raises(MetricRefused, match="denominator"):
        reviewed(metric(GOOD, measures="ratio"))
    with pytest.raises(MetricRefused, match="variant"):
        check_measurable(rollout(how="shadow"), lambda name: metric(GOOD))


def test_a_log_of_another_endpoint_is_refused_at_the_start():
    other = metric("SELECT unit, known_at, value FROM predictions_bank")
    reviewed(other)
    with pytest.raises(MetricRefused):
        check_measurable(rollout(), lambda name: other)


@pytest.mark.parametrize(
    "sql", ["SELECT * FROM {}", "SELECT unit, known_at, price AS value FROM {}",
            "SELECT unit, known_at, 'x' || unit AS known, value AS value FROM {}",
            "SELECT unit, value AS known_at, value FROM {}"]
)  # fmt: skip
def test_a_start_is_refused_if_the_tables_do_not_fit_or_are_not_there(ground, sql):
    one = Metric(name="m", sql=sql.format("orders"), tables=("orders",))
    with pytest.raises(MetricRefused, match="no such table"):
        check_tables(rollout(), lambda name: one, ground.lake)
    columns = {"unit": ["a"], "value": [1.0]}
    if "price" in sql:
        columns["known_at"] = pa.array([None], pa.timestamp("us", tz="UTC"))
    ground.lake.append("orders", pa.table(columns))
    with pytest.raises(MetricRefused, match="cannot be measured"):
        check_tables(rollout(), lambda name: one, ground.lake)


def test_a_start_is_allowed_where_tables_fit(ground):
    ground.happened(["a"], [1], pa.scalar(0, pa.timestamp("us", tz="UTC")).as_py())
    one = ground.metric("m")
    check_tables(rollout(), lambda name: one, ground.lake)


def test_plan_and_apply_refuse_it_at_the_door(tmp_path):
    installation = Installation(tmp_path)
    installation.init()
    with installation.near(stepped_up=True) as owner:
        for wrong in (owner.definitions.plan, owner.definitions.apply):
            with pytest.raises(MetricRefused, match="customers"):
                wrong([metric("SELECT unit, known_at, value FROM customers").document()])
        owner.definitions.plan([metric(GOOD).document()])
