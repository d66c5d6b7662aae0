"""Detectors of change in a series: ADWIN, Page-Hinkley and KSWIN, through the library river.

What is kept of a detector is what it has seen, in order: it is replayed before it sees more,
so that it goes on after a restart as if there had been none, whatever version of the library
reads it. After a bounded number of values it starts anew from the newest half of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from falaj.kernel.errors import InvalidInput

DetectorName = Literal["adwin", "page_hinkley", "kswin"]
_MOST: dict[str, int] = {"adwin": 20_000, "page_hinkley": 20_000, "kswin": 2_000}
"""Values after which a detector starts anew; KSWIN tests two samples at each one."""


class Detector(BaseModel):
    """A detector and what it is set to; what is left out is as the library has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DetectorName = "adwin"
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of ADWIN the significance, of Page-Hinkley the change that is let pass."""
    threshold: Annotated[float, Field(gt=0)] | None = None
    """Of Page-Hinkley."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of KSWIN the significance, of Page-Hinkley the forgetting."""
    seed: int = 0
    """Of KSWIN, which samples."""

    @property
    def most(self) -> int:
        """After how many values it starts anew."""
        return _MOST[self.name]


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
    detector = made(rule)
    for value in seen:
        detector.update(value)
    alarms = []
    for place, value in enumerate(new):
        if not np.isfinite(value):
            continue
        if len(seen) >= rule.most:
            seen = seen[-rule.most // 2 :]
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

    given = {
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
    if rule.name == "adwin":
        return drift.ADWIN(**given)
    if rule.name == "page_hinkley":
        return drift.PageHinkley(**given)
    return drift.KSWIN(seed=rule.seed, **given)
