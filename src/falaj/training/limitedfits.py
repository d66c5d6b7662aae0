"""Fits under limits: a trainer's ``fit`` in a process of its own, here or on Ray.

The far side makes the trainer by its name and is sent what ``fit`` is given, as plain data.
What the fit reports, and the states it offers to keep, come back while it works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.clock import monotonic
from falaj.kernel.compute import Plain, tell
from falaj.kernel.processes import bytes_moved, peak_bytes
from falaj.kernel.resources import Resources, Used
from falaj.training.plainly import plainly, rebuilt_from

if TYPE_CHECKING:
    from falaj.kernel.compute import Task
    from falaj.kernel.limits import Check, LimitedCompute

_KEPT_EVERY_SECONDS = 5.0
"""A state is sent that often at most; the fit costs no more than this after a loss."""
REPORT, CHECKPOINTS = "report", "checkpoints"


def fitted_under_limits(
    compute: LimitedCompute,
    task: Task,
    trainer: str,
    resources: Resources,
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    *,
    check: Check,
    measured: Callable[[Used], None],
) -> Any:
    """What ``fit(*args, **given)`` of the trainer of that name returns, done under limits.

    Args:
        compute: where.
        task: a task that calls ``fit_told`` with the trainer of the name in its item.
        given: by name; ``report`` and ``checkpoints`` are kept here and hear of the fit.
        check: raises if the fit should stop.
        measured: told what was used, once, however it ended.

    Raises:
        HardwareMissing, MemoryLimit, TimeLimit, TaskLost, TaskFailed: see ``LimitedCompute``.
        Whatever ``fit``, ``report`` or ``checkpoints`` raises.
    """
    report, checkpoints = given.get(REPORT), given.get(CHECKPOINTS)
    sent = {name: one for name, one in given.items() if name not in (REPORT, CHECKPOINTS)}
    item = {
        "trainer": trainer,
        "args": plainly(list(args)),
        "given": plainly(sent),
        "reports": report is not None,
        "keeps": checkpoints is not None,
        "last": None if checkpoints is None else plainly(checkpoints.last()),
    }

    def heard(told: Plain) -> None:
        if told[0] == REPORT and report is not None:
            report(told[1], told[2])
        elif told[0] == CHECKPOINTS and checkpoints is not None:
            state = rebuilt_from(told[2])
            checkpoints.keep(told[1], lambda: state)

    answered = compute.limited(task, item, resources, heard=heard, check=check, measured=measured)
    return rebuilt_from(answered)


class ToldCheckpoints:
    """The far end of a fit's checkpoints: tells of states, no more often than is useful."""

    def __init__(self, last: bytes | None) -> None:
        self._last = last
        self._kept_at = monotonic()

    def last(self) -> bytes | None:
        """The state that was kept last."""
        return self._last

    def keep(self, n_done: int, state: Callable[[], bytes]) -> None:
        """Send the state after so many rounds, unless one was sent just now."""
        if monotonic() - self._kept_at < _KEPT_EVERY_SECONDS:
            return
        tell([CHECKPOINTS, n_done, plainly(state())])
        self._kept_at = monotonic()


def fit_told(fit: Callable[..., Any], item: Plain) -> Plain:
    """In the process under limits: fit as the item says, telling on the way."""
    given = rebuilt_from(item["given"])
    if item["reports"]:
        given[REPORT] = lambda share, told: tell([REPORT, float(share), str(told)])
    if item["keeps"]:
        given[CHECKPOINTS] = ToldCheckpoints(rebuilt_from(item["last"]))
    return plainly(fit(*rebuilt_from(item["args"]), **given))


def fitted_here(
    fit: Callable[..., Any],
    args: tuple[Any, ...],
    given: Mapping[str, Any],
    *,
    measured: Callable[[Used], None],
) -> Any:
    """What ``fit`` returns, done in this process without limits, and roughly measured.

    Processor time is this whole process's, and so is the most memory: an upper bound.
    """
    import os

    began, cpu, moved = monotonic(), time.process_time(), bytes_moved(os.getpid())
    try:
        return fit(*args, **given)
    finally:
        now = bytes_moved(os.getpid())
        measured(
            Used(
                wall_seconds=monotonic() - began,
                cpu_seconds=time.process_time() - cpu,
                peak_memory_bytes=peak_bytes(),
                read_bytes=now[0] - moved[0],
                written_bytes=now[1] - moved[1],
            )
        )
