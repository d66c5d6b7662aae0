"""Rows of a fit, shared out between the workers of a crew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from falaj.training.distributed.crew import CrewWork
from falaj.training.ports import UNKEPT

if TYPE_CHECKING:
    from falaj.kernel.compute import Task
    from falaj.training.encoding import Encoding
    from falaj.training.ports import Checkpoints, Rows

EVERY_SECONDS = 5.0
"""A lost worker costs that much work at most, and what the library does in one round."""
_HERE = "127.0.0.1"


def part_of_rows(rows: Rows, rank: int, n_workers: int) -> Rows:
    """Every so many-th row, beginning at the rank: of each stretch of time its share."""
    weights = None if rows.weights is None else rows.weights[rank::n_workers]
    return replace(
        rows,
        matrix=rows.matrix[rank::n_workers],
        labels=rows.labels[rank::n_workers],
        weights=weights,
    )


def crew_work(
    member: Task,
    train: Rows,
    validation: Rows,
    encoding: Encoding,
    *,
    params: Mapping[str, Any],
    seed: int,
    here: bool,
    checkpoints: Checkpoints = UNKEPT,
    every_seconds: float = EVERY_SECONDS,
) -> CrewWork:
    """What a crew does for ``Trainer.fit`` of these arguments.

    Args:
        member: what each worker runs.
        here: whether all workers are on this machine.
        every_seconds: the least time between two states.
    """
    return CrewWork(
        member,
        {"every_seconds": every_seconds, "host": _HERE if here else None},
        lambda rank, n_workers: part_of_rows(train, rank, n_workers),
        {"params": dict(params), "seed": seed, "validation": validation, "encoding": encoding},
        last=checkpoints.last(),
        keep=lambda n_done, state: checkpoints.keep(n_done, lambda: state),
    )
