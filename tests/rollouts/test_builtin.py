"""Errors and latency, from what workers count."""

import numpy as np
import pytest

from falaj.rollouts import builtin
from falaj.rollouts.builtin import dispersion
from falaj.rollouts.model import Guardrail, Stage
from falaj.rollouts.readings import Counter, Tally, bucket_above
from falaj.serving.counted import BUCKETS, histogram, upper_of
from falaj.serving.unitcounts import ERRED_ROW, UNIT_BUCKETS
from falaj.testing.clientsimulations import Clients, cells_of, found_after

ERRORS = (Guardrail(metric="error_rate"),)
LATENCY = (Guardrail(metric="latency", tolerated=0.25),)


def slow(rng, n, factor=1.0):
    """The latency of answers, as the meters tell it: around 10 ms, with a long tail."""
    return histogram((rng.lognormal(-4.6, 0.5, n) * factor).astype(np.float32))


def count(ground, variant, requests=0, failed=0, **more):
    """Count more of a variant."""
    kept = ground.counted.get(variant, 0)
    ground.counted[variant] = kept + cells_of(requests, failed, **more)


def spread(events, requests):
    """A tally in which each request comes from a unit of its own, as far as buckets go."""
    even = [np.diff(np.arange(UNIT_BUCKETS + 1) * n // UNIT_BUCKETS) for n in (events, requests)]
    return Tally(*even)


def frozen_bucket(ground):
    """The bucket of the champion's latency that the looks have frozen."""
    return ground.memory["builtin"]["latency/new"]["bucket"]


def canary(ground, guardrails):
    return ground.rollout(how="canary", guardrails=guardrails, stages=(Stage(share=0.1),))


def test_what_was_counted_before_the_rollout_does_not_count(ground):
    count(ground, "champion", 1_000)
    count(ground, "new", 1_000, 900)
    rollout = canary(ground, ERRORS)
    [reading] = ground.look(rollout, 0).guardrails
    assert (reading.n_challenger, reading.breached) == (0, False)
    count(ground, "new", 10)
    count(ground, "champion", 90)
    [reading] = ground.look(rollout, 1).guardrails
    assert (reading.n_challenger, reading.n_champion) == (10, 90)


def test_a_dead_challenger_is_found_by_its_first_failures(ground):
    rollout = canary(ground, ERRORS)
    ground.look(rollout, 0)
    count(ground, "champion", 90)
    count(ground, "new", 0, 10)
    [reading] = ground.look(rollout, 0.2).guardrails
    assert reading.breached
    assert reading.challenger_value == 1.0
    assert reading.worse_by > 1


def test_one_client_that_tries_again_a_few_times_is_no_dead_challenger(ground):
    rollout = canary(ground, ERRORS)
    ground.look(rollout, 0)
    count(ground, "champion", 900)
    count(ground, "new", 70)
    count(ground, "new", 0, 30, bucket=7)
    assert not ground.look(rollout, 1).breached
    ground.counted, ground.memory = {}, {}
    ground.look(rollout, 0)
    count(ground, "champion", 900)
    count(ground, "new", 70, 30)
    assert ground.look(rollout, 1).breached


def test_errors_that_both_have_alike_are_no_harm_at_any_share(ground):
    rng = np.random.default_rng(1)
    rollout = canary(ground, ERRORS)
    ground.look(rollout, 0)
    for minutes, share in enumerate([0.01, 0.1, 0.5, 0.1] * 10, 1):
        n = rng.binomial(2_000, share)
        rate = rng.choice([0.001, 0.05, 0.4])  # an outage that meets everybody
        for name, requests in (("new", n), ("champion", 2_000 - n)):
            failed = int(rng.binomial(requests, rate))
            count(ground, name, requests - failed, failed)
        assert not ground.look(rollout, minutes).breached


def test_a_challenger_that_has_all_traffic_is_compared_with_nobody(ground):
    rollout = canary(ground, ERRORS)
    ground.look(rollout, 0)
    count(ground, "new", 50, 50)
    assert not ground.look(rollout, 1).breached


def test_counters_that_begin_anew_count_from_the_look_that_sees_it(ground):
    rollout = canary(ground, ERRORS)
    count(ground, "champion", 500, 50)
    count(ground, "new", 50, 5)
    ground.look(rollout, 0)
    ground.counted = {}
    count(ground, "champion", 90, 1)
    count(ground, "new", 10, 1)
    [reading] = ground.look(rollout, 1).guardrails
    assert (reading.n_champion, reading.n_challenger) == (0, 0)
    count(ground, "champion", 90, 1)
    count(ground, "new", 10, 1)
    [reading] = ground.look(rollout, 2).guardrails
    assert (reading.n_champion, reading.n_challenger) == (91, 11)


def test_failures_from_before_the_rollout_are_no_evidence_after_some_counts_were_lost(ground):
    rollout = canary(ground, ERRORS)
    count(ground, "champion", 5_000)
    count(ground, "new", 500, 500)
    before = dict(ground.counted)
    count(ground, "champion", 90)
    count(ground, "new", 10)
    ground.look(rollout, 0)
    ground.counted = before  # what was written last did not reach the disk
    [reading] = ground.look(rollout, 1).guardrails
    assert (reading.n_champion, reading.n_challenger, reading.breached) == (0, 0, False)


def test_a_challenger_that_is_slower_than_is_tolerated_is_found(ground):
    rng = np.random.default_rng(2)
    rollout = canary(ground, LATENCY)
    ground.look(rollout, 0)
    for minutes in range(1, 40):
        count(ground, "champion", 2_700, latency=slow(rng, 2_700))
        count(ground, "new", 300, latency=slow(rng, 300, 2.0))
        look = ground.look(rollout, minutes)
        if look.breached:
            break
    assert minutes <= 12
    assert "slower than" in look.guardrails[0].why


def test_and_one_that_is_no_slower_than_that_is_not(ground):
    rng = np.random.default_rng(3)
    rollout = canary(ground, LATENCY)
    ground.look(rollout, 0)
    for minutes in range(1, 40):
        count(ground, "champion", 2_700, latency=slow(rng, 2_700))
        count(ground, "new", 300, latency=slow(rng, 300, 1.2))
        assert not ground.look(rollout, minutes).breached


@pytest.mark.parametrize(("bucket", "found"), [(3, False), (None, True)])
def test_slow_requests_of_one_client_are_no_slow_challenger_but_of_many_they_are(
    ground, bucket, found
):
    rng = np.random.default_rng(12)
    rollout = canary(ground, LATENCY)
    ground.look(rollout, 0)
    breached = False
    for minutes in range(1, 40):
        count(ground, "champion", latency=slow(rng, 2_700))
        count(ground, "new", latency=slow(rng, 290))
        count(ground, "new", latency=slow(rng, 10, 50.0), bucket=bucket, first=minutes)
        breached = breached or bool(ground.look(rollout, minutes).breached)
    assert breached == found


def test_before_the_champion_has_answered_a_thousand_there_is_no_threshold(ground):
    rng = np.random.default_rng(4)
    rollout = canary(ground, LATENCY)
    ground.look(rollout, 0)
    count(ground, "champion", 900, latency=slow(rng, 900))
    count(ground, "new", 100, latency=slow(rng, 100, 50.0))
    [reading] = ground.look(rollout, 1).guardrails
    assert not reading.breached
    assert "fewer than 1000" in reading.why


def test_answers_from_before_the_rollout_choose_no_threshold_after_some_counts_were_lost(ground):
    rng = np.random.default_rng(14)
    rollout = canary(ground, LATENCY)
    count(ground, "champion", latency=slow(rng, 5_000, 40.0))
    before = dict(ground.counted)
    count(ground, "champion", latency=slow(rng, 100))
    ground.look(rollout, 0)
    ground.counted = before  # what was written last did not reach the disk
    [reading] = ground.look(rollout, 1).guardrails
    assert "fewer than 1000" in reading.why
    count(ground, "champion", latency=slow(rng, 2_000))
    count(ground, "new", latency=slow(rng, 200))
    ground.look(rollout, 2)
    assert upper_of(frozen_bucket(ground)) < 0.1  # not that of 40 times the latency


def test_a_frozen_threshold_of_latency_survives_that_all_counts_were_lost(ground):
    rng = np.random.default_rng(15)
    rollout = canary(ground, LATENCY)
    ground.look(rollout, 0)
    count(ground, "champion", latency=slow(rng, 2_000))
    ground.look(rollout, 1)
    frozen = frozen_bucket(ground)
    ground.counted = {}
    count(ground, "champion", latency=slow(rng, 100))
    ground.look(rollout, 2)
    for minutes in range(3, 20):
        count(ground, "champion", latency=slow(rng, 2_700, 3.0))
        count(ground, "new", latency=slow(rng, 300, 2.0))
        look = ground.look(rollout, minutes)
        assert not look.breached
    assert frozen_bucket(ground) == frozen
    assert look.guardrails[0].n_challenger == 17 * 300  # all since the look that saw the loss
    assert look.guardrails[0].judged


def test_slowness_in_clumps_is_not_taken_for_harm():
    """Runs of 16 requests are slow together, of both alike: 16 times the variance."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(40):
        memory = builtin.begin()
        memory.update(bucket=100, challenger_bucket=100)
        for _ in range(120):
            new = spread(min(16 * rng.poisson(0.5), 300), 300)
            old = spread(16 * rng.poisson(4.5), 2_700)
            reading = builtin.weighed(LATENCY[0], "new", memory, old, new, 0.05)
            if reading.breached:
                wrong += 1
                break
    assert wrong <= 6


def test_failures_in_clumps_are_seldom_taken_for_harm_before_their_spread_is_known():
    """In each look a variant fails more or less often: twice the variance, of both alike."""
    rng, wrong = np.random.default_rng(3), 0
    for _ in range(150):
        memory = builtin.begin()
        for _ in range(7):
            rates = 0.02 * rng.gamma(10, 1 / 10, 2)
            old, new = (
                Tally(rng.binomial(n, rate), n)
                for n, rate in zip(
                    (rng.poisson(18, UNIT_BUCKETS), rng.poisson(2, UNIT_BUCKETS)),
                    rates,
                    strict=True,
                )
            )
            if builtin.weighed(ERRORS[0], "new", memory, old, new, 0.05).breached:
                wrong += 1
                break
    assert wrong <= 8


def test_one_bad_look_does_not_hide_a_slow_challenger():
    assert dispersion([0.4] * 20 + [500.0]) == 1.0
    assert dispersion([9.0] * 20) > 10


def test_an_interleaved_challenger_is_compared_by_whole_periods(ground):
    rng = np.random.default_rng(6)
    rollout = ground.rollout(how="interleaved", segment="city", guardrails=ERRORS)
    ground.look(rollout, 0)
    for hour in range(40):
        # The segments that a variant has this hour fail ten times as often, or not.
        for name in ("champion", "new"):
            rate = rng.choice([0.01, 0.1])
            count(ground, name, 1_000, int(rng.binomial(1_000, rate)))
        assert not ground.look(rollout, 60 * hour + 30).breached
    for hour in range(40, 120):
        count(ground, "champion", 1_000, 30)
        count(ground, "new", 1_000, 300)
        if ground.look(rollout, 60 * hour + 30).breached:
            break
    else:
        pytest.fail("ten times the errors were not found")


@pytest.mark.parametrize("champion_fails", [0, 1])
def test_an_interleaved_challenger_that_fails_is_found_though_the_champion_hardly_ever_does(
    ground, champion_fails
):
    rng = np.random.default_rng(16)
    rollout = ground.rollout(how="interleaved", segment="city", guardrails=ERRORS)
    ground.look(rollout, 0)
    count(ground, "champion", 0, champion_fails)
    for hour in range(25):
        count(ground, "champion", 1_000)
        count(ground, "new", 1_000, int(rng.binomial(1_000, rng.choice([0.02, 0.4]))))
        look = ground.look(rollout, 60 * hour + 30)
    assert look.breached
    assert look.guardrails[0].judged


def test_failures_in_a_few_periods_alone_are_neither_harm_nor_its_absence(ground):
    """Of two that are alike, and fail in one period of ten, the champion did not by chance."""
    rollout = ground.rollout(how="interleaved", segment="city", guardrails=ERRORS)
    ground.look(rollout, 0)
    for hour in range(40):
        count(ground, "champion", 1_000)
        count(ground, "new", 1_000, 100 if hour in (7, 20, 33) else 0)
        look = ground.look(rollout, 60 * hour + 30)
        assert not look.breached
    assert not look.guardrails[0].judged


@pytest.mark.parametrize("share", [0.5, 0.25, 0.75])
@pytest.mark.parametrize("bad", [1, 2, 7])
def test_segments_that_fail_with_any_variant_are_seldom_taken_for_harm_by_periods(share, bad):
    """Eight segments meet a variant by chance in each period, and some of them always fail."""
    rng, wrong = np.random.default_rng(17), 0
    rates = np.where(np.arange(8) < bad, 0.3, 0.0)
    for _ in range(60):
        memory = builtin.begin()
        cells = {new: np.zeros((BUCKETS + 1, UNIT_BUCKETS), np.int64) for new in (False, True)}
        for period in range(60):
            meets = rng.random(8) < share
            for new, kept in cells.items():
                failed = int(rng.binomial(200, rates[meets == new]).sum())
                kept[100, 0] += 200 * int((meets == new).sum()) - failed
                kept[ERRED_ROW, 0] += failed
            champion, tried = (Counter(cells[new]) for new in (False, True))
            reading = builtin.judged_by_period(
                ERRORS[0], "new", memory, champion, tried, 0.05, period
            )
            if reading.breached:
                wrong += 1
                break
    assert wrong <= 6


def test_errors_are_judged_from_the_first_requests_of_both_sides_on(ground):
    rollout = canary(ground, ERRORS)
    ground.look(rollout, 0)
    count(ground, "champion", 90)
    assert not ground.look(rollout, 1).guardrails[0].judged
    count(ground, "champion", 90)
    count(ground, "new", 10)
    assert ground.look(rollout, 2).guardrails[0].judged


def test_latency_is_judged_once_its_threshold_and_the_spread_between_looks_are_known(ground):
    rng = np.random.default_rng(13)
    rollout = canary(ground, LATENCY)
    told = []
    for minutes in range(30):
        count(ground, "champion", latency=slow(rng, 5_400))
        count(ground, "new", latency=slow(rng, 600))
        [reading] = ground.look(rollout, minutes).guardrails
        told.append(reading.judged)
        assert reading.n_challenger == 600 * max(0, minutes - 1)
    begun = told.index(True)
    assert begun >= 9  # the threshold, and eight looks with slow requests enough
    assert all(told[begun:])


def test_an_interleaved_challenger_is_judged_when_twenty_periods_are_over(ground):
    rollout = ground.rollout(how="interleaved", segment="city", guardrails=ERRORS)
    told = []
    for hour in range(22):
        count(ground, "champion", 1_000, 10)
        count(ground, "new", 1_000, 10)
        [reading] = ground.look(rollout, 60 * hour).guardrails
        told.append(reading.judged)
    assert told.index(True) == 21  # the first look only takes down, so that hour has nothing
    assert reading.n_challenger == 21 * 1_010


def test_a_limit_of_latency_with_what_is_tolerated_on_it_is_never_below_it():
    for bucket in (10, 100, 333):
        assert upper_of(bucket_above(bucket, 1.25)) >= 1.25 * upper_of(bucket) * (1 - 1e-9)
        assert bucket_above(bucket, 1.0) == bucket


@pytest.mark.parametrize(
    "failing",
    [
        {"failing": 1},
        {"failing": 3},
        {"failing": 10, "failing_eager": 20},
        {"failing": 60, "failing_rate": 0.5},
        {"failing": 20, "share": 0.01},
    ],
)
def test_clients_that_fail_on_any_variant_are_seldom_taken_for_harm(failing):
    """Their excess on one side never varies, so evidence by requests would grow for ever."""
    found = found_after(Clients(**failing), simulations=60, minutes=30, seed=7)
    assert np.isfinite(found).mean() <= 0.05


@pytest.mark.parametrize(
    "large",
    [
        {"large": 3},
        {"large": 5, "metric": "latency"},
        {"large": 8, "large_rate": 1.0, "large_variant": "challenger"},
    ],
)
def test_a_client_with_most_of_the_traffic_that_fails_otherwise_is_no_harm(large):
    """Such a client pulls the rate and the shares to itself, and must not vanish in them."""
    clients = Clients(errors=0.02, error=0.025, **large)
    found = found_after(clients, simulations=30, minutes=60, seed=11)
    assert np.isfinite(found).mean() <= 0.05


def test_a_client_with_most_of_the_traffic_hides_no_harm_to_all_others():
    clients = Clients(errors=0.02, errors_times=2, error=0.01, large=3, large_rate=0.02)
    found = found_after(clients, simulations=30, minutes=60, seed=12)
    assert np.median(found) <= 15
    assert np.isfinite(found).mean() >= 0.9


def test_as_requests_of_their_own_their_failures_would_be_taken_for_harm():
    clients = Clients(failing=3, by_requests=True)
    found = found_after(clients, simulations=60, minutes=20, seed=7)
    assert np.isfinite(found).mean() >= 0.15


def test_twice_the_errors_on_a_tenth_of_the_traffic_are_found_in_minutes():
    clients = Clients(errors=0.02, errors_times=2, error=0.01)
    found = found_after(clients, simulations=60, minutes=60, seed=8)
    assert np.median(found) <= 6
    assert np.isfinite(found).all()


def test_clients_that_always_fail_hide_no_harm_to_all_others():
    clients = Clients(errors=0.02, errors_times=2, error=0.01, failing=20)
    found = found_after(clients, simulations=40, minutes=60, seed=10)
    assert np.median(found) <= 15
    assert np.isfinite(found).all()


def test_thousands_of_failures_of_one_client_in_one_look_hide_no_later_harm():
    rng, late = np.random.default_rng(4), []
    for _ in range(8):
        memory = builtin.begin()
        for look in range(100):
            requests = np.array([rng.poisson(n, UNIT_BUCKETS) for n in (5.3, 0.6)])
            events = rng.binomial(requests, [[0.02], [0.02 if look < 15 else 0.04]])
            if look == 5:
                events[0, 7] += 2_000
                requests[0, 7] += 2_000
            old, new = (Tally(*one) for one in zip(events, requests, strict=True))
            if builtin.weighed(ERRORS[0], "new", memory, old, new, 0.01).breached:
                break
        late.append(look - 15)
    assert np.median(late) <= 40
    assert min(late) >= 0


@pytest.mark.parametrize("n", [0, 600])
def test_a_dead_challenger_is_found_at_the_first_looks(n):
    clients = Clients(n=n, errors_times=1e9, error=0.01, look_seconds=2)
    found = found_after(clients, simulations=60, minutes=1, seed=9)
    assert np.quantile(found, 0.95) <= 6 / 60


def test_harm_that_is_plain_is_still_found_among_very_many_failures():
    memory = builtin.begin()
    for _ in range(100):
        old, new = spread(90, 9_090), spread(9, 909)
        assert not builtin.weighed(ERRORS[0], "new", memory, old, new, 0.025).breached
    for _ in range(60):
        old, new = spread(90, 9_090), spread(100, 1_000)
        reading = builtin.weighed(ERRORS[0], "new", memory, old, new, 0.025)
    assert reading.breached


def test_what_is_remembered_from_before_units_were_counted_begins_the_counting_anew(ground):
    rollout = canary(ground, ERRORS)
    count(ground, "champion", 90)
    ground.look(rollout, 0)
    ground.memory = {**ground.memory, "layout": 1, "counters": {}, "builtin": {"error_rate/new": 5}}
    count(ground, "new", 0, 10)
    [reading] = ground.look(rollout, 1).guardrails
    assert (reading.n_challenger, reading.breached) == (0, False)
    count(ground, "champion", 90)
    count(ground, "new", 0, 10)
    assert ground.look(rollout, 2).breached
