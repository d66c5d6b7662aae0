"""Detectors of change in a series: ADWIN, Page-Hinkley and KSWIN, through the library river.

What is kept of a detector is what it has seen, in order: it is replayed before it sees more,
so that it goes on after a restart as if there had been none, whatever version of the library
reads it. After a bounded number of values it starts anew from the newest half of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.driftwords import Detector

_MOST: dict[str, int] = {"adwin": 20_000, "page_hinkley": 20_000, "kswin": 2_000}
"""Values after which a detector starts anew; KSWIN tests two samples at each one."""


@dataclass(frozen=True)
class Followed:
    """What a detector knows after some values.

    Attributes:
        values: what it is made of again.
        alarms: which of the new values raised an alarm, counted from 0.
    """

    values: NDArray[np.float64]
    alarms: list[int]


def follow(rule: Detector, values: NDArray[np.float64], new: Sequence[float]) -> Followed:
    """Let a detector see new values; the same values give the same, in one call or in many.

    Args:
        rule: which detector.
        values: what it had seen, as a former call told.
        new: those that are not finite are left out.

    Raises:
        InvalidInput: the library is not installed, or a setting is none of the detector's.
    """
    seen = [float(value) for value in values]
    detector, most = made(rule), _MOST[rule.name]
    for value in seen:
        detector.update(value)
    alarms = []
    for place, value in enumerate(new):
        if not np.isfinite(value):
            continue
        if len(seen) >= most:
            seen = seen[-most // 2 :]
            detector = made(rule)
            for before in seen:
                detector.update(before)
        detector.update(float(value))
        seen.append(float(value))
        if detector.drift_detected:
            alarms.append(place)
    return Followed(np.array(seen, dtype=np.float64), alarms)


def made(rule: Detector) -> Any:
    """A detector of the library that has seen nothing."""
    try:
        from river import drift
    except ImportError as error:
        raise InvalidInput(
            "Detectors of change in a series need the library river.",
            hint="Install it with the extra: pip install 'falaj[monitoring]'.",
        ) from error

    given: dict[str, Any] = {
        name: value
        for name in ("delta", "threshold", "alpha")
        if (value := getattr(rule, name)) is not None
    }
    allowed = {"adwin": {"delta"}, "page_hinkley": {"delta", "threshold", "alpha"},
               "kswin": {"alpha"}}[rule.name]  # fmt: skip
    wrong = sorted(set(given) - allowed)
    if wrong:
        raise InvalidInput(
            f"{rule.name} has no {wrong[0]!r}.", hint=f"It has: {', '.join(sorted(allowed))}."
        )
    if rule.name == "kswin":
        given["seed"] = rule.seed
    kinds: dict[str, Any] = {
        "adwin": drift.ADWIN, "page_hinkley": drift.PageHinkley, "kswin": drift.KSWIN,
    }  # fmt: skip
    return kinds[rule.name](**given)
