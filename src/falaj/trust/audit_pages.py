"""Reads the audit log of a SQLite database page by page, each while those before are checked.

SQLite itself writes the canonical form of all records of a page (``json_array``, in half the
time that their columns take to fetch and encode) and hands the page over as one row: between
rows a thread would wait for the interpreter's lock, so it can only run beside the hashing as
long as there are none. What SQLite writes is compared with what was hashed by whoever reads:
where it differs (it escapes some text in another way, a column holds bytes) the page is to be
looked at closely, record by record. It costs time and never a finding.

The thread waits up to 5 ms (``sys.getswitchinterval``) for the interpreter's lock, which whoever
hashes does not give up by itself, at the start and at the end of each page. Pages therefore grow,
from what a small log needs to where these waits are small beside a page, and two are begun ahead.
"""

from __future__ import annotations

import sqlite3
import struct
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

from falaj.trust.audit import COLUMNS

PAGE = 5_000
"""Records that are read at once at first; later pages have up to ``LARGEST``."""
LARGEST = 20_000
"""Records that are read at once at most."""
_LARGEST_BYTES = 2**23
"""What the records of a page take at most, as far as those of the last one foretell it."""
_AHEAD = 2
"""Pages that are being read, or wait to be checked."""
HASH_BYTES = 32
_SERIALIZED = 3
"""``sqlite3.threadsafety`` of a library that lets threads share a connection."""


_Written: TypeAlias = tuple[int, Any, Any, int]
"""How many records there are, their canonical forms in lines, their hashes in hex, and how many
of these are hashes."""


@dataclass(frozen=True, slots=True)
class Page:
    """Records ``low < seq <= high``, all of them, as SQLite writes them."""

    low: int
    high: int
    records: list[bytes]
    """The canonical form of each, as far as SQLite writes it."""
    hashes: list[bytes]
    """What is kept as the hash of each; 32 bytes."""

    def part(self, low: int, high: int) -> Page:
        """A part of it."""
        first, last = low - self.low, high - self.low
        return Page(low, high, self.records[first:last], self.hashes[first:last])


class PagesAhead:
    """Gives pages of a log in order, the next ones being read meanwhile on a thread.

    Args:
        connection: the driver's own connection to a SQLite database, in a transaction.
        end: the number of the last record that is wanted.
        page: records that are read at once at first.
        largest: records that are read at once at most.

    Close it before anything else ends the transaction.
    """

    def __init__(
        self, connection: sqlite3.Connection, end: int, *, page: int = PAGE, largest: int = LARGEST
    ) -> None:
        self._connection = connection
        self._end = end
        self._size = page
        self._largest = largest
        self._page: Page | None = None
        self._closely = 0
        """Up to here records are to be looked at closely."""
        self._begun: deque[tuple[int, int, Future[_Written | None]]] = deque()
        """What is read on the thread: behind which record, up to which, and what comes of it."""
        self._reader: ThreadPoolExecutor | None = None

    def part(self, low: int, high: int) -> Page | None:
        """The records behind ``low``, up to ``high`` or to the end of the page they stand on.

        None if the page is to be looked at closely instead: it is not whole, or holds what
        SQLite does not write as JSON.
        """
        if low < self._closely:
            return None
        page = self._page
        if page is None or not page.low <= low < page.high:
            page = self._page = self._taken(low)
        return None if page is None else page.part(low, min(high, page.high))

    def settle(self) -> None:
        """Wait for what is being read, so that the connection can be used for something else."""
        for _, _, written in self._begun:
            written.exception()

    def close(self) -> None:
        """Read no more."""
        self._forget()
        if self._reader is not None:
            self._reader.shutdown()

    def _forget(self) -> None:
        """Begin no page that is not being read yet, and wait for the one that is."""
        for _, _, written in self._begun:
            if not written.cancel():
                written.exception()
        self._begun.clear()

    def _taken(self, low: int) -> Page | None:
        """The page behind ``low``; those behind it are begun."""
        if self._begun and self._begun[0][0] == low:
            _, high, begun = self._begun.popleft()
            written = begun.result()
        else:
            self._forget()
            high = min(self._end, low + self._size)
            written = self._read(low, high)
        page = None if written is None else _page(low, high, written)
        if page is None:
            self._closely = high
        else:
            self._grow(page, written)
        if sqlite3.threadsafety == _SERIALIZED:
            self._begin(self._begun[-1][1] if self._begun else high)
        return page

    def _grow(self, page: Page, written: _Written | None) -> None:
        """Let the next page have half as many records again, as long as they fit."""
        n_bytes = len(written[1]) if written else 0
        fitting = len(page.records) * _LARGEST_BYTES // max(1, n_bytes)
        self._size = max(1, min((self._size * 3 + 1) // 2, self._largest, fitting))

    def _begin(self, low: int) -> None:
        """Let the thread read on behind ``low``."""
        while low < self._end and len(self._begun) < _AHEAD:
            if self._reader is None:
                self._reader = ThreadPoolExecutor(1, thread_name_prefix="falaj-audit")
            high = min(self._end, low + self._size)
            self._begun.append((low, high, self._reader.submit(self._read, low, high)))
            low = high

    def _read(self, low: int, high: int) -> _Written | None:
        try:
            written: _Written = self._connection.execute(_SQL, (low, high)).fetchone()
        except sqlite3.Error:  # bytes where a text should be, or more than one row can hold
            return None
        return written


def _page(low: int, high: int, row: _Written) -> Page | None:
    """What SQLite has written, if it is whole."""
    n, written, digests, n_sound = row
    count = high - low
    # Numbers are keys: so many of them between two are all that there are.
    if n != count or n_sound != count:
        return None
    records: list[bytes] = written.split(b"\n")  # JSON holds no line break of its own
    kept = bytes.fromhex(digests)
    if len(records) != count or len(kept) != count * HASH_BYTES:
        return None
    return Page(low, high, records, list(struct.unpack(f"{HASH_BYTES}s" * count, kept)))


_VALUES = ", ".join(["seq", "at", *(f"CAST({name} AS TEXT)" for name in COLUMNS[2:])])
_SQL = (
    "SELECT count(*), CAST(group_concat(record, char(10)) AS BLOB), group_concat(digest, ''), "
    "sum(sound) FROM (SELECT "
    f"json_array({_VALUES}) AS record, hex(hash) AS digest, "
    f"typeof(hash) = 'blob' AND length(hash) = {HASH_BYTES} AS sound "
    "FROM audit_records WHERE seq > ? AND seq <= ? ORDER BY seq)"
)
