"""Units that a growing share moves, and those that come back."""

import numpy as np
import pyarrow as pa
import pytest
from tests.rollouts.units import FEW, HALF, START, converted, everybody_back, half, minute

from falaj.rollouts.effects import mean_effect
from falaj.rollouts.metrics import Asked
from falaj.rollouts.model import Guardrail, Success
from falaj.rollouts.pooled import pooled


def test_units_that_meet_a_challenger_as_its_share_grows_count_for_it_from_then_on(ground):
    """Nobody is new: harm of a fifth would be diluted, and never judged on more than 1 %."""
    ground.metric("converted")
    units, (first, then) = everybody_back(ground, 10_000)
    rates = {"champion": 0.3, "new": 0.24}
    ground.happened(units, converted(first, rates), minute(5))
    ground.happened(units, converted(then, rates, 2), minute(65))
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="converted"),))
    ground.look(rollout, 50, changes=[(0, FEW)])
    look = ground.look(rollout, 120, changes=[(0, FEW), (60, HALF)])
    assert look.units["new"] == (then == "new").sum()
    assert not look.mismatch
    assert look.breached
    [reading] = look.guardrails
    assert 1 - reading.challenger_value / reading.champion == pytest.approx(0.2, abs=0.04)


def test_what_a_unit_does_after_it_met_a_challenger_is_not_the_champions(ground):
    ground.metric("complained", measures="events", better="lower")
    units, (first, then) = everybody_back(ground, 4_000)
    moved = [u for u, a, b in zip(units, first, then, strict=True) if a != b]
    ground.happened(moved[:500], [1.0] * 500, minute(70))
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="complained"),))
    ground.look(rollout, 50, changes=[(0, FEW)])
    [reading] = ground.look(rollout, 120, changes=[(0, FEW), (60, HALF)]).guardrails
    assert reading.champion == 0
    assert reading.breached


def test_units_that_come_back_in_each_stretch_count_as_no_more_than_themselves(ground):
    ground.metric("revenue", measures="mean")
    habit = np.random.default_rng(17).exponential(10, 2_000)
    rollout, widths = ground.rollout(success=Success(metric="revenue")), []
    units, _ = everybody_back(ground, 2_000, (0.5, 0.5, 0.5), (0, 60, 120))
    changes = [(bound, HALF) for bound in (0, 60, 120)]
    for k in range(3):
        ground.happened(units, habit, minute(60 * k + 5))
        [reading] = ground.look(rollout, 60 * k + 50, changes=changes[: k + 1]).success
        widths.append(reading.high - reading.low)
    assert widths[2] == pytest.approx(widths[0], rel=0.02)  # not as of three times as many


def test_a_share_that_grows_finds_no_harm_in_habits(ground):
    """Each unit's figures are alike in all stretches, and nothing is harmed, in 60 rollouts."""
    z = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        places, habit = rng.random(400), rng.normal(10, 3, 400)
        exposures, values = [], []
        for n, share in enumerate((0.25, 0.4, 0.5)):
            new = places < share
            exposures += [(f"u{k}", "new" if new[k] else "champion", n) for k in range(400)]
            values += (habit + rng.normal(0, 1, 400)).tolist()
        z.append(_z(ground, exposures, values, f"revenue{seed}"))
    assert 0.75 < np.std(z) < 1.25
    assert abs(np.mean(z)) < 0.4


def _z(ground, rows, values, name):
    """The effect in standard errors, of exposures in three stretches with a value in each."""
    units, variants, stretches = (list(one) for one in zip(*rows, strict=True))
    at = [10 * n for n in stretches]
    exposures = pa.table({
        "unit": units, "variant": variants, "at_us": pa.array(at, pa.int64()),
        "until_us": pa.array([one + 10 for one in at], pa.int64()),
        "first_us": pa.array([0] * len(at), pa.int64()),
        "period": pa.array([0] * len(at), pa.int64()),
    })  # fmt: skip
    known = pa.array([one + 5 for one in at], pa.timestamp("us", tz="UTC"))
    ground.lake.append(name, pa.table({"unit": units, "known_at": known, "value": values}))
    metric = ground.metric(
        "revenue", measures="mean", sql=f"SELECT unit, known_at, value FROM {name}", tables=(name,)
    )
    found = ground.judge._metrics.sums(metric, "shop", exposures, START, Asked(bounds=[0, 10, 20]))
    return pooled(found.of("champion"), found.of("new"), mean_effect).effect.z


def test_a_share_that_grows_while_the_metric_falls_deceives_nobody(ground):
    """Pooled over all time the challenger would look 40 per cent worse than the champion."""
    ground.metric("converted")
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="converted"),))
    rng, share = np.random.default_rng(3), {"champion": 0.9, "new": 0.1}
    day = [f"d{k}" for k in range(5_000)]
    day_met = rng.choice(["champion", "new"], 5_000, p=[0.9, 0.1]).tolist()
    ground.predicted(day, day_met, minute(1))
    ground.happened(day, converted(day_met, {"champion": 0.3, "new": 0.3}), minute(2))
    ground.look(rollout, 10, shares=share)
    night, night_met = half(5_000)
    ground.predicted(night, night_met, minute(30))
    ground.happened(night, converted(night_met, {"champion": 0.1, "new": 0.1}, 7), minute(31))
    [reading] = ground.look(rollout, 60, since=20).guardrails
    assert not reading.breached
    assert reading.challenger_value == pytest.approx(reading.champion, rel=0.12)
