"""Numbers that JSON has no word for: NaN and the infinities, written as text.

``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` are what pydantic writes and reads for them;
PostgreSQL and strict JSON readers refuse the bare words that Python writes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def written(number: float) -> float | str:
    """The number, or its name if JSON has no word for it."""
    if math.isfinite(number):
        return number
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def finite(document: Any) -> Any:
    """A JSON-ready document in which each NaN and infinity is its name."""
    if isinstance(document, float):
        return written(document)
    if isinstance(document, Mapping):
        return {name: finite(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [finite(value) for value in document]
    return document
