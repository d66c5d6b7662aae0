"""How often rollouts are judged wrongly, and how soon rightly, in simulations.

    .venv/bin/python benchmarks/monitoring/rollout_statistics.py [--size small|full] [--write]

Success: tests of a conversion of 10 % in two equal arms with 100 looks, against the fixed test
that has a power of 92.6 % for a lift of a tenth. Harm: a canary with a tenth of 50 requests a
second under five guardrails (errors, latency, conversion, revenue, fairness) that share an error
of 5 %, looked at every 30 s; beside it, on the same traffic, thresholds on windows of one minute
as Argo Rollouts (``failureLimit: 3``) and Flagger (``threshold: 5``) are set up with, and a
z-test at 5 % that is looked at every minute. Clients: the guardrail of errors alone where
requests come from sticky clients, some of whom always fail, beside the same guardrail of requests
that are each taken for a unit of its own. The judged functions are those that judge real rollouts
(``falaj.testing.rolloutsimulations``, ``falaj.testing.clientsimulations``). What it costs to count
a request by its unit is measured on the function that workers call.
"""

import sys
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from measuring import Row, arguments, report

from falaj.rollouts.groupsequential import fixed_power
from falaj.rollouts.model import Success
from falaj.serving.predictions import Parsed
from falaj.serving.unitcounts import UnitCells
from falaj.testing.clientsimulations import Clients, found_after
from falaj.testing.rolloutsimulations import Canary, canaries, successes

RATE, LIFT, DRIFT = 0.1, 0.1, 3.4066
"""A fixed test with this drift has a power of 92.6 %."""
LOOKS = 100
DAY = 24 * 60


def fixed_units():
    """Units of both arms together that give the fixed test its drift."""
    variance = RATE * (1 - RATE) + RATE * (1 + LIFT) * (1 - RATE * (1 + LIFT))
    each = DRIFT**2 * variance / (RATE * LIFT) ** 2
    return 2 * LOOKS * round(each / LOOKS)


def success_rows(simulations):
    """False positives, power and users of both methods."""
    fixed = fixed_units()
    rows = []
    for method, name, times, goals in (
        ("group_sequential", "group sequential", 1.0, ("≤ 5.5 %", "≥ 90 %", "≤ 70 %")),
        ("always_valid", "always valid, 1.5 times the sample", 1.5, ("≤ 5.5 %", "≥ 90 %", "")),
    ):
        most = round(fixed * times)
        success = Success(metric="c", method=method, looks=LOOKS, most_units=most, effect=LIFT)
        alike, better = (
            successes(
                success, simulations=simulations, looks=LOOKS, most_units=most, rate=RATE,
                lift=lift, fixed_units=fixed, seed=11,
            )
            for lift in (0.0, LIFT)
        )  # fmt: skip
        size = f"{simulations:,} rollouts, {LOOKS} looks"
        for work, ours, peer, goal, good in (
            ("A/A: found different", alike.decided, 0.05, goals[0], alike.decided <= 0.055),
            ("a lift of 10 %: found", better.decided, fixed_power(DRIFT), goals[1],
             better.decided >= 0.9),
            ("a lift of 10 %: users on average", better.users, 1.0, goals[2], better.users <= 0.7),
        ):  # fmt: skip
            more = "more" if "found" in work and "lift" in work else "less"
            rows.append(
                Row(f"{name}: {work}", size, "%", 100 * ours, 100 * peer, "fixed test", goal=goal,
                    met=good if goal else None, better=more)
            )  # fmt: skip
    return rows


def false_rollbacks(simulations):
    """A healthy canary over a day."""
    found = canaries(Canary(), simulations=simulations, minutes=DAY, seed=12)
    ours = 100 * np.isfinite(found.ours).mean()
    size = f"{simulations:,} days"
    return [
        Row(f"healthy canary rolled back within a day, {name}", size, "%", ours,
            100 * float(np.isfinite(times).mean()), name, goal="≤ 5 %", met=bool(ours <= 5))
        for name, times in (
            ("Argo-style thresholds", found.argo),
            ("Flagger-style thresholds", found.flagger),
            ("z-test every minute", found.z_test),
        )
    ]  # fmt: skip


