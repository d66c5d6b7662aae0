"""Work beside answers: other threads get the interpreter's lock soon.

A thread that computes in Python keeps the lock for 5 ms by default before another one gets
it. Where the other one answers requests, each of its turns would wait so long.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PATIENCE_SECONDS = 0.0002
"""Answers wait so long for the interpreter's lock while something is built beside them."""
_lock = threading.Lock()
_inside: list[float] = []
"""For each who is inside: the interval that was usual before the first of them came."""


@contextmanager
def yielding() -> Iterator[None]:
    """Let other threads have the lock soon while this is open; any number may be at once."""
    with _lock:
        _inside.append(_inside[0] if _inside else sys.getswitchinterval())
        sys.setswitchinterval(_PATIENCE_SECONDS)
    try:
        yield
    finally:
        with _lock:
            usual = _inside.pop()
            if not _inside:
                sys.setswitchinterval(usual)
