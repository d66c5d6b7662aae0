"""The design effect of events by units, against closed forms and simulated variances."""

import json

import numpy as np
import pytest

from falaj.rollouts.clustered import Clusters, capped, outlying
from falaj.serving.unitcounts import UNIT_BUCKETS


def at(**counts):
    """Counts by bucket: those that are named, and 0."""
    found = np.zeros(UNIT_BUCKETS)
    for place, n in counts.items():
        found[int(place[1:])] = n
    return found


def test_requests_each_from_a_unit_of_its_own_are_independent():
    clusters = Clusters.empty(0.0)
    clusters.add(at(b1=1, b2=1), at(b3=1), np.full(UNIT_BUCKETS, 10), np.full(UNIT_BUCKETS, 90))
    assert clusters.design_effect() == 1.0


@pytest.mark.parametrize("times", [3, 50, 4_000])
def test_a_client_that_fails_many_times_is_read_as_one_event(times):
    """However many it are of such clients, and on whichever side they are."""
    for events, others in (
        (at(b1=times), at()),
        (at(b1=times, b9=times), at(b5=times)),
        (at(), at(b5=times, b6=times)),
    ):
        clusters = Clusters.empty(0.0)
        n = np.full(UNIT_BUCKETS, 1e6)
        clusters.add(events, others, n / 9, n)
        assert 0.98 * times < clusters.design_effect() < 1.08 * times


def excess_over_its_deviation(clusters, events, others, requests, other_requests):
    """Of a look at which the buckets had so many events and requests."""
    clusters.add(events, others, requests, other_requests)
    e, o, v, c = (np.sum(one) for one in (events, others, requests, other_requests))
    p = v / (v + c)
    return (e - p * (e + o)) / np.sqrt(clusters.design_effect() * clusters.independent)


@pytest.mark.parametrize("large", [1, 2, 4])
def test_large_clients_that_never_fail_and_meet_the_champion_are_no_evidence_of_harm(large):
    """It is what chance does with some of nine in ten: all others fail alike on both sides."""
    n = np.full(UNIT_BUCKETS, 1_000.0)
    champion = 0.9 * n
    champion[:large] += 4 * n.sum() / large
    found = excess_over_its_deviation(
        Clusters.empty(0.0), 0.002 * n, 0.018 * n, 0.1 * n, champion
    )  # fmt: skip
    assert 0 < found < 1.5


@pytest.mark.parametrize("large", [1, 2, 4])
def test_large_clients_that_always_fail_with_the_challenger_are_read_as_so_many_events(large):
    n = np.full(UNIT_BUCKETS, 6.0)
    fails = np.zeros(UNIT_BUCKETS)
    fails[:large] = 12_000 / large
    found = excess_over_its_deviation(
        Clusters.empty(0.0), 0.1 * 0.02 * n + fails, 0.9 * 0.02 * n, 0.1 * n + fails, 0.9 * n
    )
    assert 0 < found <= 1.02 * np.sqrt(large)


def test_a_variant_with_one_unit_alone_is_not_certain_of_it():
    """About its own rate it would have no spread."""
    clusters = Clusters.empty(0.0)
    clusters.add(at(b1=30), at(), at(b1=30), np.full(UNIT_BUCKETS, 1))
    assert clusters.design_effect() > 20


def test_a_dead_challenger_of_many_units_is_read_as_many_events():
    clusters = Clusters.empty(0.0)
    ones = at(**{f"b{place}": 1 for place in range(10)})
    clusters.add(ones, at(), ones, np.full(UNIT_BUCKETS, 0.35))
    assert clusters.design_effect() == 1.0


def test_nothing_is_learned_while_a_side_has_no_traffic_or_nothing_happens():
    clusters = Clusters.empty(0.0)
    clusters.add(at(b1=5), at(), at(b1=5), at())
    clusters.add(at(), at(), at(b1=5), at(b2=5))
    assert clusters.design_effect() == 1.0
    assert not clusters.excess.any()


def test_a_unit_that_moves_to_the_challenger_stays_one_cluster():
    clusters, n = Clusters.empty(0.0), np.full(UNIT_BUCKETS, 1e5)
    clusters.add(at(), at(b1=90), n / 99, n)
    clusters.add(at(b1=90), at(), n, n)
    assert clusters.design_effect() > 45


