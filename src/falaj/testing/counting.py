"""Work counted instead of timed: a busy machine makes it longer, never more."""

import sys
from collections.abc import Callable
from types import FrameType


def n_calls(work: Callable[[], object]) -> int:
    """How many functions, of Python and of C, this thread calls while it does the work.

    Loops inside a single call of C are not seen: a search through a list counts as one call.
    A profiler that is set is put back afterwards, and sees nothing of the work.
    """
    n = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal n
        n += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(before)
    return n
