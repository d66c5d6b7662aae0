"""Space that is kept for the record: actions stop before the disk of the records is full.

A disk that is quite full keeps no record, not even that of a refusal. So actions that change
something are refused a little earlier, while what they ask and what becomes of it can still be
written down. Those that make harm less (ending a session, rolling back) are done as long as
their record can be kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import LimitExceeded

STILL_DONE = frozenset(
    {
        "accounts.deactivate",
        "accounts.revoke_sessions",
        "endpoints.rollback",
        "jobs.cancel",
    }
)
_EVERY_SECONDS = 0.5


class Space:
    """Tells whether a disk has more room than is kept for records.

    Args:
        folder: on the disk.
        reserved_bytes: what is kept.
        ticks: seconds that only grow.
    """

    def __init__(
        self, folder: Path, reserved_bytes: int, *, ticks: Callable[[], float] = monotonic
    ) -> None:
        self._folder = folder
        self._reserved = reserved_bytes
        self._ticks = ticks
        self._looked = float("-inf")
        self._free = reserved_bytes

    def demand(self, action: str) -> None:
        """Let an action that changes something be done, or stop it.

        Raises:
            LimitExceeded: only what is kept for records is left.
        """
        if action in STILL_DONE:
            return
        now = self._ticks()
        if now - self._looked >= _EVERY_SECONDS:
            found = os.statvfs(self._folder)
            self._free, self._looked = found.f_bavail * found.f_frsize, now
        if self._free < self._reserved:
            raise LimitExceeded(
                "The disk of the metadata database is nearly full, so nothing was done.",
                hint="Free some space, then repeat the call; the rest is kept for the audit log.",
            )
