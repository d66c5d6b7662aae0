"""Two inference workers against one, on one listening socket as the supervisor starts them.

With three cores or more the workers have a core each and the client one of its own. With
two, the second worker shares its core with the client, so the rate says little about two
workers: then the goal is judged by nobody, and what counts is how many requests a second
of the workers' CPU answers, which shows what they cost each other.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report
from stand import ours
from stand.classifier import make_classifier
from stand.load import Load, client_name
from stand.turns import CPU, P50, P99, RATE, Contestant, agreed, errors, measured, our_score

CONNECTIONS = (16, 64)
LEAST_TIMES = 1.8


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    """Both in turn; the rows of the table."""
    here = sorted(os.sched_getaffinity(0))
    client_core, enough = here[-1], len(here) >= 3
    classifier = make_classifier(folder)
    # Each its own platform: a platform has one log writer.
    with ours.opened(folder / "one") as small, ours.opened(folder / "two") as large:
        asked = []
        for platform in (small, large):
            ours.in_the_body(platform, classifier)
            asked.append(ours.body_requests(classifier.rows, platform))
        with (
            ours.worker(small, asked[0].now()[0], core=here[0], name="one") as one,
            ours.worker(
                large, asked[1].now()[0], core=frozenset(here[:2]), name="two", workers=2
            ) as two,
        ):
            contestants = [
                Contestant("1 worker", one, Load(one.port, asked[0], core=client_core)),
                Contestant("2 workers", two, Load(two.port, asked[1], core=client_core)),
            ]
            for contestant in contestants:
                agreed(contestant.name, contestant.load, our_score, classifier.scores)
            measured(contestants, CONNECTIONS, rounds=rounds, seconds=seconds)
    single, double = contestants
    told = {"client": client_name(), "cores": str(len(here)), "uvloop": version("uvloop")}
    rows = []
    for n in CONNECTIONS:
        for unit, better in ((RATE, "more"), (P50, "less"), (P99, "less")):
            row = Row("2 workers against 1, one row, JSON", f"{n} connections", unit,
                      double.of(n, unit), single.of(n, unit), "ours, 1 worker", better=better,
                      versions=told)  # fmt: skip
            if unit == RATE and n == 64:
                row.goal = f"≥ {LEAST_TIMES} times where cores allow"
                if enough:
                    row.met = row.ours >= LEAST_TIMES * single.of(n, unit)
                else:
                    row.goal += f" (here {len(here)}, the client has one of them)"
            rows.append(row)
        rows.append(
            Row("2 workers against 1, one row, JSON", f"{n} connections",
                "requests per CPU second", 1e6 / double.of(n, CPU), 1e6 / single.of(n, CPU),
                "ours, 1 worker", better="more", versions=told)
        )  # fmt: skip
    rows += [errors("one row, JSON", one, told) for one in contestants]
    return rows


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rounds, seconds = (2, 2.0) if given.size == "small" else (5, 4.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds)
    report("serving", "Two inference workers", rows, given)


if __name__ == "__main__":
    main()
