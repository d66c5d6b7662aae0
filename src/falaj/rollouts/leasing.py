"""Leases that are renewed while something slow is done, so that nobody else does it as well."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger
from falaj.rollouts import runs

if TYPE_CHECKING:
    from types import TracebackType

    from falaj.kernel.calls import Calls
    from falaj.rollouts.runs import Leased

RENEWED_EVERY = 2.0
"""Seconds; several renewals may fail or come late before a lease is over."""
MOST_RENEWED = 300
"""Times: a look that hangs gives its run to another process after ten minutes."""
_log = logger(__name__)


class Renewed:
    """Renews a lease from a thread of its own between ``with`` and its end.

    The thread is not waited for: a renewal that comes late finds the lease given back, and
    changes nothing.

    Args:
        calls: opens the transactions, and tells the time.
        leased: what is leased.
    """

    def __init__(self, calls: Calls, leased: Leased) -> None:
        self._calls = calls
        self._leased = leased
        self._done = threading.Event()

    def __enter__(self) -> None:
        """Begin to renew."""
        threading.Thread(target=self._renew, name="falaj-rollouts-lease", daemon=True).start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Renew no more."""
        self._done.set()

    def _renew(self) -> None:
        for _ in range(MOST_RENEWED):
            if self._done.wait(RENEWED_EVERY):
                return
            try:
                with self._calls.database.transaction() as connection:
                    if not runs.renewed(connection, self._leased, self._calls.now()):
                        return
            except FalajError as error:
                _log.warning(
                    "a lease was not renewed; tried again",
                    run=self._leased.run.id,
                    error=str(error),
                )
