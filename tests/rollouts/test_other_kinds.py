"""What a look measures of interleaved rollouts and of shadows."""

from datetime import timedelta

import numpy as np
from tests.rollouts.units import HOUR, START, converted, minute

from falaj.rollouts.model import Guardrail


def test_an_interleaved_rollout_compares_whole_segments_and_periods(ground):
    ground.metric("converted")
    rng = np.random.default_rng(12)
    cities = [f"c{k}" for k in range(12)]
    level = {city: rng.uniform(0.2, 0.8) for city in cities}
    units, variants, at, fields, values = [], [], [], [], []
    for hour in range(6):
        for city in cities:
            variant = str(rng.choice(["champion", "new"]))
            units += [f"{city}-{hour}-{k}" for k in range(60)]
            variants += [variant] * 60
            at += [START + hour * HOUR + timedelta(minutes=5)] * 60
            fields += [{"city": city}] * 60
            rate = level[city] * (0.4 if variant == "new" else 1.0)
            values += (rng.random(60) < rate).astype(float).tolist()
    ground.predicted(units, variants, at, fields)
    ground.happened(units, values, at)
    rollout = ground.rollout(
        how="interleaved", segment="city", guardrails=(Guardrail(metric="converted"),)
    )
    [reading] = ground.look(rollout, 6 * 60 + 1).guardrails
    assert reading.n_champion + reading.n_challenger == 72  # clusters, not units
    assert reading.breached


def test_the_outcome_of_a_shadow_must_say_whose_it_is(ground):
    ground.metric("right", sql=f"SELECT unit, known_at, value, variant FROM {ground.outcomes}")
    units = [f"u{k}" for k in range(500)] * 2
    variants = ["champion"] * 500 + ["new"] * 500
    ground.predicted(units, variants, minute(1))
    right = converted(variants, {"champion": 0.9, "new": 0.6})
    ground.happened(units, right, minute(2), variant=variants)
    rollout = ground.rollout(how="shadow", guardrails=(Guardrail(metric="right"),))
    look = ground.look(rollout)
    assert look.units == {"champion": 500, "new": 500}
    assert look.breached
    ground.metric("right")
    assert "variant" in ground.look(rollout).unmeasured
