"""Simulated rollouts, judged by the functions that judge real ones.

Success is asked of ``rollouts.deciding.decide`` itself. Guardrails are simulated many at a
time, as arrays, through the same ``EventCurve``, ``mean_harm``, ``proportion_variance`` and
``gap_harm`` that a look uses; only the making of readings is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from falaj.rollouts.deciding import Progress, decide
from falaj.rollouts.effects import Sums, mean_effect
from falaj.rollouts.evidence import EventCurve, threshold
from falaj.rollouts.guardrails import LEAST_UNITS, gap_harm, mean_harm, proportion_variance
from falaj.rollouts.model import Success

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Ended:
    """How simulated tests of success ended.

    Attributes:
        decided: the share that found a difference.
        users: on average until the end, as a share of the sample of the fixed test.
    """

    decided: float
    users: float


def successes(
    success: Success,
    *,
    simulations: int,
    looks: int,
    most_units: int,
    rate: float,
    lift: float,
    fixed_units: int,
    seed: int,
) -> Ended:
    """Tests of a conversion with two equal arms, looked at a number of times until they end.

    Args:
        most_units: of both arms, at the last look.
        rate: the champion's.
        lift: relative, of the challenger.
        fixed_units: of the fixed test, that users are told as a share of.
    """
    rng = np.random.default_rng(seed)
    step = most_units // (2 * looks)
    found, users = 0, 0.0
    for _ in range(simulations):
        a = np.cumsum(rng.binomial(step, rate, looks))
        b = np.cumsum(rng.binomial(step, rate * (1 + lift), looks))
        progress = Progress()
        for look in range(looks):
            n = step * (look + 1)
            one, other = _conversions(n, a[look]), _conversions(n, b[look])
            decide(
                success,
                "new",
                mean_effect(one, other),
                progress,
                error=success.error,
                better="higher",
                units=(n, n),
            )
            if progress.decided is not None:
                break
        found += progress.decided in ("better", "worse")
        users += 2 * n / fixed_units
    return Ended(found / simulations, users / simulations)


def _conversions(n: int, converted: float) -> Sums:
    return Sums(n=n, y=float(converted), yy=float(converted))


@dataclass(frozen=True)
class Canary:
    """A canary with guardrails of errors, latency, conversion, revenue and fairness.

    Attributes:
        requests_a_second: of both sides; each is a unit.
        share: of the challenger.
        conversion: of the champion, on average over a day; it swings by a third.
        errors, slow: shares of the champion's requests.
        conversion_harm: relative.
        errors_times, slow_times: how many times the champion's the challenger's are.
    """

    requests_a_second: float = 50.0
    share: float = 0.1
    conversion: float = 0.1
    errors: float = 0.005
    slow: float = 0.01
    conversion_harm: float = 0.0
    errors_times: float = 1.0
    slow_times: float = 1.0
    error: float = 0.05
    look_seconds: int = 30


_GUARDRAILS = ("error_rate", "latency", "conversion", "revenue", "fairness")
_PRICES, _DEAR = (20.0, 120.0), 0.2
_GROUP = 0.3
"""The share of units of the second group."""


class _Side:
    """Running sums of one side of many canaries: arrays over simulations."""

    def __init__(self, n: int) -> None:
        self.units, self.converted = np.zeros((2, n)), np.zeros((2, n))  # by group
        self.revenue, self.squares = np.zeros(n), np.zeros(n)

    def add(self, rng: np.random.Generator, requests: NDArray[np.int64], rate: float) -> None:
        second = rng.binomial(requests, _GROUP)
        for group, n in enumerate((requests - second, second)):
            self.units[group] += n
            won = rng.binomial(n, rate)
            self.converted[group] += won
            dear = rng.binomial(won, _DEAR)
            self.revenue += _PRICES[0] * (won - dear) + _PRICES[1] * dear
            self.squares += _PRICES[0] ** 2 * (won - dear) + _PRICES[1] ** 2 * dear

    @property
    def n(self) -> Floats:
        return np.asarray(np.maximum(self.units.sum(axis=0), 1.0))

    def proportion(self) -> Floats:
        return np.asarray(self.converted.sum(axis=0) / self.n)

    def spread(self) -> Floats:
        return np.asarray(self.squares / self.n - (self.revenue / self.n) ** 2)


@dataclass(frozen=True)
class Found:
    """When many canaries were rolled back, in minutes; infinite: never.

    Attributes:
        ours: by any guardrail.
        by: our guardrails alone, by name.
        argo, flagger: thresholds on windows of one minute, 3 and 5 of which may fail.
        z_test: of the conversion at 5 per cent, looked at every minute.
    """

    ours: Floats
    by: dict[str, Floats]
    argo: Floats
    flagger: Floats
    z_test: Floats


def canaries(canary: Canary, *, simulations: int, minutes: int, seed: int) -> Found:
    """Run canaries side by side, with our guardrails and with the methods of others."""
    rng = np.random.default_rng(seed)
    champion, tried = _Side(simulations), _Side(simulations)
    curves = {name: EventCurve.empty(0.0, (simulations,), nulls=1) for name in _GUARDRAILS[:2]}
    by = {name: np.full(simulations, np.inf) for name in _GUARDRAILS}
    limit = threshold(canary.error / len(_GUARDRAILS))
    others = _Others(simulations)
    for look in range(1, minutes * 60 // canary.look_seconds + 1):
        seconds = look * canary.look_seconds
        swing = 1 + math.sin(2 * math.pi * seconds / 86_400) / 3
        requests = rng.poisson(canary.requests_a_second * canary.look_seconds, simulations)
        new = rng.binomial(requests, canary.share)
        old = requests - new
        rate = canary.conversion * swing
        champion.add(rng, old, rate)
        tried.add(rng, new, rate * (1 - canary.conversion_harm))
        failed = _events(rng, new, old, canary.errors, canary.errors_times)
        slow = _events(rng, new, old, canary.slow, canary.slow_times)
        for name, (events, rest) in zip(_GUARDRAILS, (failed, slow), strict=False):
            curves[name].add(events, rest, new, old)
        # As for real ones whose requests come each from a unit of its own: none tells less than
        # one. Of clients with many requests see ``clientsimulations``.
        shown = {name: curve.log_evidence()[:, 0] >= limit for name, curve in curves.items()}
        shown |= _of_units(champion, tried, limit)
        for name, harm in shown.items():
            by[name] = np.where(harm & np.isinf(by[name]), seconds / 60, by[name])
        others.see(new, failed[0], champion, tried, seconds)
    ours = np.minimum.reduce(list(by.values()))
    return Found(ours, by, others.argo, others.flagger, others.z_test)


def _events(
    rng: np.random.Generator,
    new: NDArray[np.int64],
    old: NDArray[np.int64],
    rate: float,
    times: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return rng.binomial(new, min(rate * times, 1.0)), rng.binomial(old, rate)


def _of_units(champion: _Side, tried: _Side, limit: float) -> dict[str, Bools]:
    a, b = champion.proportion(), tried.proportion()
    variance, enough = proportion_variance(a, b, tried.n, tolerated=0.0, better="higher")
    conversion = mean_harm(a, b, a * (1 - a) / champion.n, variance, tolerated=0.0, better="higher")
    spreads = champion.spread(), tried.spread()
    revenue = mean_harm(
        champion.revenue / champion.n,
        tried.revenue / tried.n,
        spreads[0] / champion.n,
        np.maximum(*spreads) / tried.n,
        tolerated=0.0,
        better="higher",
    )
    rates = [side.converted / np.maximum(side.units, 1.0) for side in (champion, tried)]
    spread = np.maximum(*(rate * (1 - rate) for rate in rates))
    both = sum(spread / np.maximum(side.units, 1.0) for side in (champion, tried))
    before, after = rates[0][0] - rates[0][1], rates[1][0] - rates[1][1]
    level = (rates[0][0] + rates[0][1]) / 2
    gaps = [
        gap_harm(sign * before, sign * after, np.sum(both, axis=0), level, tolerated=0.0)
        for sign in (1.0, -1.0)
    ]
    groups = np.minimum(champion.units, tried.units).min(axis=0) >= LEAST_UNITS
    return {
        "conversion": enough & (conversion >= limit),
        "revenue": (tried.n >= LEAST_UNITS) & (revenue >= limit),
        "fairness": groups & (np.maximum(*gaps) >= limit + math.log(2)),
    }


class _Others:
    """What Argo Rollouts and Flagger are usually set up to do, and a z-test every minute.

    Of each minute: the canary's requests succeed to at least 99 %, and its conversion is at
    least 90 % of the stable one's. Argo gives up beyond ``failureLimit: 3`` failed
    measurements, Flagger at ``threshold: 5`` failed checks.
    """

    def __init__(self, n: int) -> None:
        self.argo, self.flagger = np.full(n, np.inf), np.full(n, np.inf)
        self.z_test = np.full(n, np.inf)
        self._failures = np.zeros(n)
        self._requests, self._failed = np.zeros(n), np.zeros(n)
        self._before = np.zeros((4, n))

    def see(
        self,
        new: NDArray[np.int64],
        failed: NDArray[np.int64],
        champion: _Side,
        tried: _Side,
        seconds: int,
    ) -> None:
        self._requests += new
        self._failed += failed
        if seconds % 60:
            return
        now = np.array(
            [champion.n, champion.converted.sum(axis=0), tried.n, tried.converted.sum(axis=0)]
        )
        n, won, n_new, won_new = now - self._before
        bad = self._failed > 0.01 * np.maximum(self._requests, 1)
        bad |= won_new / np.maximum(n_new, 1) < 0.9 * won / np.maximum(n, 1)
        self._failures += bad
        self._before, self._requests, self._failed = now, np.zeros_like(n), np.zeros_like(n)
        a, b = champion.proportion(), tried.proportion()
        middle = now[[1, 3]].sum(axis=0) / now[[0, 2]].sum(axis=0)
        error = np.sqrt(np.maximum(middle * (1 - middle), 1e-12) * (1 / now[0] + 1 / now[2]))
        for times, hit in (
            (self.argo, self._failures > 3),
            (self.flagger, self._failures >= 5),
            (self.z_test, (a - b) / error > 1.6449),
        ):
            times[hit & np.isinf(times)] = seconds / 60
