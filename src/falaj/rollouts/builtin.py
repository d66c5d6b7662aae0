"""The guardrails that need no declaration: errors and latency, from what workers count.

Each look takes the requests since the one before. Errors are compared for the traffic that
each variant really had, so no share need be known, and none need be constant. Of the latency
the requests that are slower than a frozen threshold are compared, the champion's 99th
percentile: a request of the challenger counts if it is slower than that by more than is
tolerated.

Requests are counted, but units are assigned: the evidence of a likelihood of independent events
is divided by how much less they tell, by units (``clustered``) and between looks.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from falaj.rollouts.clustered import Clusters, capped, outlying
from falaj.rollouts.evidence import EventCurve, mean_evidence, threshold
from falaj.rollouts.guardrails import blank, breach
from falaj.rollouts.model import LEAST_PERIODS, Guardrail, GuardrailReading
from falaj.rollouts.readings import Counter, Tally, bucket_above, bucket_at
from falaj.serving.counted import BUCKETS, upper_of

LATENCY_QUANTILE = 0.99
_LEAST_ANSWERS = 1_000
"""Of the champion, before its quantile is taken for a threshold."""
_RESIDUALS, _LEAST_RESIDUALS = 60, 8
_WEIGHT_OF_PERIODS = 0.1
"""Of the evidence by how many periods were worse, beside that by how much worse they were."""
_BEFORE_KNOWN = 2.0
"""The dispersion of errors between looks until there are residuals enough to tell it."""
_MEDIAN_OF_CHI_SQUARED = 0.4549
"""With one degree of freedom."""

Memory = dict[str, Any]
Counted = tuple[int, int, int, int]
"""Events and requests of the challenger, then of the champion."""


def begin() -> Memory:
    """What is remembered of a guardrail from the first look on."""
    return {
        "logs": None,
        "tally": [0, 0, 0, 0],
        "judged": [0, 0, 0, 0],
        "residuals": [],
        "clusters": None,
        "units": None,
        "seen": None,
    }


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
        champion, tried: what was counted since the beginning, of champion and challenger. The
            first look only takes it down.
        error: that this guardrail and challenger may spend.
    """
    moved = moved_on(guardrail, memory, champion, tried)
    if moved is None:
        return _without_threshold(guardrail, challenger, error)
    return weighed(guardrail, challenger, memory, *moved, error)


