"""What decides for a challenger, and what is told beside it."""

import numpy as np
import pytest
from tests.rollouts.units import converted, half, minute

from falaj.rollouts.model import Success


def test_a_group_sequential_design_looks_as_often_as_it_was_planned(ground):
    ground.metric("converted")
    success = Success(
        metric="converted", method="group_sequential", looks=2, most_units=4_000, effect=0.1
    )
    rollout = ground.rollout(success=success)
    units, variants = half(4_200)
    happened = converted(variants, {"champion": 0.3, "new": 0.3})
    for n, (start, stop) in enumerate([(0, 1_000), (1_000, 2_400), (2_400, 2_500), (2_500, 4_200)]):
        ground.predicted(units[start:stop], variants[start:stop], minute(n + 0.5))
        ground.happened(units[start:stop], happened[start:stop], minute(n + 0.5))
        [reading] = ground.look(rollout, n + 1).success
        assert (reading.low is None) == (n in (0, 2))
    assert reading.decided == "no_difference"
    assert len(ground.memory["progress"]["new"]["times"]) == 2


def test_not_worse_is_enough_where_it_is_declared_so(ground):
    ground.metric("converted")
    units, variants = half(8_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.5, "new": 0.5}), minute(5))
    for method in ("always_valid", "group_sequential"):
        ground.memory = {}
        success = Success(
            metric="converted", non_inferiority=0.2, method=method, looks=1, most_units=6_000
        )
        assert ground.look(ground.rollout(success=success)).success[0].decided == "not_worse"


def test_a_covariate_from_before_narrows_the_interval(ground):
    ground.metric("revenue", measures="mean")
    ground.metric(
        "before", measures="mean", sql=f"SELECT unit, known_at, value FROM {ground.outcomes}"
    )
    units, variants = half(3_000)
    rng = np.random.default_rng(10)
    habit = rng.exponential(10, 3_000)
    ground.predicted(units, variants, minute(10))
    ground.happened(units, habit, minute(-600))
    ground.happened(units, habit + rng.normal(0, 2, 3_000), minute(20))
    widths = []
    for covariate in (None, "before"):
        ground.memory = {}
        rollout = ground.rollout(success=Success(metric="revenue", covariate=covariate))
        [reading] = ground.look(rollout).success
        widths.append(reading.high - reading.low)
    assert widths[1] < widths[0] / 3


def test_a_segment_with_another_effect_is_told_and_decides_nothing(ground):
    ground.metric("converted")
    units, variants = half(8_000)
    rng = np.random.default_rng(11)
    country = rng.choice(["ae", "om", "qa"], 8_000)
    better = (np.array(variants) == "new") & (country == "om")
    ground.predicted(units, variants, minute(1), [{"country": str(one)} for one in country])
    ground.happened(
        units, (rng.random(8_000) < np.where(better, 0.45, 0.3)).astype(float), minute(2)
    )
    rollout = ground.rollout(success=Success(metric="converted", segments=("country",)))
    found = {one.value: one for one in ground.look(rollout).segments}
    assert found["om"].differs
    assert found["om"].estimate == pytest.approx(0.5, abs=0.2)
    assert set(found) == {"ae", "om", "qa"}


def test_chances_are_told_and_a_bandit_asks_for_shares(ground):
    ground.metric("converted")
    units, variants = half(2_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.1, "new": 0.2}), minute(5))
    look = ground.look(ground.rollout(how="bandit", floor=0.05))
    best = {one.variant: one.best for one in look.chances}
    assert best["new"] > 0.99
    assert look.weights == pytest.approx({"champion": 0.05, "new": 0.95})
    assert not ground.look(ground.rollout()).weights
