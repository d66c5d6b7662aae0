"""Which variant serves a unit: a stable hash, so that the same unit meets the same model."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate

_SPAN = 1 << 64


def position(salt: str, unit: object) -> float:
    """Where a unit stands in [0, 1): uniform, and independent between salts."""
    digest = blake2b(f"{salt}\x00{unit}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _SPAN


def bounds(shares: Sequence[float]) -> tuple[float, ...]:
    """The upper bounds of the variants' stretches of [0, 1); the last one is 1."""
    summed = list(accumulate(shares))
    summed[-1] = 1.0
    return tuple(summed)


def assigned(uppers: Sequence[float], at: float) -> int:
    """The index of the variant whose stretch holds a position."""
    for index, upper in enumerate(uppers):
        if at < upper:
            return index
    return len(uppers) - 1
