"""Simulated canaries whose requests come from clients, judged by the guardrail of errors itself.

Clients stay with their variant, so what they do is correlated: some fail at every request,
whichever variant answers them. Every look goes through ``rollouts.builtin.weighed``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from falaj.rollouts import builtin
from falaj.rollouts.model import Guardrail
from falaj.rollouts.readings import Tally
from falaj.serving.counted import BUCKETS
from falaj.serving.unitcounts import UNIT_BUCKETS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_SLOW = 200
"""The bucket of a latency that slow requests are told by; which one, changes nothing here."""


@dataclass(frozen=True)
class Clients:
    """A canary and who asks it.

    Attributes:
        n: clients; 0: each request is a client of its own.
        requests_a_second: of all of them together, those that fail always left out.
        share: of the clients that meet the challenger.
        errors: the share of requests that fail with the champion.
        errors_times: how many times as many fail with the challenger, at most all.
        failing: clients more whose requests fail whichever variant answers.
        failing_rate: the share of their requests that fails.
        failing_eager: how many times as many requests as another client each of them sends.
        large: how many times the requests of all other clients one client more sends; 0: there is
            none.
        large_variant: the one that it meets, which else is left to chance.
        large_rate: the share of its requests that fails, whichever variant answers.
        metric: ``latency`` reads as slow what else fails.
        error: that the guardrail may spend.
        by_requests: take each request for a unit of its own, which is how one counts without
            units.
    """

    n: int = 600
    requests_a_second: float = 50.0
    share: float = 0.1
    errors: float = 0.005
    errors_times: float = 1.0
    failing: int = 0
    failing_rate: float = 1.0
    failing_eager: float = 1.0
    large: float = 0.0
    large_variant: Literal["champion", "challenger"] = "champion"
    large_rate: float = 0.0
    metric: Literal["error_rate", "latency"] = "error_rate"
    error: float = 0.05
    look_seconds: int = 30
    by_requests: bool = False


def found_after(clients: Clients, *, simulations: int, minutes: float, seed: int) -> Floats:
    """When each of many canaries was rolled back for errors, in minutes; infinite: never."""
    rng = np.random.default_rng(seed)
    guardrail = Guardrail(metric=clients.metric)
    found = np.full(simulations, np.inf)
    for number in range(simulations):
        traffic = _Traffic(clients, rng)
        memory = builtin.begin()
        if clients.metric == "latency":
            memory["bucket"] = memory["challenger_bucket"] = _SLOW
        for look in range(1, round(minutes * 60 / clients.look_seconds) + 1):
            champion, tried = traffic.look()
            reading = builtin.weighed(guardrail, "new", memory, champion, tried, clients.error)
            if reading.breached:
                found[number] = look * clients.look_seconds / 60
                break
    return found


class _Traffic:
    """The requests of one canary; clients are assigned their variant and bucket once."""

    def __init__(self, clients: Clients, rng: np.random.Generator) -> None:
        self._rng, self._by_requests = rng, clients.by_requests
        seconds = clients.look_seconds
        each = clients.requests_a_second * seconds / max(clients.n, 1)
        shares = np.array([1 - clients.share, clients.share])[:, None]
        self._requests = each * self._placed(clients.n, clients.share)
        if not clients.n:
            even = np.full((2, UNIT_BUCKETS), clients.requests_a_second * seconds / UNIT_BUCKETS)
            self._requests = even * shares
        eager = each if clients.n else clients.requests_a_second * seconds / 600
        failing = self._placed(clients.failing, clients.share)
        self._failing = eager * clients.failing_eager * failing
        self._failing_rate = clients.failing_rate
        self._large = np.zeros((2, UNIT_BUCKETS))
        side = 1 if clients.large_variant == "challenger" else 0
        place = int(rng.integers(UNIT_BUCKETS)) if clients.large else 0
        self._large[side, place] = clients.large * clients.requests_a_second * seconds
        self._large_rate = clients.large_rate
        rate = clients.errors
        self._rates = np.array([rate, min(rate * clients.errors_times, 1.0)])[:, None]

    def look(self) -> tuple[Tally, Tally]:
        """What champion and challenger had since the look before."""
        rng = self._rng
        requests, failing = rng.poisson(self._requests), rng.poisson(self._failing)
        events = rng.binomial(requests, self._rates) + rng.binomial(failing, self._failing_rate)
        requests = requests + failing
        if self._large.any():
            large = rng.poisson(self._large)
            events, requests = events + rng.binomial(large, self._large_rate), requests + large
        if self._by_requests:
            even = np.full(UNIT_BUCKETS, 1 / UNIT_BUCKETS)
            events, requests = (
                rng.multinomial(one.sum(axis=1), even) for one in (events, requests)
            )
        return Tally(events[0], requests[0]), Tally(events[1], requests[1])

    def _placed(self, n: int, share: float) -> Ints:
        """Clients by variant (the champion first) and bucket."""
        which = (self._rng.random(n) < share).astype(np.int64)
        buckets = self._rng.integers(UNIT_BUCKETS, size=n)
        counts = np.bincount(which * UNIT_BUCKETS + buckets, minlength=2 * UNIT_BUCKETS)
        return counts.reshape(2, UNIT_BUCKETS)


def cells_of(
    requests: int = 0,
    failed: int = 0,
    *,
    latency: Ints | None = None,
    bucket: int | None = None,
    first: int = 0,
) -> Ints:
    """The cells (``serving.unitcounts``) of requests that come each from a unit of its own.

    Args:
        requests: answered, within a millisecond, unless ``latency`` says otherwise.
        failed: on which the model failed.
        latency: int64 [latency buckets], answered requests.
        bucket: of the one unit from which all of them come instead.
        first: the bucket of the first unit.
    """
    cells = np.zeros((BUCKETS + 1, UNIT_BUCKETS), np.int64)
    if latency is None:
        latency = np.zeros(BUCKETS, np.int64)
        latency[100] = requests
    rows = np.repeat(np.arange(BUCKETS + 1), np.append(latency, failed))
    rows = np.random.default_rng(first).permutation(rows)
    places = (first + np.arange(len(rows))) % UNIT_BUCKETS
    if bucket is not None:
        places[:] = bucket
    np.add.at(cells, (rows, places), 1)
    return cells


__all__ = ["Clients", "cells_of", "found_after"]
