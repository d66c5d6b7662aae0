"""Checkpoints of a fit: sealed blobs, named by the job's own checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.lake.blobs import SealedBlobs


class SealedCheckpoints:
    """Keeps the state of one fit encrypted, the newest alone; see ``Checkpoints``.

    Args:
        blobs: where the state lies.
        owner: the job that fits. Blobs are named by their content: without it two jobs of the
            same request would share their states, and one would delete the other's.
        digest: of the state that an earlier attempt kept; None at a first attempt.
        noted: puts the digest of a new state down, durably; only then the old one is let go.
        every_seconds: the least time between two states that are kept.
    """

    def __init__(
        self,
        blobs: SealedBlobs,
        owner: str,
        digest: str | None,
        noted: Callable[[str], None],
        *,
        every_seconds: float,
    ) -> None:
        self._blobs = blobs
        self._head = owner.encode() + b"\0"
        self._digest = digest
        self._noted = noted
        self._every = every_seconds
        self._kept_at = time.monotonic()

    def last(self) -> bytes | None:
        """The state that was kept last, or None; also None if it is gone: the fit begins anew."""
        if self._digest is None or not self._blobs.has(self._digest):
            return None
        return self._blobs.fetch(self._digest).removeprefix(self._head)

    def keep(self, n_done: int, state: Callable[[], bytes]) -> None:
        """Keep the state if the time has come; raises as the job's own checkpoint does."""
        if time.monotonic() - self._kept_at < self._every:
            return
        old, self._digest = self._digest, self._blobs.keep(self._head + state())
        self._noted(self._digest)
        self._kept_at = time.monotonic()
        if old is not None and old != self._digest:
            self._blobs.forget(old)
