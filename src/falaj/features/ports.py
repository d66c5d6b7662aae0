"""What features need of the world: a store that answers fast, keys, definitions.

The lake is the port of its own room (``falaj.lake.ports.Lake``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Merge:
    """A change of some rows that depends on what they hold.

    ``change`` gets the stored rows of ``keys`` (None: no row) and returns the new ones, in
    that order (None: no row). With ``more``, the rows of ``keys`` tell which others are
    needed: ``more`` gets them and returns further keys, is asked again with the rows of all
    keys so far, and so on until it returns none. ``change`` then gets the rows of all keys, in
    that order and of one state of the store, and returns the new rows of all. No key may
    occur twice. Both may be called more than once, and must be pure; what they raise undoes
    the whole write.
    """

    keys: Sequence[bytes]
    change: Callable[[Sequence[bytes | None]], Sequence[bytes | None]]
    more: Callable[[Sequence[bytes | None]], Sequence[bytes]] | None = None


@dataclass(frozen=True)
class Write:
    """One atomic change of an online store.

    ``newer`` are (key, row) pairs: each row replaces the stored one unless that one's
    first 24 bytes (its order) compare greater. They apply in order, then the merges. It is
    fastest when they come sorted by key, each key once.
    With ``once`` the write happens at most once: a second write with that mark changes
    nothing.
    """

    newer: Sequence[tuple[bytes, bytes]] = ()
    merges: Sequence[Merge] = ()
    once: bytes | None = None
    durable: bool = True
    """False if it may be undone, whole, by a power cut (never by the end of a process) until
    the next durable write: what it holds can be written again from elsewhere."""


@dataclass
class Written:
    """What a write did."""

    applied: bool = True
    """False if a write with the same ``once`` had been applied before."""
    n_rows: int = 0
    """Rows put or merged."""
    n_older: int = 0
    """Rows of ``newer`` that were left out, because a newer one stands there."""
    keys: list[bytes] = field(default_factory=list)


class OnlineStore(Protocol):
    """Rows of bytes by key, shared by all processes that may read or write them.

    Guarantees of every adapter:

    - A write is applied whole or not at all, for every reader and after ``kill -9`` at any
      moment; no reader ever sees a part of a row, or one row of a write without another
      (of one ``read``: all its rows are of one state).
    - When ``write`` returns, the change is on stable storage (unless it need not be
      ``durable``), and every later read, from any process, sees it or something newer
      (read-your-writes, monotonic reads).
    - Writes of all processes are applied one after the other.
    - A ``newer`` row never replaces one with a greater order; of rows with equal order the
      one written last stays.
    - A write whose ``once`` was applied before changes nothing.
    - Keys are 1 to 511 bytes. Rows are of any length that memory can hold.
    """

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of these keys, in order, None where there is none."""
        ...

    def write(self, write: Write) -> Written:
        """Apply a change.

        Raises:
            LimitExceeded: a key is too long or the disk is full; nothing was written.
            Unavailable: the store does not answer; the same write may be repeated, and
                should carry ``once`` if it merges.
        """
        ...

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """The keys that begin so, sorted, of one state of the store."""
        ...

    def forget(self, keys: Sequence[bytes]) -> int:
        """Remove rows; returns how many were there."""
        ...

    def close(self) -> None:
        """Give back what is open. A closed store cannot be used again."""
        ...


class Secrets(Protocol):
    """Stable secrets by purpose; the key service fulfils it."""

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """The same bytes for the same purpose, always."""
        ...
