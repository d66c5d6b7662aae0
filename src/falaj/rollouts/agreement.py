"""How far the challengers of a shadow rollout say what the champion says, from sketches.

Both are asked the same rows, so their scores can be compared as they fall; who is right is not
told, since nobody has seen what a shadow says.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from falaj.rollouts.model import CHAMPION
from falaj.rollouts.records import Agreement, Run

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.engine import Connection

    from falaj.monitoring.keptsketches import KeptSketches
    from falaj.monitoring.sketches import Sketch

Reals = NDArray[np.float64]


def agreement(
    sketches: KeptSketches, connection: Connection, run: Run, now: datetime
) -> list[Agreement]:
    """The score differences of each challenger since the run began.

    They are told from the kept sketches, to the minute and to the bins of the scores.

    Raises:
        NotFound, Corrupt: a version's bundle cannot be read.
    """
    end = run.ended_at or now
    since = run.started_at.replace(second=0, microsecond=0)

    def seen(variant: str, version: int, *, shadow: bool = False) -> tuple[Sketch, Reals]:
        until = end + timedelta(minutes=1)
        found = sketches.window(
            connection, run.endpoint, run.model, version, since, until,
            variant=variant, shadow=shadow,
        )  # fmt: skip
        return found, sketches.score_edges(run.model, version)

    champion, edges = seen(CHAMPION, run.champion)
    return [
        compared(one.name, champion, edges, *seen(one.name, one.version, shadow=True))
        for one in run.rollout.challengers
    ]


def compared(
    name: str, champion: Sketch, edges: Reals, challenger: Sketch, own_edges: Reals
) -> Agreement:
    """The difference of two sketches of scores.

    Args:
        name: of the challenger.
        champion, challenger: what each said.
        edges, own_edges: of the bins of their scores.

    Returns:
        means, and the greatest distance between the shares of scores up to a point, over all
        edges (the statistic of Kolmogorov and Smirnov, to the bins); None without scores.
    """
    said, tried = int(champion.scores.sum()), int(challenger.scores.sum())
    if not said or not tried:
        return Agreement(challenger=name, n_champion=said, n_challenger=tried)
    mean = float(champion.score_totals.sum()) / said
    own_mean = float(challenger.score_totals.sum()) / tried
    points = np.union1d(edges, own_edges)
    gaps = np.abs(_up_to(champion, edges, points) - _up_to(challenger, own_edges, points))
    place = int(gaps.argmax())
    return Agreement(
        challenger=name,
        n_champion=said,
        n_challenger=tried,
        mean_champion=mean,
        mean_challenger=own_mean,
        greatest_gap=float(gaps[place]),
        gap_at=float(points[place]),
    )


def _up_to(sketch: Sketch, edges: Reals, points: Reals) -> Reals:
    """The share of scores up to each point, straight between the edges."""
    shares = np.cumsum(sketch.scores)[:-1] / sketch.scores.sum()
    return np.asarray(np.interp(points, edges, shares, left=0.0, right=1.0), dtype=np.float64)
