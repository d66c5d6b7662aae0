"""What keeps a study while its tuner works: a thread that sends whole trials that changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import FalajError
from falaj.training.tuning.model import TrialRecord

if TYPE_CHECKING:
    from falaj.training.tuning.storage import StudyStorage

Keep = Callable[[list[TrialRecord], dict[str, Any]], None]
"""Keeps trials and the study's attributes, and renews the tuner's lease."""
EVERY_SECONDS = 0.5
SHOWN_SECONDS = 5.0
"""So often at least, what trials report on their way is kept."""
HEARTBEAT_SECONDS = 10.0
PATIENCE_SECONDS = 60.0
PART = 200
"""So many trials at most go in one call."""


class Recorder:
    """Keeps what changes in a study's storage, until it is closed.

    Args:
        storage: of the study.
        keep: keeps trials, or raises. Errors that may pass are tried again for
            ``patience_seconds``; whatever ends it for good is raised by ``check``.
    """

    def __init__(
        self,
        storage: StudyStorage,
        keep: Keep,
        *,
        every_seconds: float = EVERY_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._storage = storage
        self._keep = keep
        self._every = every_seconds
        self._patience = patience_seconds
        self._closed = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._failure: Exception | None = None
        self._kept_at = self._shown_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="falaj-study", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise what has ended the keeping, if anything has."""
        if self._failure is not None:
            raise self._failure

    def flush(self) -> None:
        """Keep what has changed by now; raises what that raises."""
        self.check()
        with self._one_at_a_time:
            self._sent()

    def close(self) -> None:
        """Keep what has changed, and end; raises what has ended the keeping."""
        self._closed.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        failing_since: float | None = None
        while not self._closed.wait(self._every):
            try:
                with self._one_at_a_time:
                    self._sent()
                failing_since = None
            except Exception as error:  # noqa: BLE001 - it is raised in the tuner's own thread
                now = time.monotonic()
                failing_since = failing_since or now
                may_pass = isinstance(error, FalajError) and error.retryable
                if not may_pass or now - failing_since > self._patience:
                    self._failure = error
                    return

    def _sent(self) -> None:
        now = time.monotonic()
        beat = now - self._kept_at > HEARTBEAT_SECONDS
        seldom = self._closed.is_set() or now - self._shown_at > SHOWN_SECONDS
        trials, attrs = self._storage.take_changed(under_way=seldom)
        if not (trials or attrs or beat):
            return
        try:
            for start in range(0, max(len(trials), 1), PART):
                self._keep(trials[start : start + PART], attrs)
        except BaseException:
            self._storage.put_back(trials, attrs)
            raise
        self._kept_at = now
        if seldom:
            self._shown_at = now
