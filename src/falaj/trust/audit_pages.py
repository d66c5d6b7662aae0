"""Reads the audit log of a SQLite database page by page, each while the one before is checked.

SQLite itself writes the canonical form of all records of a page (``json_array``, in half the
time that their columns take to fetch and encode) and hands the page over as one row: between
rows a thread would wait for the interpreter's lock, so it can only run beside the hashing as
long as there are none. What SQLite writes is compared with what was hashed by whoever reads:
where it differs (it escapes some text in another way, a column holds bytes) the page is to be
looked at closely, record by record. It costs time and never a finding.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from falaj.trust.audit import COLUMNS

PAGE = 5_000
"""Records that are read at once."""
HASH_BYTES = 32
_SERIALIZED = 3
"""``sqlite3.threadsafety`` of a library that lets threads share a connection."""


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
    """Gives pages of a log in order, the next one being read meanwhile on a thread.

    Args:
        connection: the driver's own connection to a SQLite database, in a transaction.
        end: the number of the last record that is wanted.
        page: records that are read at once.

    Close it before anything else ends the transaction.
    """

    def __init__(self, connection: sqlite3.Connection, end: int, *, page: int = PAGE) -> None:
        self._connection = connection
        self._end = end
        self._size = page
        self._page: Page | None = None
        self._closely = 0
        """Up to here records are to be looked at closely."""
        self._next: tuple[int, Future[Page | None]] | None = None
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
        if page is None:
            self._closely = min(self._end, low + self._size)
            return None
        return page.part(low, min(high, page.high))

    def settle(self) -> None:
        """Wait for what is being read, so that the connection can be used for something else."""
        if self._next is not None:
            self._next[1].exception()

    def close(self) -> None:
        """Read no more."""
        self.settle()
        if self._reader is not None:
            self._reader.shutdown()

    def _taken(self, low: int) -> Page | None:
        """The page behind ``low``; the one behind it is begun."""
        begun, self._next = self._next, None
        if begun is not None and begun[0] == low:
            page = begun[1].result()
        else:
            if begun is not None:
                begun[1].exception()
            page = self._read(low)
        if page is not None and page.high < self._end and sqlite3.threadsafety == _SERIALIZED:
            if self._reader is None:
                self._reader = ThreadPoolExecutor(1, thread_name_prefix="falaj-audit")
            self._next = (page.high, self._reader.submit(self._read, page.high))
        return page

    def _read(self, low: int) -> Page | None:
        high = min(self._end, low + self._size)
        try:
            row = self._connection.execute(_SQL.format(low=low, high=high)).fetchone()
        except sqlite3.Error:  # bytes where a text should be, or more than one row can hold
            return None
        return _page(low, high, row)


def _page(low: int, high: int, row: tuple[Any, ...]) -> Page | None:
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
    hashes = [kept[at : at + HASH_BYTES] for at in range(0, len(kept), HASH_BYTES)]
    return Page(low, high, records, hashes)


_VALUES = ", ".join(["seq", "at", *(f"CAST({name} AS TEXT)" for name in COLUMNS[2:])])
_SQL = (
    "SELECT count(*), CAST(group_concat(record, char(10)) AS BLOB), group_concat(digest, ''), "
    "sum(sound) FROM (SELECT "
    f"json_array({_VALUES}) AS record, hex(hash) AS digest, "
    f"typeof(hash) = 'blob' AND length(hash) = {HASH_BYTES} AS sound "
    "FROM audit_records WHERE seq > {low} AND seq <= {high} ORDER BY seq)"
)
