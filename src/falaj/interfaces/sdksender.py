"""Metric values on their way to a platform: in batches, from a thread, in bounded memory."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from falaj.kernel.errors import ErrorKind, FalajError, InvalidInput

BATCH = 1_000
"""So many values at most go in one call."""
MOST_WAITING = 50_000
"""So many values wait at most; who logs more waits until some are sent."""
EVERY_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""So long a batch is sent again while the platform does not answer."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0


class Value(NamedTuple):
    """One value of a metric; ``at`` in Unix seconds."""

    key: str
    value: float
    step: int
    at: float


Send = Callable[[Sequence[Value], str], None]
"""Sends a batch under an idempotency key, or raises."""


class ValuesNotSent(FalajError):
    """Values of metrics could not be sent; the run lacks them."""

    code = "values-not-sent"
    kind = ErrorKind.UNAVAILABLE


class MetricSender:
    """Sends values in the order in which they were added, each once.

    Safe from several threads. A batch that meets no answer is sent again under the same
    idempotency key. Once a batch has failed for good nothing more is sent, and every later
    call raises ``ValuesNotSent``: no value is lost in silence.

    Args:
        send: sends one batch.
        batch, most_waiting, every_seconds, patience_seconds: see the constants' words.
    """

    def __init__(
        self,
        send: Send,
        *,
        batch: int = BATCH,
        most_waiting: int = MOST_WAITING,
        every_seconds: float = EVERY_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._send = send
        self._batch = batch
        self._most = max(most_waiting, batch)
        self._every = every_seconds
        self._patience = patience_seconds
        self._waiting: deque[Value] = deque()
        self._in_flight = 0
        self._n_added = self._n_sent = 0
        self._hurried = 0
        self._closed = False
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, values: Sequence[Value]) -> None:
        """Take values to be sent; waits while too many wait already.

        Raises:
            ValuesNotSent: an earlier batch could not be sent.
            InvalidInput: this was closed.
        """
        with self._changed:
            self._start()
            for value in values:
                while len(self._waiting) >= self._most and self._failure is None:
                    self._changed.notify_all()
                    self._changed.wait()
                self._check()
                if self._closed:
                    raise InvalidInput("The run has ended.", hint="Log before its end.")
                self._waiting.append(value)
                self._n_added += 1
            if len(self._waiting) >= self._batch:
                self._changed.notify_all()

    def flush(self) -> None:
        """Return when all values that were added before are there; raises ValuesNotSent."""
        with self._changed:
            self._check()
            self._hurried += 1
            self._changed.notify_all()
            wanted = self._n_added
            try:
                self._changed.wait_for(lambda: self._failure is not None or self._n_sent >= wanted)
            finally:
                self._hurried -= 1
            self._check()

    def close(self) -> None:
        """Send what waits, and end the thread; raises ValuesNotSent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()
        with self._changed:
            self._check()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="falaj-metrics", daemon=True)
            self._thread.start()

    def _check(self) -> None:
        if self._failure is None:
            return
        n_lacking = len(self._waiting) + self._in_flight
        reason = self._failure
        told = reason.message if isinstance(reason, FalajError) else f"{reason!r}"
        raise ValuesNotSent(
            f"{n_lacking} values of metrics could not be sent: {told}",
            hint=reason.hint if isinstance(reason, FalajError) else "",
            n_values=n_lacking,
        ) from reason

    def _run(self) -> None:
        while True:
            batch = self._taken()
            if not batch:
                return
            try:
                self._sent(batch)
            except Exception as error:  # noqa: BLE001 - it is raised to whoever logs next
                with self._changed:
                    self._failure = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._n_sent += self._in_flight
                self._in_flight = 0
                self._changed.notify_all()

    def _taken(self) -> list[Value]:
        """The next batch; empty when there is nothing more to come."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._changed.wait_for(
                lambda: len(self._waiting) >= self._batch or self._hurried or self._closed,
                timeout=self._every,
            )
            n_taken = min(len(self._waiting), self._batch)
            batch = [self._waiting.popleft() for _ in range(n_taken)]
            self._in_flight = n_taken
            self._changed.notify_all()
            return batch

    def _sent(self, batch: Sequence[Value]) -> None:
        key = uuid.uuid4().hex
        until = time.monotonic() + self._patience
        pause = _FIRST_PAUSE
        while True:
            try:
                return self._send(batch, key)
            except FalajError as error:
                if not error.retryable or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
