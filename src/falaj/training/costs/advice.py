"""Right-sizing: what a model's runs should ask for, from what its past runs used."""

from __future__ import annotations

import math
from collections.abc import Sequence

from falaj.kernel.resources import LEAST_MEMORY, MIB, Resources, shown_bytes
from falaj.training.costs.model import Advice, RunUsage

LOOKED_AT = 20
"""So many of the newest attempts are looked at."""
MEMORY_ROOM, CORE_ROOM, TIME_ROOM = 1.25, 1.1, 2.0
"""What is advised, over the most that was used."""
_STEP = 64 * MIB
_TOO_LITTLE = "memory-limit"


def advised(model: str, usages: Sequence[RunUsage]) -> Advice:
    """Advice from the newest attempts that were measured in a process of their own.

    Memory is the highest peak and a quarter more, in steps of 64 MiB; cores are the most that
    were busy on average and a tenth more, rounded up; time is twice the longest. After an
    attempt that ran out of memory, twice what it asked for.
    """
    looked_at = [one for one in usages if one.limited and one.outcome in ("done", _TOO_LITTLE)]
    looked_at = looked_at[:LOOKED_AT]
    done = [one for one in looked_at if one.outcome == "done"]
    if not looked_at:
        reason = "No run of this model was measured in a process of its own yet."
        return Advice(model=model, n_runs=0, asked=None, advised=None, reasons=(reason,))
    asked = looked_at[0].resources
    if not done:
        memory = 2 * max(one.resources.memory_bytes for one in looked_at)
        told = f"All {len(looked_at)} runs ran out of memory: ask for {shown_bytes(memory)}."
        more = asked.model_copy(update={"memory_bytes": memory})
        return Advice(
            model=model, n_runs=len(looked_at), asked=asked, advised=more, reasons=(told,)
        )
    workers = asked.workers
    peak = max(one.used.peak_memory_bytes / one.resources.workers for one in done)
    busy = max(
        one.used.cpu_seconds / max(one.used.wall_seconds, 1e-9) / one.resources.workers
        for one in done
    )
    longest = max(one.used.wall_seconds for one in done)
    better = Resources(
        cpus=min(1024, max(1, math.ceil(busy * CORE_ROOM))),
        memory_bytes=max(LEAST_MEMORY, math.ceil(peak * MEMORY_ROOM / _STEP) * _STEP),
        gpus=_gpus(done, asked.gpus),
        seconds=float(max(60, math.ceil(longest * TIME_ROOM))),
        spot=asked.spot,
        workers=workers,
        least_workers=asked.least_workers,
    )
    reasons = [
        f"The highest peak of {len(done)} runs was {shown_bytes(int(peak))} a worker,"
        f" of {shown_bytes(asked.memory_bytes)} that the last one asked for.",
        f"At most {busy:.2f} cores were busy on average, of {asked.cpus:g} asked for.",
        f"The longest took {longest:.1f} s.",
    ]
    if better.gpus != asked.gpus:
        reasons.append(f"The GPUs computed for less than half of the time: {better.gpus:g} do.")
    return Advice(
        model=model, n_runs=len(done), asked=asked, advised=better, reasons=tuple(reasons)
    )


def _gpus(done: Sequence[RunUsage], asked: float) -> float:
    """Half of the GPUs, as long as they computed for less than half of the time."""
    shares = [
        one.used.gpu_seconds / max(one.used.wall_seconds * one.resources.gpus, 1e-9)
        for one in done
        if one.used.gpu_seconds is not None and one.resources.gpus
    ]
    if not shares or max(shares) >= 0.5 or not asked:
        return asked
    return asked / 2 if asked <= 1 else float(math.ceil(asked / 2))