def weighed(
    guardrail: Guardrail,
    challenger: str,
    memory: Memory,
    champion: Tally,
    tried: Tally,
    error: float,
) -> GuardrailReading:
    """As ``judged``, of what happened since the look before."""
    reading = blank(guardrail, challenger, error)
    _take(reading, memory, (*tried.totals, *champion.totals))
    champion, tried = _without_outlying(memory, champion, tried)
    found = (*tried.totals, *champion.totals)
    tolerated = _tolerated(guardrail)
    curve = EventCurve.empty(tolerated)
    if memory["logs"] is not None:
        curve.logs = np.array(memory["logs"], dtype=np.float64)
    clusters = Clusters.read(tolerated, memory["clusters"])
    _note_residual(memory, found)
    events, requests, others, other_requests = found
    curve.add(events, others, requests, other_requests)
    clusters.add(tried.events, champion.events, tried.requests, champion.requests)
    memory["logs"], memory["clusters"] = curve.logs.tolist(), clusters.told()
    memory["judged"] = [a + b for a, b in zip(memory["judged"], found, strict=True)]
    known = len(memory["residuals"]) >= _LEAST_RESIDUALS
    if not known and guardrail.metric != "error_rate":
        reading.why = "too little was seen to tell how much slow requests come in clumps"
        return reading
    between = dispersion(memory["residuals"]) if known else _BEFORE_KNOWN
    reading.judged = min(memory["judged"][1], memory["judged"][3]) > 0
    curve.logs = curve.logs / tempered(clusters.design_effect(), between)
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
    difference of rates, which chance makes positive as often as negative. Evidence is the mean of
    two e-values: by how large the differences are, relative to the champion's rate, and by how
    many are positive, which also tells where the champion hardly ever fails.
    """
    moved = moved_on(guardrail, memory, champion, tried)
    if moved is None:
        return _without_threshold(guardrail, challenger, error)
    reading = blank(guardrail, challenger, error)
    found = (*moved[1].totals, *moved[0].totals)
    tolerated = _tolerated(guardrail)
    open_, pairs = memory.setdefault("open", [period, 0, 0, 0, 0]), memory.setdefault("pairs", [])
    if open_[0] != period:
        _, events, requests, others, other_requests = open_
        if requests and other_requests:
            pairs.append([events / requests, others / other_requests])
            _note_worse(memory, (events, requests, others, other_requests), tolerated)
        open_[:] = [period, 0, 0, 0, 0]
    open_[1:] = [a + b for a, b in zip(open_[1:], found, strict=True)]
    _take(reading, memory, found)
    if len(pairs) < LEAST_PERIODS:
        reading.why = f"{len(pairs)} of {LEAST_PERIODS} periods are over"
        return reading
    rates = np.array(pairs)
    harm = rates[:, 0] - rates[:, 1] * (1 + tolerated)
    variance, scale = float(harm.var(ddof=1)) / len(harm), float(rates[:, 1].mean())
    # Without a scale, a few periods with harm tell neither how much it is nor that it is chance.
    reading.judged = scale > 0 or not harm.any()
    by_size = mean_evidence(harm.mean(), variance, scale)
    by_periods = _worse_periods(memory, tolerated).log_evidence()[0]
    evidence = np.logaddexp(
        math.log(1 - _WEIGHT_OF_PERIODS) + by_size, math.log(_WEIGHT_OF_PERIODS) + by_periods
    )
    if evidence >= threshold(error):
        reading.judged = True
        breach(reading, tolerated)
    return reading


def _worse_periods(memory: Memory, tolerated: float) -> EventCurve:
    """The evidence by which of the two was worse in each period."""
    curve = EventCurve.empty(tolerated)
    if memory["logs"] is not None:
        curve.logs = np.array(memory["logs"], dtype=np.float64)
    return curve


def _note_worse(memory: Memory, found: Counted, tolerated: float) -> None:
    """Take a period that is over to the evidence by which of the two was worse in it.

    If both are alike, each period in which they differ is as likely to be worse for the one as
    for the other, where both have as many segments. Whoever has more of them also meets more of
    what is rare; whoever has fewer is more often above the mean. So a period counts as one event
    that falls on the challenger with the larger one of the two shares of its requests.
    """
    events, requests, others, other_requests = found
    harm = events / requests - others / other_requests * (1 + tolerated)
    if not harm:
        return
    curve = _worse_periods(memory, tolerated)
    more, fewer = max(requests, other_requests), min(requests, other_requests)
    curve.add(int(harm > 0), int(harm < 0), more, fewer)
    memory["logs"] = curve.logs.tolist()


def dispersion(residuals: list[float]) -> float:
    """How many times more events vary between looks than chance has it; at least 1.

    Slow requests come in clumps (a pause, a full batch), and failures too: by as much as they
    do, less is read into each of them. By the median of squared Pearson residuals, which one
    bad look does not move.
    """
    return max(1.0, statistics.median(residuals) / _MEDIAN_OF_CHI_SQUARED)


def tempered(by_units: ArrayLike, between: ArrayLike) -> NDArray[np.float64]:
    """By what the logarithm of evidence is divided: how many events are read as one.

    As variances of two ways of clustering add up, less what both have (Cameron, Gelbach and
    Miller, Journal of Business & Economic Statistics 29, 2011).

    Args:
        by_units: their design effect, at least 1.
        between: the dispersion between looks, at least 1.
    """
    effect, spread = (np.asarray(one, dtype=np.float64) for one in (by_units, between))
    return np.asarray(effect + spread - 1.0)


def moved_on(
    guardrail: Guardrail, memory: Memory, champion: Counter, tried: Counter
) -> tuple[Tally, Tally] | None:
    """What happened since the look before, of champion and challenger; ``memory`` is moved on.

    None as long as there is no threshold of the latency. What chooses it is not judged by it.
    """
    if guardrail.metric == "error_rate":
        present = [Tally(one.failed, one.failed + one.answered) for one in (champion, tried)]
    else:
        if "bucket" not in memory and not _frozen(guardrail, memory, champion.histogram()):
            return None
        limits = memory["bucket"], memory["challenger_bucket"]
        present = [
            Tally(one.slower_than(limit), one.answered)
            for one, limit in zip((champion, tried), limits, strict=True)
        ]
    seen = memory["seen"]
    memory["seen"] = [one.told() for one in present]
    if seen is None:
        return Tally.nothing(), Tally.nothing()
    before = [Tally.read(one) for one in seen]
    return present[0].since(before[0]), present[1].since(before[1])


def _without_outlying(memory: Memory, champion: Tally, tried: Tally) -> tuple[Tally, Tally]:
    """What happened, without the buckets that stood out in the looks before this one.

    Whoever fails at every request has told that after some of them; all further ones would
    hide what happens to everybody else. Which buckets are left out depends neither on this look
    nor on the variant that they failed with, so it favours none. In the look itself, a bucket's
    failures are read up to where it stands out among the others of that look.
    """
    known = Tally.nothing() if memory["units"] is None else Tally.read(memory["units"])
    kept = ~outlying(known.events, known.requests)
    both = Tally(
        known.events + champion.events + tried.events,
        known.requests + champion.requests + tried.requests,
    )
    memory["units"] = both.told()
    look = (champion.events + tried.events, champion.requests + tried.requests)
    part = kept * capped(*look, both.events, both.requests)
    left = [Tally(one.events * part, one.requests * kept) for one in (champion, tried)]
    return left[0], left[1]


def _frozen(guardrail: Guardrail, memory: Memory, present: NDArray[np.int64]) -> bool:
    """Freeze the threshold of the latency if the champion has answered enough by now."""
    begun = np.zeros(BUCKETS, np.int64)
    for place, n in memory.get("begun", [[place, n] for place, n in enumerate(present.tolist())]):
        begun[place] = n
    grown = present - begun
    if (grown < 0).any():
        # Counts were lost: which of the others are from before the rollout cannot be told.
        begun[:], grown = present, np.zeros_like(present)
    memory["begun"] = [[place, int(begun[place])] for place in np.flatnonzero(begun).tolist()]
    if grown.sum() < _LEAST_ANSWERS:
        return False
    bucket = memory["bucket"] = bucket_at(grown, LATENCY_QUANTILE) or 0
    memory["challenger_bucket"] = bucket_above(bucket, 1 + guardrail.tolerated)
    del memory["begun"]
    return True


def _tolerated(guardrail: Guardrail) -> float:
    """Of latency it stands in the threshold already."""
    return guardrail.tolerated if guardrail.metric == "error_rate" else 0.0


def _without_threshold(guardrail: Guardrail, challenger: str, error: float) -> GuardrailReading:
    reading = blank(guardrail, challenger, error)
    reading.why = f"the champion has answered fewer than {_LEAST_ANSWERS} requests"
    return reading


def _note_residual(memory: Memory, found: Counted) -> None:
    """How far the split of events lies from that of all looks before, squared.

    Looks are taken together until there are events enough to say.
    """
    waiting = memory.setdefault("waiting", [0, 0, 0, 0])
    waiting[:] = [a + b for a, b in zip(waiting, found, strict=True)]
    events, requests, others, other_requests = waiting
    # Those of this look are not in the tally yet, but those that waited are.
    e, n, o, m = (
        all_ - (kept - new)
        for all_, kept, new in zip(memory["judged"], waiting, found, strict=True)
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


def _take(reading: GuardrailReading, memory: Memory, found: Counted) -> None:
    """Add what happened to the tally, and tell it."""
    memory["tally"] = [a + b for a, b in zip(memory["tally"], found, strict=True)]
    events, requests, others, other_requests = memory["tally"]
    reading.n_challenger, reading.n_champion = requests, other_requests
    reading.challenger_value = events / requests if requests else None
    reading.champion = others / other_requests if other_requests else None


__all__ = [
    "LATENCY_QUANTILE",
    "begin",
    "dispersion",
    "judged",
    "judged_by_period",
    "moved_on",
    "tempered",
    "weighed",
]