@pytest.mark.parametrize("tolerated", [0.0, 0.5])
def test_the_sum_of_squares_is_the_variance_of_the_excess_over_many_assignments(tolerated):
    """300 clients of unlike eagerness, some of whom fail, assigned anew each time."""
    rng = np.random.default_rng(1)
    eager = rng.gamma(0.5, 20, 300)
    fails = np.where(rng.random(300) < 0.2, rng.random(300), 0.01)
    sums, estimates = [], []
    by_design = []
    for _ in range(600):
        new = rng.random(300) < 0.2
        buckets = rng.integers(UNIT_BUCKETS, size=300)
        clusters = Clusters.empty(tolerated)
        for _ in range(3):
            requests = rng.poisson(eager)
            # The challenger has as many more as are tolerated.
            events = rng.binomial(requests, np.where(new, 1 + tolerated, 1.0) * fails / 1.5)
            parts = [
                np.bincount(buckets, one * side, UNIT_BUCKETS)
                for one in (events, requests)
                for side in (new, ~new)
            ]
            clusters.add(*parts)
        sums.append(clusters.excess.sum())
        estimates.append((clusters.excess**2).sum())
        by_design.append((clusters.design**2).sum())
    assert np.mean(sums) == pytest.approx(0, abs=4 * np.std(sums) / np.sqrt(len(sums)))
    assert np.mean(estimates) == pytest.approx(np.var(sums), rel=0.2)
    assert np.mean(by_design) == pytest.approx(np.var(sums), rel=0.2)


def test_many_at_once_give_what_each_gives_and_what_is_told_is_read():
    rng = np.random.default_rng(2)
    parts = [rng.poisson(mean, (5, UNIT_BUCKETS)) for mean in (0.1, 0.5, 2, 9)]
    many = Clusters.empty(0.1, (5,))
    many.add(*parts)
    for place in range(5):
        one = Clusters.empty(0.1)
        one.add(*(part[place] for part in parts))
        assert many.design_effect()[place] == pytest.approx(float(one.design_effect()))
        told = json.loads(json.dumps(one.told()))
        read = Clusters.read(0.1, told)
        assert read.design_effect() == pytest.approx(float(one.design_effect()), rel=1e-4)
        told.pop("design")  # as what was remembered before it was kept
        assert Clusters.read(0.1, told).design_effect() >= 1.0


def test_of_independent_events_no_bucket_stands_out():
    rng = np.random.default_rng(3)
    found = 0
    for rate in (0.001, 0.02, 0.4):
        for mean in (2, 50, 3_000):
            for _ in range(40):
                requests = rng.poisson(mean * rng.gamma(2, 0.5, UNIT_BUCKETS))
                found += outlying(rng.binomial(requests, rate), requests).sum()
    assert found <= 1


def test_a_client_that_always_fails_stands_out_soon_and_a_dead_variant_does_not():
    rng = np.random.default_rng(4)
    requests = rng.poisson(30, UNIT_BUCKETS)
    events = rng.binomial(requests, 0.02)
    events[17] += 12
    requests[17] += 12
    assert outlying(events, requests).nonzero()[0].tolist() == [17]
    dead = rng.binomial(requests, 0.1)  # a tenth of all requests
    assert not outlying(dead, requests).any()
    assert not outlying(at(), at()).any()


def test_of_one_that_stands_out_in_a_look_as_much_is_read_as_would_not_and_of_an_outage_all():
    rng = np.random.default_rng(5)
    requests = rng.poisson(300, UNIT_BUCKETS)
    before = rng.binomial(requests, 0.02)
    events = rng.binomial(requests, 0.02)
    more, all_requests = events.copy(), 2 * requests
    more[17] += 250
    part = capped(more, requests, before + more, all_requests)
    assert part[17] * more[17] == pytest.approx(3 * 6 + 4 * 6**0.5 + 4, rel=0.3)
    assert (np.delete(part, 17) == 1).all()
    outage = rng.binomial(requests, 0.7)
    assert (capped(outage, requests, before + outage, all_requests) == 1).all()
