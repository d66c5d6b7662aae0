"""Keys of data subjects in memory, for tests of those who seal under them."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence
from datetime import UTC, datetime

from falaj.trust.subjects import Destroyed, Subject, SubjectKey


class MemorySubjectKeys:
    """A ``SubjectKeys`` that lives as long as its process. Safe from many threads.

    ``n_asked`` counts the questions that were not about destructions.
    """

    def __init__(self) -> None:
        self.n_asked = 0
        self._lock = threading.Lock()
        self._keys: dict[Subject, SubjectKey] = {}
        self._by_pseudonym: dict[int, SubjectKey] = {}
        self._destroyed: list[Destroyed] = []

    def of(self, subjects: Sequence[Subject], *, make: bool) -> list[SubjectKey | None]:
        """See ``SubjectKeys.of``."""
        with self._lock:
            self.n_asked += 1
            for subject in subjects if make else ():
                if subject not in self._keys:
                    made = SubjectKey(secrets.randbits(63), secrets.token_bytes(32), subject)
                    self._keys[subject] = self._by_pseudonym[made.pseudonym] = made
            return [self._keys.get(subject) for subject in subjects]

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[SubjectKey | None]:
        """See ``SubjectKeys.by_pseudonym``."""
        with self._lock:
            self.n_asked += 1
            return [self._by_pseudonym.get(pseudonym) for pseudonym in pseudonyms]

    def destroy(self, subject: Subject) -> Destroyed | None:
        """See ``SubjectKeys.destroy``."""
        with self._lock:
            key = self._keys.pop(subject, None)
            if key is None:
                return None
            del self._by_pseudonym[key.pseudonym]
            done = Destroyed(key.pseudonym, datetime.now(UTC), len(self._destroyed) + 1)
            self._destroyed.append(done)
            return done

    def destroyed(self, *, after: int = 0) -> list[Destroyed]:
        """See ``SubjectKeys.destroyed``."""
        with self._lock:
            return self._destroyed[after:]
