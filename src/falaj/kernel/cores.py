"""Cores that are lent to one run at a time, across all processes of one user on a machine."""

from __future__ import annotations

import fcntl
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from falaj.kernel.resources import HardwareMissing


@contextmanager
def lent_cores(wanted: float) -> Iterator[set[int]]:
    """As many cores as are wanted, rounded up: free ones first, else shared ones.

    A core is lent by a lock on a file, so that one whose borrower was killed is free again.

    Raises:
        HardwareMissing: this process may not use so many.
    """
    there = sorted(os.sched_getaffinity(0))
    n_wanted = math.ceil(wanted)
    if n_wanted > len(there):
        raise HardwareMissing(
            f"The run asks for {n_wanted} cores, and this machine has {len(there)} for it.",
            hint="Ask for fewer (resources.cpus), or run it on a cluster (compute = ray://…).",
        )
    if n_wanted == len(there):
        yield set(there)
        return
    folder = Path(tempfile.gettempdir()) / f"falaj-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        yield set(there)  # somebody else's folder: every core may be used, none is reserved
        return
    with ExitStack() as held:
        lent: list[int] = []
        for core in there:
            if len(lent) == n_wanted:
                break
            file: IO[bytes] = held.enter_context((folder / str(core)).open("ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            lent.append(core)
        # When not enough are free the rest are shared with others, by the scheduler's choice.
        yield set(lent) if len(lent) == n_wanted else set(there)
