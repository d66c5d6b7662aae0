"""A limit of time for queries whose text comes from somebody else."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from falaj.kernel.errors import LimitExceeded

_SECONDS: ContextVar[float | None] = ContextVar("falaj-query-seconds", default=None)


class QueryTooLong(LimitExceeded):
    """A query took longer than it was given."""

    code = "query-too-long"


@contextmanager
def queries_within(seconds: float) -> Iterator[None]:
    """Each ``Lake.query`` of this thread is ended after some seconds (QueryTooLong)."""
    before = _SECONDS.set(seconds)
    try:
        yield
    finally:
        _SECONDS.reset(before)


@contextmanager
def bounded(interrupt: Callable[[], object]) -> Iterator[None]:
    """Call ``interrupt`` if the work within takes longer than this thread's limit, if any."""
    seconds = _SECONDS.get()
    if seconds is None:
        yield
        return
    late = threading.Event()

    def end() -> None:
        late.set()
        interrupt()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if late.is_set():
            raise QueryTooLong(
                f"The query took longer than {seconds:g} seconds and was ended.",
                hint="Read fewer rows: state a window of time, or aggregate beforehand.",
            ) from error
        raise
    finally:
        timer.cancel()


__all__ = ["QueryTooLong", "bounded", "queries_within"]
