"""Twelve planted shifts: how many are found, and how often equal tables raise an alarm."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from measuring import Row, arguments, report

from falaj.monitoring.tablecolumns import ArrowColumns
from falaj.monitoring.tabledrift import compare_tables
from falaj.testing.columns import Pair
from falaj.testing.shifts import SHIFTS, as_table, shifted, steady


def found(n: int) -> int:
    """How many of the twelve are found, and nothing else with them."""
    reference = ArrowColumns(as_table(steady(n, 1)))
    n_found = 0
    for place, (name, (column, _)) in enumerate(SHIFTS.items()):
        told = compare_tables(reference, ArrowColumns(as_table(shifted(name, n, 2 + place))))
        right = any(column in one for one in told.alarmed)
        n_found += right
        others = [one for one in told.alarmed if column not in one]
        print(f"{name}: {'found' if right else 'MISSED'}; besides: {others or 'nothing'}")
    return n_found


def false_alarms(n: int, rounds: int) -> int:
    """How many reports of equal tables raise any alarm."""
    n_alarmed = 0
    for number in range(rounds):
        sides = [ArrowColumns(as_table(steady(n, 1_000 + 2 * number + side))) for side in (0, 1)]
        alarmed = compare_tables(*sides).alarmed
        n_alarmed += bool(alarmed)
        if alarmed:
            print(f"false alarm in round {number}: {alarmed}")
    return n_alarmed


def of_skewed(n: int) -> tuple[float, float]:
    """From a model's 64 bins, on skewed values: the greatest relative error of PSI beside that
    of deciles, and the greatest error of KS beside the exact one."""
    from scipy.stats import ks_2samp

    random = np.random.default_rng(5)
    psi_error = ks_error = 0.0
    before = random.lognormal(0, 2, n)
    edges = np.quantile(before, np.linspace(0.1, 0.9, 9))
    for shift in (0.5, 1.0, 1.5, 2.0):
        now = random.lognormal(shift, 2, n)
        told = Pair(before, now).drift()[0]
        p, q = (
            np.bincount(np.searchsorted(edges, np.float64(one)), minlength=10) / n
            for one in (before, now)
        )
        exact = float(((q - p) * np.log(q / p)).sum())
        psi_error = max(psi_error, abs(told.psi / exact - 1))
        ks_error = max(ks_error, abs((told.ks or 0.0) - float(ks_2samp(before, now).statistic)))
    return psi_error, ks_error


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    full = given.size == "full"
    rows = []
    for n, rounds in ((100_000, 200 if full else 10), (1_000_000, 40 if full else 0)):
        if not rounds:
            continue
        size = f"{n:,} and {n:,} rows x 60"
        n_found = found(n)
        rows.append(Row("planted shifts found", size, "of 12", n_found, goal="12",
                        met=n_found == 12, better="more"))  # fmt: skip
        share = false_alarms(n, rounds) / rounds
        rows.append(Row(f"equal tables with any alarm, of {rounds}", size, "share", share,
                        goal="<= 0.05", met=share <= 0.05))  # fmt: skip
    psi_error, ks_error = of_skewed(1_000_000 if full else 200_000)
    rows.append(Row("PSI of skewed values beside deciles, worst", "64 bins", "share", psi_error,
                    goal="<= 0.1", met=psi_error <= 0.1))  # fmt: skip
    rows.append(Row("KS of skewed values beside the exact one, worst", "64 bins", "error",
                    ks_error, goal="<= 0.001", met=ks_error <= 0.001))  # fmt: skip
    report("monitoring", "Planted shifts", rows, given)


if __name__ == "__main__":
    main()
