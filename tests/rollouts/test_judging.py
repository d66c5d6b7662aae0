"""What a look measures of units and concludes."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from falaj.rollouts.effects import mean_effect
from falaj.rollouts.metrics import Asked
from falaj.rollouts.model import Challenger, Guardrail, Success
from falaj.rollouts.pooled import pooled
from falaj.serving.assigning import layer_salt
from falaj.serving.assignment import position
from falaj.testing.clientsimulations import cells_of

START = datetime(2026, 5, 4, 8, tzinfo=UTC)  # as in the fixtures
HOUR = timedelta(hours=1)


def half(n, *, seed=0):
    """Units, and the variants that they meet, each with the same chance."""
    rng = np.random.default_rng(seed)
    return [f"u{k}" for k in range(n)], rng.choice(["champion", "new"], n).tolist()


def converted(variants, rates, seed=1):
    rng = np.random.default_rng(seed)
    return (rng.random(len(variants)) < [rates[one] for one in variants]).astype(float).tolist()


def minute(k):
    return START + timedelta(minutes=k)


def test_without_traffic_nothing_is_breached_and_nothing_decided(ground):
    ground.metric("converted")
    rollout = ground.rollout(
        guardrails=(Guardrail(metric="error_rate"), Guardrail(metric="converted")),
    )
    for minutes in (0, 1, 600):
        look = ground.look(rollout, minutes)
        assert (look.breached, look.success, look.mismatch) == ([], [], False)
        assert look.units == {"champion": 0, "new": 0}


def test_a_challenger_that_converts_better_is_found_better(ground):
    ground.metric("converted")
    units, variants = half(6_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.10, "new": 0.15}), minute(5))
    look = ground.look(ground.rollout(success=Success(metric="converted", effect=0.3)))
    [reading] = look.success
    assert reading.decided == "better"
    assert 0 < reading.low < reading.estimate < reading.high
    assert reading.n_champion + reading.n_challenger == 6_000
    assert look.units["new"] == variants.count("new")


def test_and_what_was_decided_stays_decided(ground):
    test_a_challenger_that_converts_better_is_found_better(ground)
    units = [f"later{k}" for k in range(6_000)]
    ground.predicted(units, ["champion", "new"] * 3_000, minute(70))
    ground.happened(units, [1.0, 0.0] * 3_000, minute(75))
    rollout = ground.rollout(success=Success(metric="converted", effect=0.3))
    assert ground.look(rollout, 80).success[0].decided == "better"


def test_a_challenger_that_converts_worse_breaches_its_guardrail(ground):
    ground.metric("converted")
    units, variants = half(4_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.2, "new": 0.1}), minute(5))
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="converted"),))
    [reading] = ground.look(rollout).guardrails
    assert reading.breached
    assert reading.error == 0.05
    assert 0 < reading.worse_by < 0.5
    assert "worse than the champion by at least" in reading.why


def test_and_breaches_nothing_if_so_much_is_tolerated(ground):
    ground.metric("converted")
    units, variants = half(4_000)
    ground.predicted(units, variants, minute(1))
    ground.happened(units, converted(variants, {"champion": 0.2, "new": 0.15}), minute(5))
    rollout = ground.rollout(
        how="canary", guardrails=(Guardrail(metric="converted", tolerated=0.3),)
    )
    assert not ground.look(rollout).breached


def test_the_error_is_shared_over_all_guardrails_and_challengers(ground):
    ground.metric("converted")
    ground.predicted(["a", "b"], ["champion", "new"], minute(1))
    ground.happened(["a", "b"], [0, 1], minute(1))
    rollout = ground.rollout(
        how="canary",
        challengers=tuple(Challenger(name=n, version=2, share=0.25) for n in ("new", "other")),
        guardrails=tuple(Guardrail(metric=m) for m in ("error_rate", "latency", "converted")),
        guardrail_error=0.06,
        success=Success(metric="converted"),
    )
    readings = ground.look(rollout, shares={"champion": 0.5, "new": 0.25, "other": 0.25}).guardrails
    assert [one.error for one in readings] == pytest.approx([0.01] * 6)
    assert {one.challenger for one in readings} == {"new", "other"}


def test_a_unit_counts_for_the_challenger_that_it_met_whoever_answered_for_it_before(ground):
    ground.metric("converted")
    ground.predicted(["a", "a", "a", "b"], ["new", "champion", "champion", "champion"],
                     [minute(3), minute(2), minute(9), minute(1)])  # fmt: skip
    ground.predicted(["a"], ["new"], START - HOUR)  # before the rollout
    ground.happened(["a", "b"], [1, 1], minute(10))
    assert ground.look(ground.rollout()).units == {"champion": 1, "new": 1}


def test_what_another_release_answered_is_no_exposure(ground):
    ground.metric("converted")
    ground.predicted(["a", "b"], ["champion", "champion"], minute(1), release="rel_before")
    ground.predicted(["b"], ["new"], minute(2))
    assert ground.look(ground.rollout()).units == {"champion": 0, "new": 1}
    ground.predicted(["c"], ["champion"], minute(3), release="rel_before")
    assert ground.look(ground.rollout(), 61).units == {"champion": 0, "new": 1}


def test_an_outcome_before_the_exposure_does_not_count_and_a_late_one_does(ground):
    ground.metric("converted")
    units, variants = half(400)
    ground.predicted(units, variants, minute(10))
    ground.happened(units, [1.0] * 400, minute(9))
    rollout = ground.rollout()
    assert ground.look(rollout, 20).success[0].n_champion == 0
    ground.happened(units[:300], [0.0] * 300, START + 90 * HOUR)
    assert ground.look(rollout, 60).success[0].n_champion == 0  # not known by then
    [late] = ground.look(rollout, 100 * 60).success
    assert late.n_champion + late.n_challenger == 300


def test_rows_of_the_log_that_come_late_are_read_at_the_next_look(ground):
    ground.metric("converted")
    ground.predicted(["a"], ["champion"], minute(5))
    rollout = ground.rollout()
    assert ground.look(rollout, 10).units == {"champion": 1, "new": 0}
    ground.predicted(["a", "b"], ["new", "champion"], minute(2))  # from a slower worker
    assert ground.look(rollout, 11).units == {"champion": 1, "new": 1}


def test_rows_that_were_read_before_a_change_of_shares_was_known_are_placed_behind_it(ground):
    ground.metric("converted")
    _, (first, then) = everybody_back(ground, 2_000)
    rollout = ground.rollout(how="canary")
    ground.look(rollout, 62, changes=[(0, FEW)])  # the change came while it was looked at
    look = ground.look(rollout, 63, changes=[(0, FEW), (60, HALF)])
    assert look.units == {"champion": (first == "champion").sum(), "new": (then == "new").sum()}
    assert not look.mismatch


def test_nothing_is_an_exposure_while_a_change_of_shares_spreads(ground):
    ground.metric("converted")
    units, variants = half(3_000)
    ground.predicted([f"s{k}" for k in range(900)], ["champion"] * 900, START + HOUR / 3600)
    ground.predicted(units, variants, minute(1))
    look = ground.look(ground.rollout())
    assert sum(look.units.values()) == 3_000
    assert not look.mismatch


def test_a_process_that_starts_anew_finds_the_same_units(ground):
    ground.metric("converted")
    ground.predicted(*half(50), minute(5))
    rollout = ground.rollout()
    before = ground.look(rollout, 10).units
    ground.judge.forget(f"rol_{ground.endpoint}")
    assert ground.look(rollout, 11).units == before


def test_rows_without_a_unit_count_where_nobody_is_assigned_by_it(ground):
    ground.predicted([None, None, None], ["new", "champion", "champion"], minute(1))
    assert ground.look(ground.rollout(how="canary")).units == {"champion": 0, "new": 0}
    ground.memory = {}
    ground.judge.forget(f"rol_{ground.endpoint}")
    assert ground.look(ground.rollout(how="shadow")).units == {"champion": 2, "new": 1}


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


def test_errors_that_tell_enough_wait_for_no_declared_metric(ground):
    ground.metric("converted", sql="SELECT nothing FROM nowhere")
    rollout = ground.rollout(
        how="canary", guardrails=(Guardrail(metric="error_rate"), Guardrail(metric="converted"))
    )
    ground.look(rollout, 0)
    ground.predicted(["a"], ["new"], minute(1))
    ground.happened(["a"], [1], minute(1))
    ground.counted = {"champion": cells_of(90), "new": cells_of(0, 20)}
    assert [one.metric for one in ground.look(rollout, 2).breached] == ["error_rate"]


def test_a_slow_metric_rests_and_what_it_said_is_told_meanwhile(ground, monkeypatch):
    ground.metric("converted")
    now = [0.0]

    def clock():
        now[0] += 2.0  # each look seems to take two seconds
        return now[0]

    monkeypatch.setattr("falaj.rollouts.judging.monotonic", clock)
    ground.judge._rests_from = 1.0
    rollout = ground.rollout(how="canary", guardrails=(Guardrail(metric="converted"),))
    ground.predicted(["a"], ["new"], minute(1))
    assert ground.look(rollout, 2).units["new"] == 1
    ground.predicted(["b"], ["new"], minute(2))
    again = ground.look(rollout, 3)
    assert again.units["new"] == 1
    assert [one.metric for one in again.guardrails] == ["converted"]
    now[0] += 100
    assert ground.look(rollout, 4).units["new"] == 2


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


FEW, HALF = {"champion": 0.99, "new": 0.01}, {"champion": 0.5, "new": 0.5}


def everybody_back(ground, n, shares=(0.01, 0.5), bounds=(0, 60)):
    """The same units are seen in each stretch; what they meet there, and when."""
    units, places = [f"u{k}" for k in range(n)], np.random.default_rng(16).random(n)
    met = []
    for share, bound in zip(shares, bounds, strict=True):
        met.append(np.where(places < share, "new", "champion"))
        ground.predicted(units, met[-1].tolist(), minute(bound + 1))
    return units, met


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
    assert [one.breached for one in ground.look(rollout).guardrails] == [True, True]


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


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT 1 AS unit; DROP TABLE x",
        "COPY (SELECT 1) TO '/tmp/out.csv'",
        "ATTACH '/tmp/other.db'",
        "PRAGMA database_list",
        "SELECT unit, known_at, value FROM secrets",
        "SELECT unit, known_at, value FROM rollout_exposures",
        "SELECT unit, known_at, value FROM metric_values",
        "WITH unit_values AS (SELECT 1) SELECT * FROM unit_values",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r)"
        " SELECT n AS unit, now() AS known_at, 1 AS value FROM r",
        "SELECT unit, known_at, value FROM {outcomes}) UNION ALL (SELECT 1, now(), 2",
        "SELECT unit FROM {outcomes} -- no value",
        "SELECT getenv('HOME') AS unit, now() AS known_at, 1 AS value",
        "SELECT unit, known_at, value + 7 AS value FROM {outcomes}",
    ],
)
def test_hostile_and_wrong_texts_are_refused(real_ground, sql):
    real_ground.metric("converted", sql=sql.format(outcomes=real_ground.outcomes))
    look = real_ground.look(real_ground.rollout())
    assert look.unmeasured.startswith("The metric 'converted' ")
    assert look.success == []


def test_a_text_that_never_ends_is_ended(real_ground):
    real_ground.judge._metrics._seconds = 0.3
    real_ground.metric(
        "converted",
        sql="SELECT max(hash(a.range, b.range, c.range)) AS unit, 1 AS value,"
        " TIMESTAMPTZ '2026-05-04 08:30:00+00' AS known_at"
        " FROM range(1000000) a, range(1000000) b, range(1000000) c",
    )
    assert "longer than" in real_ground.look(real_ground.rollout()).unmeasured
    real_ground.judge._metrics._seconds = 30


def test_a_lake_with_files_and_erasures_is_read_by_what_is_new(real_ground):
    """The same as above over memory, on the lake that is shipped."""
    ground = real_ground
    ground.metric("converted")
    rollout = ground.rollout(success=Success(metric="converted", segments=("country",)))
    before = ground.look(rollout, 10).units
    ground.predicted(["late", "later"], ["champion", "new"], minute(0.5))
    assert ground.look(rollout, 11).units == {"champion": 1, "new": before["new"] + 1}
    kept = ground.lake.scan(f"predictions_{ground.endpoint}")
    ground.lake.replace(f"predictions_{ground.endpoint}", kept.slice(0, 1))  # some are erased
    assert sum(ground.look(rollout, 12).units.values()) == 1
