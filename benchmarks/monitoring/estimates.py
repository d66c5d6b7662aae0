"""Performance without labels: NannyML's CBPE against ours, on the same rows.

A reference with labels and later rows without, in ten chunks, of a model whose scores are not
calibrated. Compared first: all estimates of all chunks, which must agree within 1e-4. Then the
processor time of both, fitting and estimating, bands included, without reading files. And how
far what is told from kept counts (on the bins that a bundle freezes) lies from what all rows
tell, with the time of that, which does not depend on the number of rows.
"""

from __future__ import annotations

import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

import peers
from measuring import Row, arguments, median, report

from falaj.models.reference import score_edges
from falaj.monitoring.expected import Curve, Groups, Vector, estimated

FIGURES = ("auc", "average_precision", "f1", "precision", "recall", "accuracy")
SIZES = {"small": [20_000, 100_000], "full": [20_000, 100_000, 500_000]}
N_CHUNKS = 10
THRESHOLD = 0.5


def drawn(n: int, shape: float, seed: int) -> tuple[Vector, Vector]:
    """Scores, and labels that come true less often than the scores say."""
    random = np.random.default_rng(seed)
    scores = random.beta(shape, 3.0, n)
    return scores, (random.random(n) < scores**1.5).astype(np.float64)


def by_rows(scores: Vector, labels: Vector, later: Vector) -> list[dict[str, float]]:
    """Ours, from all rows, with the bands."""
    curve = Curve.of_rows(scores, labels)
    found = []
    for chunk in np.split(later, N_CHUNKS):
        groups = Groups.of_rows(curve, chunk, THRESHOLD)
        told = estimated(curve, groups, 0.95)
        found.append({name: told[name][0] for name in FIGURES})
    return found


def counted(edges: Vector, scores: Vector, weights: Vector | None = None) -> Vector:
    """Sums on the bins that a sketch has."""
    places = np.searchsorted(edges, scores, side="left")
    return np.bincount(places, weights=weights, minlength=len(edges) + 1).astype(np.float64)


def by_counts(
    edges: Vector, reference: list[Vector], later: list[tuple[Vector, Vector]]
) -> list[dict[str, float]]:
    """Ours, from counts, with the bands."""
    n, totals, ones = reference
    curve = Curve.of_bins(totals / np.maximum(n, 1), n, ones)
    found = []
    for counts, sums in later:
        groups = Groups.of_bins(curve, edges, counts, sums, THRESHOLD)
        told = estimated(curve, groups, 0.95)
        found.append({name: told[name][0] for name in FIGURES})
    return found


def farthest(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """The greatest difference of any figure of any chunk."""
    return max(abs(a[name] - b[name]) for a, b in zip(one, other, strict=True) for name in FIGURES)


def measured(n: int, peer: peers.Peer, folder: Path, rounds: int) -> list[Row]:
    """The rows of one size."""
    scores, labels = drawn(n, 1.5, 1)
    later, _ = drawn(n, 2.0, 2)
    for name, s, extra in (("reference", scores, {"label": labels}), ("analysis", later, {})):
        table = {"score": s, "predicted": (s >= THRESHOLD).astype(np.int64), **extra}
        pq.write_table(pa.table(table), folder / f"{name}.parquet")
    told = peer.ask("estimate", chunk=n // N_CHUNKS)
    rows = by_rows(scores, labels, later)
    theirs = [{name: told["figures"][name][place] for name in FIGURES} for place in range(N_CHUNKS)]
    edges = score_edges(scores)
    reference = [counted(edges, scores, one) for one in (None, scores, labels)]
    chunks = [(counted(edges, one), counted(edges, one, one)) for one in np.split(later, N_CHUNKS)]
    apart, coarse = farthest(rows, theirs), farthest(by_counts(edges, reference, chunks), rows)
    seconds: list[list[float]] = [[], [], []]
    for _ in range(rounds):
        seconds[0].append(peer.ask("estimate", chunk=n // N_CHUNKS)["seconds"])
        for place, work in (
            (1, lambda: by_rows(scores, labels, later)),
            (2, lambda: by_counts(edges, reference, chunks)),
        ):
            started = time.process_time()
            work()
            seconds[place].append(time.process_time() - started)
    slow, exact, kept = (1_000 * median(one) for one in seconds)
    size, name = f"{n:,} + {n:,} rows", "NannyML"
    versions = {"nannyml": told["version"], "falaj": version("falaj")}
    return [
        Row("CBPE from rows", size, "ms CPU", exact, slow, name, goal=">= 20 times",
            met=slow >= 20 * exact, versions=versions),
        Row("CBPE from kept counts", size, "ms CPU", kept, slow, name, goal=">= 20 times",
            met=slow >= 20 * kept, versions=versions),
        Row("farthest figure from NannyML's", size, "difference", apart, goal="<= 1e-4",
            met=apart <= 1e-4),
        Row("farthest figure, counts from rows", size, "difference", coarse),
    ]  # fmt: skip


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    if not peers.available("nannyml"):
        print("NannyML is not here: `make peers` installs it. Nothing was measured.")
        return
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        script = "monitoring/peers/nannyml_cbpe.py"
        with peers.Peer(script, folder, environment="nannyml") as peer:
            for n in SIZES[given.size]:
                rounds = 3 if given.size == "small" else 5
                found += measured(n, peer, Path(folder), rounds)
    report("monitoring", "Performance without labels", found, given)


if __name__ == "__main__":
    main()
