"""The guardrails that need no declaration: errors and latency, from what workers count.

Each look takes the requests since the one before. Errors are compared for the traffic that
each variant really had, so no share need be known, and none need be constant. Of the latency
the requests that are slower than a frozen threshold are compared, the champion's 99th
percentile: a request of the challenger counts if it is slower than that by more than is
tolerated.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from falaj.rollouts.evidence import EventCurve, mean_evidence, threshold
from falaj.rollouts.guardrails import LEAST_CLUSTERS, blank, breach
from falaj.rollouts.model import Guardrail, GuardrailReading
from falaj.rollouts.readings import Counter, bucket_above
from falaj.serving.counted import upper_of

LATENCY_QUANTILE = 0.99
_LEAST_ANSWERS = 1_000
"""Of the champion, before its quantile is taken for a threshold."""
_RESIDUALS, _LEAST_RESIDUALS = 60, 8
CLUMP = 3.0
"""So many failures are taken for one at least: one client that tries again falls on one variant
with all of its failures."""
INDEPENDENT = 100.0
"""As so many independent events all of them together are read at most. A client stays with its
variant: what those who fail by themselves add to one side is there at every look, so it shows in
no spread between looks, and would some day seem certain."""
_MEDIAN_OF_CHI_SQUARED = 0.4549
"""With one degree of freedom."""

Memory = dict[str, Any]
Tally = tuple[int, int, int, int]
"""Events and requests of the challenger, then of the champion."""


def begin() -> Memory:
    """What is remembered of a guardrail from the first look on."""
    return {"logs": None, "tally": [0, 0, 0, 0], "residuals": [], "history": Counter().told()}


def judged(
    guardrail: Guardrail,
    challenger: str,
    memory: Memory,
    champion: Counter,
    tried: Counter,
    error: float,
) -> GuardrailReading:
    """The guardrail at a look; ``memory`` is moved on.

    Args:
        champion, tried: what happened since the look before, of champion and challenger.
        error: that this guardrail and challenger may spend.
    """
    reading = blank(guardrail, challenger, error)
    found = _tally(guardrail, memory, champion, tried)
    if found is None:
        reading.why = f"the champion has answered fewer than {_LEAST_ANSWERS} requests"
        return reading
    events, requests, others, other_requests = found
    curve = EventCurve.empty(guardrail.tolerated if guardrail.metric == "error_rate" else 0.0)
    if memory["logs"] is not None:
        curve.logs = np.array(memory["logs"], dtype=np.float64)
    _note_residual(memory, found)
    curve.add(events, others, requests, other_requests)
    memory["logs"] = curve.logs.tolist()
    memory["tally"] = [a + b for a, b in zip(memory["tally"], found, strict=True)]
    _tell(reading, memory)
    known = len(memory["residuals"]) >= _LEAST_RESIDUALS
    if not known and guardrail.metric != "error_rate":
        reading.why = "too little was seen to tell how much slow requests come in clumps"
        return reading
    clump = max(
        CLUMP if guardrail.metric == "error_rate" else 1.0,
        dispersion(memory["residuals"]) if known else 1.0,
    )
    curve.logs = curve.logs / tempered(clump, memory["tally"][0] + memory["tally"][2])
    worse_by = curve.worse_by(error)
    if worse_by is not None:
        breach(reading, worse_by)
        if guardrail.metric == "latency":
            limit = upper_of(memory["challenger_bucket"]) * 1000
            reading.why = (
                f"at least {worse_by:.0%} more requests are slower than {limit:.4g} ms than of"
                f" the champion than {upper_of(memory['bucket']) * 1000:.4g} ms, with an error of"
                f" {error:.4g} over all looks"
            )
    return reading


def judged_by_period(
    guardrail: Guardrail,
    challenger: str,
    memory: Memory,
    champion: Counter,
    tried: Counter,
    error: float,
    period: int,
) -> GuardrailReading:
    """As ``judged`` for an interleaved rollout: whole periods are what is compared.

    Segments differ, and in one period a variant has some of them: each period gives one
    difference of rates, which chance makes positive as often as negative.
    """
    reading = blank(guardrail, challenger, error)
    found = _tally(guardrail, memory, champion, tried)
    if found is None:
        reading.why = f"the champion has answered fewer than {_LEAST_ANSWERS} requests"
        return reading
    tolerated = guardrail.tolerated if guardrail.metric == "error_rate" else 0.0
    open_, pairs = memory.setdefault("open", [period, 0, 0, 0, 0]), memory.setdefault("pairs", [])
    if open_[0] != period:
        _, events, requests, others, other_requests = open_
        if requests and other_requests:
            pairs.append([events / requests, others / other_requests])
        open_[:] = [period, 0, 0, 0, 0]
    open_[1:] = [a + b for a, b in zip(open_[1:], found, strict=True)]
    memory["tally"] = [a + b for a, b in zip(memory["tally"], found, strict=True)]
    _tell(reading, memory)
    if len(pairs) < LEAST_CLUSTERS:
        reading.why = f"{len(pairs)} of {LEAST_CLUSTERS} periods are over"
        return reading
    rates = np.array(pairs)
    harm = rates[:, 0] - rates[:, 1] * (1 + tolerated)
    variance, scale = float(harm.var(ddof=1)) / len(harm), float(rates[:, 1].mean())
    if scale > 0 and mean_evidence(harm.mean(), variance, scale) >= threshold(error):
        breach(reading, tolerated)
    return reading


def dispersion(residuals: list[float]) -> float:
    """How many times more events vary between looks than chance has it; at least 1.

    Slow requests come in clumps (a pause, a full batch), and failures too: by as much as they
    do, less is read into each of them. By the median of squared Pearson residuals, which one
    bad look does not move.
    """
    return max(1.0, statistics.median(residuals) / _MEDIAN_OF_CHI_SQUARED)


def tempered(clump: ArrayLike, events: ArrayLike) -> NDArray[np.float64]:
    """By what the logarithm of evidence is divided: how many events are read as one.

    Args:
        clump: by how they come, at least 1.
        events: of both sides so far.
    """
    return np.maximum(clump, np.asarray(events, dtype=np.float64) / INDEPENDENT)


def _tally(guardrail: Guardrail, memory: Memory, champion: Counter, tried: Counter) -> Tally | None:
    if guardrail.metric == "error_rate":
        return tried.failed, tried.requests, champion.failed, champion.requests
    if "bucket" not in memory:
        # What chooses the threshold is not judged by it.
        history = Counter.read(memory["history"]) + champion
        memory["history"] = history.told()
        if history.answered < _LEAST_ANSWERS:
            return None
        bucket = memory["bucket"] = history.bucket_at(LATENCY_QUANTILE) or 0
        memory["challenger_bucket"] = bucket_above(bucket, 1 + guardrail.tolerated)
        memory["history"] = Counter().told()
        return 0, 0, 0, 0
    return (
        tried.slower_than(memory["challenger_bucket"]),
        tried.answered,
        champion.slower_than(memory["bucket"]),
        champion.answered,
    )


def _note_residual(memory: Memory, found: Tally) -> None:
    """How far the split of events lies from that of all looks before, squared.

    Looks are taken together until there are events enough to say.
    """
    waiting = memory.setdefault("waiting", [0, 0, 0, 0])
    waiting[:] = [a + b for a, b in zip(waiting, found, strict=True)]
    events, requests, others, other_requests = waiting
    # Those of this look are not in the tally yet, but those that waited are.
    e, n, o, m = (
        all_ - (kept - new) for all_, kept, new in zip(memory["tally"], waiting, found, strict=True)
    )
    if not (requests and other_requests):
        return
    ratio = (e + 0.5) / (n + 1) / ((o + 0.5) / (m + 1)) if e + o >= 10 else 1.0
    p = requests * ratio / (requests * ratio + other_requests)
    spread = (events + others) * p * (1 - p)
    if spread >= 0.5:
        squared = (events - (events + others) * p) ** 2 / spread
        memory["residuals"] = [*memory["residuals"], squared][-_RESIDUALS:]
        waiting[:] = [0, 0, 0, 0]


def _tell(reading: GuardrailReading, memory: Memory) -> None:
    events, requests, others, other_requests = memory["tally"]
    reading.n_challenger, reading.n_champion = requests, other_requests
    reading.challenger_value = events / requests if requests else None
    reading.champion = others / other_requests if other_requests else None


__all__ = ["LATENCY_QUANTILE", "begin", "dispersion", "judged", "judged_by_period", "tempered"]
