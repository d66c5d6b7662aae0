"""Whether units fall by the shares, also in layers and after changes."""

import numpy as np
import pytest
from tests.rollouts.units import converted, half, minute

from falaj.rollouts.model import Guardrail
from falaj.serving.assigning import layer_salt
from falaj.serving.assignment import position


def test_units_that_are_held_out_make_no_mismatch_and_those_elsewhere_in_the_layer_are_none(ground):
    ground.metric("converted")
    rng = np.random.default_rng(14)
    units = [f"u{k}" for k in range(6_000)]
    inside = np.array([position(layer_salt("page"), one) < 0.5 for one in units])
    challenged = inside & (rng.random(6_000) < 0.8) & (rng.random(6_000) < 0.5)
    met = np.where(challenged, "new", "champion").tolist()
    ground.predicted(units, met, minute(1))
    look = ground.look(ground.rollout(layer="page", layer_share=0.5, holdout=0.2))
    assert not look.mismatch
    assert sum(look.units.values()) == inside.sum()
    ground.memory = {}
    assert ground.look(ground.rollout()).mismatch


def test_the_challenger_of_another_rollout_of_the_layer_harms_no_comparison(ground):
    """Elsewhere in the layer another endpoint's challenger makes half of the units buy more."""
    ground.metric("converted")
    rng = np.random.default_rng(15)
    units = [f"u{k}" for k in range(12_000)]
    inside = np.array([position(layer_salt("page"), one) < 0.5 for one in units])
    challenged = rng.random(12_000) < 0.5
    met = np.where(inside & challenged, "new", "champion").tolist()
    bought = rng.random(12_000) < np.where(inside | ~challenged, 0.3, 0.6)
    ground.predicted(units, met, minute(1))
    ground.happened(units, bought.astype(float), minute(5))
    rollout = ground.rollout(
        how="canary", layer="page", layer_share=0.5, guardrails=(Guardrail(metric="converted"),)
    )
    look = ground.look(rollout)
    assert not look.breached
    assert look.guardrails[0].champion == pytest.approx(0.3, abs=0.03)


def test_a_mismatch_of_shares_is_told_and_then_nothing_of_units_is(ground):
    ground.metric("converted")
    units = [f"u{k}" for k in range(4_000)]
    variants = ["champion"] * 2_400 + ["new"] * 1_600
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.9, "new": 0.1}), minute(5))
    rollout = ground.rollout(guardrails=(Guardrail(metric="converted"),))
    look = ground.look(rollout)
    assert look.mismatch
    assert (look.success, look.breached) == ([], [])
    assert "did not get their shares" in look.guardrails[0].why


def test_units_from_before_the_present_shares_make_no_mismatch(ground):
    ground.metric("converted")
    rollout = ground.rollout(how="canary")
    first = {"champion": 0.9, "new": 0.1}
    rng = np.random.default_rng(2)
    early = [f"e{k}" for k in range(3_000)]
    ground.predicted(
        early, rng.choice(["champion", "new"], 3_000, p=[0.9, 0.1]).tolist(), minute(1)
    )
    assert not ground.look(rollout, 10, shares=first).mismatch
    units, variants = half(3_000)
    ground.predicted(units, variants, minute(30))
    assert not ground.look(rollout, 40, since=20).mismatch


def test_shares_that_change_twice_between_looks_deceive_nobody(ground):
    """At half of the units for ten minutes: taken for a hundredth, it would seem much harm."""
    ground.metric("complained", measures="events", better="lower")
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="complained"),))
    few, many, some = ({"champion": 1 - s, "new": s} for s in (0.01, 0.5, 0.25))
    units, variants = half(2_000)
    ground.look(rollout, 1, changes=[(0, few)])
    ground.predicted(units, variants, minute(12))
    ground.happened(units[::10], [1.0] * 200, minute(14))
    look = ground.look(rollout, 22, changes=[(0, few), (10, many), (20, some)])
    assert not look.mismatch
    assert look.units["new"] == variants.count("new")
    assert not look.breached
    assert [since for since, _ in ground.memory["stretches"]] == [
        round(minute(k).timestamp() * 1e6) for k in (0, 10, 20)
    ]


def test_units_are_counted_anew_once_a_mismatch_was_mended_and_the_rollout_resumed(ground):
    ground.metric("converted")
    rollout, equal = ground.rollout(how="canary"), {"champion": 0.5, "new": 0.5}
    lost = [f"l{k}" for k in range(3_000)]
    ground.predicted(lost, ["champion", "champion", "new"] * 1_000, minute(1))
    ground.judge._rests_from = 0.0  # what was said last is told again for a while
    assert ground.look(rollout, 10, changes=[(0, equal)]).mismatch
    units, variants = half(3_000)
    ground.predicted(units, variants, minute(30))
    assert not ground.look(rollout, 40, changes=[(0, equal), (20, equal)]).mismatch
