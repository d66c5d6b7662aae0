"""Which units met which variant, by the prediction log."""

from tests.rollouts.units import FEW, HALF, HOUR, START, everybody_back, half, minute


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
