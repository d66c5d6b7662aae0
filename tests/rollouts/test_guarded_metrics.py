"""Guardrails of every kind of metric, and of groups."""

import numpy as np
import pytest
from tests.rollouts.units import half, minute

from falaj.rollouts.model import Guardrail


def test_revenue_and_ratios_are_guarded_as_well(ground):
    ground.metric("revenue", measures="mean")
    ground.metric(
        "clicks", measures="ratio",
        sql=f"SELECT unit, known_at, value, views AS denominator FROM {ground.outcomes}",
    )  # fmt: skip
    units, variants = half(4_000)
    rng = np.random.default_rng(5)
    lower = np.where(np.array(variants) == "new", 0.8, 1.0)
    views = rng.integers(1, 20, 4_000).astype(float)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, rng.exponential(10, 4_000) * lower, minute(5), views=views.tolist())
    rollout = ground.rollout(
        how="canary", guardrails=tuple(Guardrail(metric=m) for m in ("revenue", "clicks"))
    )
    guardrails = ground.look(rollout).guardrails
    assert [(one.breached, one.judged) for one in guardrails] == [(True, True)] * 2


@pytest.mark.parametrize(("n", "judged"), [(40, False), (2_000, True)])
@pytest.mark.parametrize("measures", ["proportion", "mean"])
def test_a_metric_of_few_units_is_measured_but_not_judged(ground, measures, n, judged):
    ground.metric("bought", measures=measures)
    units, variants = half(n)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, [1.0, 1.0, 0.0, 0.0] * (n // 4), minute(5))
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="bought"),))
    [reading] = ground.look(rollout).guardrails
    assert reading.n_champion
    assert reading.n_challenger
    assert reading.judged == judged


def test_counted_units_are_compared_exactly_whichever_way_is_better(ground):
    ground.metric("complained", measures="events", better="lower")
    ground.metric("bought", measures="events", better="higher")
    units, variants = half(2_000)
    ground.predicted(units, variants, minute(1))
    met = dict(zip(units, variants, strict=True))
    some = [u for u in units if met[u] == "new"][:60] + [u for u in units if met[u] != "new"][:10]
    ground.happened(some, [1.0] * 70, minute(5))
    rollout = ground.rollout(
        how="canary", guardrails=tuple(Guardrail(metric=m) for m in ("complained", "bought"))
    )
    complained, bought = ground.look(rollout).guardrails
    assert complained.breached
    assert complained.judged
    assert complained.n_champion + complained.n_challenger == 2_000  # those without one count
    assert not bought.breached
    swapped = [u for u in units if met[u] != "new"][10:400]
    ground.happened(swapped, [1.0] * 390, minute(6))
    assert ground.look(rollout, 61).guardrails[1].breached


def test_a_declared_quantile_is_guarded_by_a_frozen_threshold(ground):
    ground.metric("seconds", measures="quantile", better="lower", quantile=0.9)
    units, variants = half(6_000)
    slower = np.where(np.array(variants) == "new", 1.6, 1.0)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, np.random.default_rng(8).exponential(1, 6_000) * slower, minute(2))
    strict = ground.rollout(how="canary", guardrails=(Guardrail(metric="seconds"),))
    assert ground.look(strict).breached
    ground.memory = {}
    lax = ground.rollout(how="canary", guardrails=(Guardrail(metric="seconds", tolerated=1.0),))
    [reading] = ground.look(lax).guardrails
    assert not reading.breached
    assert reading.champion == pytest.approx(0.1, abs=0.002)


def test_a_challenger_that_treats_groups_unequally_breaches_fairness(ground):
    ground.metric("granted")
    units, variants = half(8_000)
    rng = np.random.default_rng(9)
    groups = rng.choice(["a", "b"], 8_000)
    rates = np.where((np.array(variants) == "new") & (groups == "b"), 0.3, 0.5)
    ground.predicted(units, variants, minute(1), [{"group": str(one)} for one in groups])
    ground.happened(units, (rng.random(8_000) < rates).astype(float), minute(2))
    fair = Guardrail(metric="granted", between="group", tolerated=0.05)
    [reading] = ground.look(ground.rollout(how="canary", guardrails=(fair,))).guardrails
    assert reading.breached
    assert reading.challenger_value == pytest.approx(0.2, abs=0.05)
    assert "'a' and 'b'" in reading.why
    ground.memory = {}
    lax = fair.model_copy(update={"tolerated": 0.3})
    assert not ground.look(ground.rollout(how="canary", guardrails=(lax,))).breached
