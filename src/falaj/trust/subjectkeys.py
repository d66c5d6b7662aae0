"""The keys of data subjects, kept in a table of their own, each under one data key.

A row has a keyed hash of the subject's kind and name (the *handle*), the random pseudonym,
the secret wrapped by a data key, which the key service wraps, and the name sealed under the
secret itself. So the table alone names nobody, and what is left of the installation when a
row is gone (the key service too) does not tell whose pseudonym it was.
"""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Corrupt, Unavailable
from falaj.trust.ports import KeyService, WrappedKey
from falaj.trust.subjects import Destroyed, Subject, SubjectKey

T = TypeVar("T")
HANDLES = "subject-handles"
"""The purpose of the secret that handles are hashed under."""
LOOK_SECONDS = 0.3
MOST_REMEMBERED = 200_000
_ATTEMPTS = 8
_NONCE = 12


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A subject's key as it is kept."""

    handle: bytes
    """32 bytes, unique."""
    pseudonym: int
    """From 0 to 2**63 - 1, unique."""
    data_key: int
    """Which data key wraps the secret."""
    wrapped: bytes
    name: bytes
    """Kind and name, sealed under the secret."""


class KeyTable(Protocol):
    """Where rows of subject keys are kept.

    Guarantees: each write is whole or absent, and on stable storage when the call returns;
    what ``remove`` removes is then overwritten as far as the store can do it, which its
    adapter states. Safe from many threads and processes.

    Raises:
        Unavailable: the store does not answer. Corrupt: it cannot be read.
    """

    def by_handle(self, handles: Sequence[bytes]) -> list[KeyRow]:
        """The rows with these handles, in no order."""
        ...

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[KeyRow]:
        """The rows with these pseudonyms, in no order."""
        ...

    def add(self, rows: Sequence[KeyRow]) -> None:
        """Keep rows; one whose handle or pseudonym is taken, or whose data key is gone, is
        left out.
        """
        ...

    def remove(self, handle: bytes, at: datetime) -> Destroyed | None:
        """Destroy a row and count the destruction; None if there is no such row."""
        ...

    def removed(self, *, after: int = 0) -> list[Destroyed]:
        """The destructions with a sequence above ``after``, in order."""
        ...

    def sequence(self) -> int:
        """The sequence of the last destruction, 0 if there was none; cheap."""
        ...

    def data_keys(self) -> dict[int, str]:
        """The wrapped data keys (``WrappedKey.to_text``), by number."""
        ...

    def add_data_key(self, number: int, wrapped: str) -> None:
        """Keep a data key unless there is one of that number."""
        ...

    def exchange_data_key(self, number: int, old: str, new: str) -> bool:
        """Put another wrapping in the place of one; False if it is not there any more."""
        ...

    def drop_data_key(self, number: int) -> bool:
        """Overwrite a data key under which no row stands; False if there are rows."""
        ...

    def pages(self, *, data_key: int | None = None) -> Iterator[list[KeyRow]]:
        """All rows (or only those under one data key), some thousand at a time."""
        ...

    def rewrapped(self, rows: Sequence[KeyRow]) -> None:
        """Put these rows' wrapped secrets and data keys in the place of the old ones."""
        ...

    def copy(
        self,
        *,
        data_keys: dict[int, str] | None = None,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        """Take over rows and destructions of another table as they are; removes what those
        destroyed, and the data keys that ``data_keys`` does not have.
        """
        ...

    def count(self) -> int:
        """How many rows there are."""
        ...

    def flaw(self) -> str:
        """What in the table does not fit together, in words; empty if all does. Reads all."""
        ...

    def close(self) -> None:
        """Give files or connections back."""
        ...


class StoredKeys:
    """``SubjectKeys`` over a ``KeyTable``; remembers keys, and forgets within a second those
    that any process destroyed.

    Args:
        table: where the rows are; closed by ``close``.
        keys: wraps the table's data key.
        clock: the instants of destructions.
        ticks: seconds that only grow, for the age of what is remembered.
    """

    def __init__(
        self,
        table: KeyTable,
        keys: KeyService,
        clock: Clock,
        *,
        ticks: Callable[[], float] = time.monotonic,
        most: int = MOST_REMEMBERED,
    ) -> None:
        self.table = table
        self._keys = keys
        self._clock = clock
        self._ticks = ticks
        self._most = most
        self._guard = threading.Lock()
        self._handle_key: bytes | None = None
        self._data_keys: dict[int, bytes] = {}
        self._by_handle: dict[bytes, SubjectKey] = {}
        self._by_pseudonym: dict[int, tuple[bytes, SubjectKey]] = {}
        self._seen: int | None = None
        self._looked = float("-inf")
        self._drops = 0

    def of(self, subjects: Sequence[Subject], *, make: bool) -> list[SubjectKey | None]:
        """See ``SubjectKeys.of``."""
        self._look()
        handles = [self._handle(subject) for subject in subjects]
        wanted = dict(zip(handles, subjects, strict=True))
        known = self._known(list(wanted))
        for _ in range(_ATTEMPTS if make else 0):
            missing = {h: s for h, s in wanted.items() if h not in known}
            if not missing:
                break
            self.table.add(self._rows(missing))
            known |= self._read(self.table.by_handle, list(missing))
        if make and len(known) < len(wanted):
            raise Unavailable(
                "The keys of data subjects could not be made.",
                hint="Repeat the call; nothing was written.",
            )
        return [known.get(handle) for handle in handles]

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[SubjectKey | None]:
        """See ``SubjectKeys.by_pseudonym``."""
        self._look()
        remembered = self._by_pseudonym
        found = {p: entry[1] for p in set(pseudonyms) if (entry := remembered.get(p)) is not None}
        missing = list({*pseudonyms} - found.keys())
        if missing:
            read = self._read(self.table.by_pseudonym, missing)
            found |= {key.pseudonym: key for key in read.values()}
        return [found.get(pseudonym) for pseudonym in pseudonyms]

    def destroy(self, subject: Subject) -> Destroyed | None:
        """See ``SubjectKeys.destroy``."""
        done = self.table.remove(self._handle(subject), self._clock.now())
        if done is not None:
            self._forget([done.pseudonym])
        return done

    def destroyed(self, *, after: int = 0) -> list[Destroyed]:
        """See ``SubjectKeys.destroyed``; none of those is remembered here any more.

        So rows that are read after it are not opened with keys that it tells are gone.
        """
        found = self.table.removed(after=after)
        if found:
            self._forget([one.pseudonym for one in found])
        return found

    def close(self) -> None:
        """Forget all keys and close the table."""
        with self._guard:
            self._by_handle, self._by_pseudonym, self._data_keys = {}, {}, {}
        self.table.close()

    # -- what is remembered -------------------------------------------------------------

    def _look(self) -> None:
        """Forget what was destroyed elsewhere, asking at most every 0.3 s."""
        now = self._ticks()
        if now - self._looked < LOOK_SECONDS:
            return
        sequence, seen = self.table.sequence(), self._seen
        if seen is not None and sequence != seen:
            if sequence < seen:  # another table stands in its place
                self._forget(list(self._by_pseudonym))
            else:
                self._forget([one.pseudonym for one in self.table.removed(after=seen)])
        self._seen, self._looked = sequence, now

    def _forget(self, pseudonyms: Sequence[int]) -> None:
        with self._guard:
            self._drops += 1
            for pseudonym in pseudonyms:
                entry = self._by_pseudonym.pop(pseudonym, None)
                if entry is not None:
                    self._by_handle.pop(entry[0], None)

    def _known(self, handles: Sequence[bytes]) -> dict[bytes, SubjectKey]:
        remembered = self._by_handle
        found = {h: key for h in handles if (key := remembered.get(h)) is not None}
        missing = [handle for handle in handles if handle not in found]
        return found | self._read(self.table.by_handle, missing) if missing else found

    def _read(
        self, ask: Callable[[Sequence[T]], list[KeyRow]], wanted: Sequence[T]
    ) -> dict[bytes, SubjectKey]:
        """Rows, opened and remembered, unless something was destroyed while they were read."""
        before = self._drops
        found = {row.handle: self._opened(row) for row in ask(wanted)}
        with self._guard:
            if self._drops == before:
                if len(self._by_handle) + len(found) > self._most:
                    self._by_handle, self._by_pseudonym = {}, {}
                self._by_handle.update(found)
                self._by_pseudonym.update((k.pseudonym, (h, k)) for h, k in found.items())
        return found

    # -- rows ---------------------------------------------------------------------------

    def _handle(self, subject: Subject) -> bytes:
        if self._handle_key is None:
            self._handle_key = self._keys.derive(HANDLES)
        said = f"{subject.kind}\0{subject.name}".encode()
        return hmac.digest(self._handle_key, said, "sha256")

    def _rows(self, subjects: dict[bytes, Subject]) -> list[KeyRow]:
        number = self._active()
        cipher = AESGCM(self._data_key(number))
        rows = []
        for handle, subject in subjects.items():
            pseudonym = int.from_bytes(os.urandom(8), "big") >> 1
            secret, bound = os.urandom(32), _bound(pseudonym)
            name = msgspec.msgpack.encode((subject.kind, subject.name))
            rows.append(
                KeyRow(
                    handle,
                    pseudonym,
                    number,
                    _sealed(cipher, secret, handle + bound),
                    _sealed(AESGCM(secret), name, b"name" + bound),
                )
            )
        return rows

    def _opened(self, row: KeyRow) -> SubjectKey:
        bound = _bound(row.pseudonym)
        try:
            secret = _open(AESGCM(self._data_key(row.data_key)), row.wrapped, row.handle + bound)
            said = _open(AESGCM(secret), row.name, b"name" + bound)
        except InvalidTag:
            raise _damaged(f"the key behind the pseudonym {row.pseudonym:016x}") from None
        kind, name = msgspec.msgpack.decode(said, type=tuple[str, str])
        return SubjectKey(row.pseudonym, secret, Subject(kind, name))

    # -- the data key -------------------------------------------------------------------

    def _active(self) -> int:
        numbers = self.table.data_keys()
        if not numbers:
            self.table.add_data_key(1, self._new_data_key(1)[1])
            numbers = self.table.data_keys()
        return max(numbers)

    def _new_data_key(self, number: int) -> tuple[bytes, str]:
        data_key = AESGCM.generate_key(256)
        return data_key, self._keys.wrap(data_key, context=_context(number)).to_text()

    def _data_key(self, number: int) -> bytes:
        found = self._data_keys.get(number)
        if found is None:
            wrapped = self.table.data_keys().get(number)
            if wrapped is None:
                raise _damaged(f"the data key {number}")
            found = self._keys.unwrap(WrappedKey.parse(wrapped), context=_context(number))
            self._data_keys[number] = found
        return found

    # -- as a store that rotation reaches -------------------------------------------------

    name = "subject keys"

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``: the data keys, by number."""
        for number, wrapped in sorted(self.table.data_keys().items()):
            item = f"{number:09d}"
            if item > after:
                yield item, WrappedKey.parse(wrapped).key_id

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``."""
        number = int(item)
        old = self.table.data_keys().get(number)
        if old is None:
            return False
        context = _context(number)
        data_key = self._keys.unwrap(WrappedKey.parse(old), context=context)
        new = self._keys.wrap(data_key, context=context).to_text()
        return self.table.exchange_data_key(number, old, new)

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``: a new data key for every subject's key."""
        number = int(item)
        numbers = self.table.data_keys()
        if number not in numbers:
            return False
        following = max(numbers)
        if following == number:
            following += 1
            self.table.add_data_key(following, self._new_data_key(following)[1])
        cipher = AESGCM(self._data_key(following))
        while not self.table.drop_data_key(number):
            for rows in self.table.pages(data_key=number):
                self.table.rewrapped([self._moved(row, following, cipher) for row in rows])
        self._data_keys.pop(number, None)
        return True

    def _moved(self, row: KeyRow, number: int, cipher: AESGCM) -> KeyRow:
        bound = row.handle + _bound(row.pseudonym)
        try:
            secret = _open(AESGCM(self._data_key(row.data_key)), row.wrapped, bound)
        except InvalidTag:
            raise _damaged(f"the key behind the pseudonym {row.pseudonym:016x}") from None
        wrapped = _sealed(cipher, secret, bound)
        return KeyRow(row.handle, row.pseudonym, number, wrapped, row.name)


def data_key_opens(keys: KeyService, number: int, wrapped: str) -> bool:
    """True if the key service can unwrap a data key of a ``KeyTable``."""
    try:
        keys.unwrap(WrappedKey.parse(wrapped), context=_context(number))
    except Corrupt:
        return False
    return True


def _bound(pseudonym: int) -> bytes:
    return pseudonym.to_bytes(8, "big")


def _context(number: int) -> str:
    return f"subject keys {number}"


def _sealed(cipher: AESGCM, data: bytes, associated: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + cipher.encrypt(nonce, data, associated)


def _open(cipher: AESGCM, sealed: bytes, associated: bytes) -> bytes:
    return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], associated)


def _damaged(what: str) -> Corrupt:
    return Corrupt(
        f"The store of subject keys is damaged: {what} is not what was written.",
        hint="Bring the store's own replica back (privacy.replica).",
    )


__all__ = ["KeyRow", "KeyTable", "StoredKeys", "data_key_opens"]
