"""How this room compiles its inner loops, and how it spreads them over processors.

A kernel is a function over numpy arrays and numbers in a module named ``kernels*.py``,
compiled by numba at its first call without the interpreter's lock. What was compiled is
kept beside the module, or in the user's cache folder, so that only the first process
waits for the compiler. The cache looks at a kernel's own file alone: a kernel calls only
kernels of its own module.

Loading numba takes 0.3 s: these modules are imported where a kernel is first needed.
numba's own threads are not used, because its layers are not safe under many callers.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

F = TypeVar("F", bound=Callable[..., Any])
_MOST_THREADS = 16


def compiled(function: F) -> F:
    """The function as machine code, without the interpreter's lock, kept between processes.

    Where no folder for the cache can be written, it is compiled anew in each process.
    """
    import numba

    compiler: Any = numba.njit
    try:
        kernel: F = compiler(nogil=True, cache=True)(function)
    except RuntimeError:  # numba found no folder that it may write
        kernel = compiler(nogil=True)(function)
    return kernel


def plain(array: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """An array as kernels take it, contiguous and writable: so each is compiled but once."""
    return np.require(array, dtype, ["C", "W"])


class _Pool:
    """The threads of this process that run kernels; made anew after a fork."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._pid = 0
        self._threads: ThreadPoolExecutor | None = None

    def threads(self) -> ThreadPoolExecutor:
        with self._making:
            if self._threads is None or self._pid != os.getpid():
                self._threads = ThreadPoolExecutor(processors(), "kernels")
                self._pid = os.getpid()
            return self._threads


_pool = _Pool()


def processors() -> int:
    """How many processors this process may use, at most 16."""
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    return min(os.cpu_count() or 1, _MOST_THREADS)


def in_slices(work: Callable[[int, int], object], n: int, *, least: int = 16_384) -> None:
    """Call ``work(low, high)`` for slices that cover ``range(n)``, on all processors at once.

    Args:
        work: releases the interpreter's lock for most of its time, and never calls this.
        n: what is divided.
        least: a slice has at least so many, so that handing it over pays.

    Raises:
        What ``work`` raised first; every slice has ended by then.
    """
    n_slices = max(1, min(processors(), n // least))
    edges = [n * i // n_slices for i in range(n_slices + 1)]
    if n_slices == 1:
        work(0, n)
        return
    threads = _pool.threads()
    others = [threads.submit(work, *edges[i : i + 2]) for i in range(1, n_slices)]
    try:
        work(*edges[:2])
    finally:
        failures = [one.exception() for one in others]
    for failure in failures:
        if failure is not None:
            raise failure
