"""The keys of data subjects as one process uses them: ready to seal and open, and soon gone.

Who answers requests may not ask a store for a key each time. A process keeps the ciphers of
the subjects that it met last, and looks a few times a second whether any was destroyed.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import Corrupt, ErrorKind, FalajError, Unavailable
from falaj.trust.subjects import Subject, SubjectKey, SubjectKeys

FRESH_SECONDS = 0.3
MOST = 50_000
"""Subjects whose ciphers are kept."""
PSEUDONYM = struct.Struct(">Q")
"""A pseudonym as bytes."""
NONCE_BYTES = 12
_GONE_SECONDS = 60.0
"""For so long a key that was destroyed is not believed, whoever still gives it."""
N = TypeVar("N", Subject, bytes)


class ErasedMeanwhile(FalajError):
    """Somebody was erased between the reading of rows and their writing; read them again."""

    code = "erased-meanwhile"
    kind = ErrorKind.CONFLICT
    retryable = True


class SubjectCipher:
    """What is done with one subject's key.

    Args:
        key: the key; it is not used itself, but keys that are derived from it.
        purpose: different ones make different keys; at most 16 bytes.
    """

    __slots__ = ("_cipher", "_naming", "pseudonym", "subject")

    def __init__(self, key: SubjectKey, purpose: bytes) -> None:
        self.subject = key.subject
        self.pseudonym = PSEUDONYM.pack(key.pseudonym)
        """Eight bytes."""
        self._naming = hashlib.blake2b(b"name", key=key.secret, person=purpose).digest()
        sealing = hashlib.blake2b(b"seal", key=key.secret, person=purpose, digest_size=32)
        self._cipher = AESGCM(sealing.digest())

    def name(self, data: bytes) -> bytes:
        """24 bytes that stand for some bytes, and tell nothing of them once the key is gone."""
        return hashlib.blake2b(data, key=self._naming, digest_size=24).digest()

    def seal(self, data: bytes, about: bytes) -> bytes:
        """Bytes encrypted (AES-256-GCM, random nonce in front); ``about`` is authenticated."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, about)

    def open(self, sealed: bytes, about: bytes) -> bytes:
        """The bytes as they were; raises Corrupt if they are not what was sealed."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about)
        except (InvalidTag, ValueError):
            raise Corrupt(
                "What was sealed under a data subject's key is not what was written.",
                hint="Look for who changed it; make it anew from its source.",
            ) from None


class SubjectCiphers:
    """The ciphers of data subjects, kept while they are in use and dropped once destroyed.

    Args:
        keys: where keys are.
        purpose: what they are used for here; at most 16 bytes.
        most: so many subjects are kept; those not met for longest are let go.
        fresh_seconds: how often destructions are asked for.
        now: seconds of a steady clock.

    Safe from many threads. That there is no key is never remembered: a key that another
    process has made is found at once. A destruction is known everywhere ``fresh_seconds``
    later; if it cannot be asked for, nothing is answered at all.
    """

    def __init__(
        self,
        keys: SubjectKeys,
        purpose: bytes,
        *,
        most: int = MOST,
        fresh_seconds: float = FRESH_SECONDS,
        now: Callable[[], float] = monotonic,
    ) -> None:
        self._keys = keys
        self._purpose = purpose
        self._half = max(most // 2, 1)
        self._fresh_seconds = fresh_seconds
        self._now = now
        self._stale_at = float("-inf")
        self._sequence = 0
        self._lock = threading.Lock()
        self._young: dict[Subject | bytes, SubjectCipher] = {}
        self._old: dict[Subject | bytes, SubjectCipher] = {}
        self._gone: dict[bytes, float] = {}

    def erasures(self) -> int:
        """A number that grows with each destruction, as of this moment; asks the keys."""
        self._refresh(at_once=True)
        return self._sequence

    def one(self, subject: Subject) -> SubjectCipher | None:
        """The cipher of a subject; None if it has no key. Raises as the keys do."""
        if self._now() < self._stale_at:
            found = self._young.get(subject)
            if found is not None:
                return found
        return self.of([subject], make=False)[0]

    def of(self, subjects: Sequence[Subject], *, make: bool) -> list[SubjectCipher | None]:
        """The cipher of each subject, in order; None where there is none and ``make`` is false.

        Raises:
            Unavailable: the keys cannot be read or made.
        """

        def asked(wanted: Sequence[Subject]) -> list[SubjectKey | None]:
            return self._keys.of(wanted, make=make)

        return self._found(subjects, asked)

    def named(self, subjects: Sequence[Subject], since: int | None) -> list[SubjectCipher]:
        """The ciphers of persons whom rows name that are to be written; made where there are
        none, but not for somebody who was erased while the rows were in memory.

        Args:
            subjects: the persons.
            since: ``erasures()`` before the rows were read; None if they come from outside.

        Raises:
            ErasedMeanwhile: some have no key, and somebody was erased since.
            Unavailable: the keys cannot be read or made.
        """
        found = self.of(subjects, make=False)
        if None in found:
            if since is not None and self.erasures() != since:
                raise ErasedMeanwhile(
                    "Somebody was erased while rows about persons were on their way.",
                    hint="Read them again; nothing was written.",
                )
            found = self.of(subjects, make=True)
        made = [cipher for cipher in found if cipher is not None]
        if len(made) < len(found):
            raise Unavailable(
                "The key of a data subject was destroyed while it was being made.",
                hint="Try again; nothing was written.",
            )
        return made

    def by_pseudonym(self, pseudonyms: Sequence[bytes]) -> list[SubjectCipher | None]:
        """The cipher behind each pseudonym (eight bytes), in order; None where it is gone."""

        def asked(wanted: Sequence[bytes]) -> list[SubjectKey | None]:
            return self._keys.by_pseudonym([PSEUDONYM.unpack(one)[0] for one in wanted])

        return self._found(pseudonyms, asked)

    def _found(
        self, named: Sequence[N], ask: Callable[[Sequence[N]], list[SubjectKey | None]]
    ) -> list[SubjectCipher | None]:
        if self._now() >= self._stale_at:
            self._refresh()
        young = self._young
        found = [young.get(name) for name in named]
        if None not in found:
            return found
        # The lock is held from the question to the keeping of its answer, so that no key is
        # kept whose destruction was taken note of between them.
        with self._lock:
            lacking = [name for name, one in zip(named, found, strict=True) if one is None]
            known: dict[N, SubjectCipher] = {}
            for name in dict.fromkeys(lacking):
                kept = self._young.get(name) or self._old.get(name)
                if kept is not None:
                    known[name] = self._kept(kept)
            unknown = [name for name in dict.fromkeys(lacking) if name not in known]
            for name, key in zip(unknown, ask(unknown) if unknown else [], strict=True):
                if key is not None and PSEUDONYM.pack(key.pseudonym) not in self._gone:
                    known[name] = self._kept(SubjectCipher(key, self._purpose))
        return [
            known.get(name) if one is None else one for name, one in zip(named, found, strict=True)
        ]

    def _kept(self, cipher: SubjectCipher) -> SubjectCipher:
        if len(self._young) >= 2 * self._half:  # each stands under its name and its pseudonym
            self._old, self._young = self._young, {}
        self._young[cipher.subject] = self._young[cipher.pseudonym] = cipher
        return cipher

    def _refresh(self, *, at_once: bool = False) -> None:
        with self._lock:
            now = self._now()
            if now < self._stale_at and not at_once:
                return
            for one in self._keys.destroyed(after=self._sequence):
                self._sequence = max(self._sequence, one.sequence)
                pseudonym = PSEUDONYM.pack(one.pseudonym)
                self._gone[pseudonym] = now
                for kept in (self._young, self._old):
                    cipher = kept.pop(pseudonym, None)
                    if cipher is not None and kept.get(cipher.subject) is cipher:
                        del kept[cipher.subject]
            for pseudonym in [p for p, at in self._gone.items() if at < now - _GONE_SECONDS]:
                del self._gone[pseudonym]
            self._stale_at = now + self._fresh_seconds