def delays(simulations):
    """How soon harm is found."""
    rows = []
    for harm, minutes, goal in ((0.1, 240, 35), (0.5, 30, 5)):
        canary = Canary(conversion_harm=harm)
        found = canaries(canary, simulations=simulations, minutes=minutes, seed=13)
        ours = float(np.median(found.ours))
        rows.append(
            Row(f"conversion {harm:.0%} worse, found after (median)", f"{simulations:,} canaries",
                "min", ours, float(np.median(found.z_test)), "z-test every minute",
                goal=f"≤ {goal} min", met=ours <= goal)
        )  # fmt: skip
        late = float(np.quantile(found.ours, 0.9, method="lower"))
        rows.append(
            Row(f"conversion {harm:.0%} worse, found after (9 of 10)",
                f"{simulations:,} canaries", "min", late)
        )  # fmt: skip
    for rate in (0.05, 0.2):
        canary = Canary(conversion=rate, conversion_harm=0.1)
        found = canaries(canary, simulations=simulations, minutes=360, seed=15)
        rows.append(
            Row(f"the same 10% of a conversion of {rate:.0%}, found after (median)",
                f"{simulations:,} canaries", "min", float(np.median(found.ours)),
                float(np.median(found.z_test)), "z-test every minute")
        )  # fmt: skip
    dead = canaries(Canary(errors_times=20.0), simulations=simulations, minutes=10, seed=14)
    ours = float(np.median(dead.ours))
    rows.append(
        Row("errors 20 times as often, found after (median)", f"{simulations:,} canaries", "min",
            ours, float(np.median(dead.argo)), "Argo-style thresholds")
    )  # fmt: skip
    return rows


def of_clients(simulations, minutes):
    """Healthy canaries among clients who always fail, and harm by its size."""
    rows = []
    size = f"{simulations:,} canaries, {minutes / 60:g} h"
    for name, clients in (
        ("3 clients of 600 always fail", Clients(failing=3)),
        ("10 of 600, 20 times as eager", Clients(failing=10, failing_eager=20)),
        ("60 of 660 fail every second time", Clients(failing=60, failing_rate=0.5)),
        ("one never fails and sends 3 times the rest", Clients(errors=0.02, large=3, error=0.025)),
        (
            "one always fails and sends 8 times the rest",
            Clients(errors=0.02, large=8, large_rate=1, large_variant="challenger", error=0.025),
        ),
    ):
        found, plain = (
            found_after(one, simulations=simulations, minutes=minutes, seed=16)
            for one in (clients, replace(clients, by_requests=True))
        )
        ours = 100 * np.isfinite(found).mean()
        rows.append(
            Row(f"healthy canary rolled back for errors, {name}", size, "%", ours,
                100 * float(np.isfinite(plain).mean()), "counted by request", goal="≤ 5 %",
                met=bool(ours <= 5))
        )  # fmt: skip
    part = Canary().error / 5  # of five guardrails
    twice = Clients(errors=0.02, errors_times=2, error=part)
    for name, clients in (
        ("errors 4 % instead of 2 %", twice),
        ("errors 4 % instead of 2 %, each request its own client", replace(twice, n=0)),
        ("errors 4 % instead of 2 %, 3 clients of 600 always fail", replace(twice, failing=3)),
        ("all requests fail", replace(twice, errors_times=1e9)),
        ("all requests fail, looked at every second", replace(
            twice, errors_times=1e9, look_seconds=1)),
    ):  # fmt: skip
        found = found_after(clients, simulations=3 * simulations, minutes=240, seed=17)
        for which, share in (("median", 0.5), ("9 of 10", 0.9)):
            rows.append(
                Row(f"{name}, found after ({which})", f"{3 * simulations:,} canaries", "min",
                    float(np.quantile(found, share, method="lower")))
            )  # fmt: skip
    return rows


def cost_of_counting():
    """A request counted by its unit, on the path of a request."""
    rows = [SimpleNamespace(who=f"client-{number:07d}") for number in range(2_000)]
    asked = [Parsed([row], None, None, 0, "u", number * 1e-6) for number, row in enumerate(rows)]
    cells, unit, best = UnitCells(bytearray(1 << 20)), attrgetter("who"), np.inf
    for _ in range(50):
        begun = perf_counter()
        for one in asked:
            cells.answered([one], unit, 0.005)
        best = min(best, perf_counter() - begun)
    micro = best / len(asked) * 1e6
    return [
        Row("a request counted by its unit", "2,000 units, one a call", "µs", micro,
            goal="≤ 1 µs", met=bool(micro <= 1))
    ]  # fmt: skip


def main():
    """Simulate, and report."""
    given = arguments(__doc__)
    small = given.size == "small"
    rows = success_rows(500 if small else 10_000)
    rows += false_rollbacks(200 if small else 2_000)
    rows += delays(300 if small else 2_000)
    rows += of_clients(*((100, 120) if small else (200, 480)))
    rows += cost_of_counting()
    report("monitoring", "Rollouts judged in simulations", rows, given)


if __name__ == "__main__":
    main()
