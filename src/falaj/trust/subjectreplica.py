"""A second place for subject keys: each write stands in both before it returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from falaj.kernel.errors import Corrupt
from falaj.trust.subjectkeys import KeyRow, KeyTable
from falaj.trust.subjects import Destroyed

MEND = (
    "Let privacy.subject_keys name the place of the replica, and privacy.replica an empty one."
    " In a drill, name copies of both."
)
"""What to do when the replica is ahead."""


class ReplicatedTable:
    """A ``KeyTable`` whose writes are also made in another one; reads come from the first.

    A replica that is behind (it was away, or a process was killed between the two writes)
    is brought up to date at the first use, and before the next write after a failure. One
    that is ahead is never touched: then the first table was lost, or is an older copy.

    Args:
        first: read and written.
        replica: written.
        opens: tells if the key service can unwrap a data key, by its number and text.

    Raises:
        Corrupt: the replica has keys or destructions that the first table does not know.
    """

    def __init__(
        self, first: KeyTable, replica: KeyTable, opens: Callable[[int, str], bool]
    ) -> None:
        self._first = first
        self._replica = replica
        self._opens = opens
        self._guard = threading.RLock()
        self._level = False

    def by_handle(self, handles: Sequence[bytes]) -> list[KeyRow]:
        """See ``KeyTable.by_handle``."""
        self._levelled()
        return self._first.by_handle(handles)

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[KeyRow]:
        """See ``KeyTable.by_pseudonym``."""
        return self._first.by_pseudonym(pseudonyms)

    def removed(self, *, after: int = 0) -> list[Destroyed]:
        """See ``KeyTable.removed``."""
        return self._first.removed(after=after)

    def sequence(self) -> int:
        """See ``KeyTable.sequence``."""
        return self._first.sequence()

    def data_keys(self) -> dict[int, str]:
        """See ``KeyTable.data_keys``."""
        return self._first.data_keys()

    def pages(self, *, data_key: int | None = None) -> Iterator[list[KeyRow]]:
        """See ``KeyTable.pages``."""
        return self._first.pages(data_key=data_key)

    def count(self) -> int:
        """See ``KeyTable.count``."""
        return self._first.count()

    def add(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.add``."""
        self._levelled()
        self._first.add(rows)
        self._copied(rows=rows)

    def remove(self, handle: bytes, at: datetime) -> Destroyed | None:
        """See ``KeyTable.remove``."""
        self._levelled()
        done = self._first.remove(handle, at)
        if done is not None:
            self._copied(destroyed=[done])
        return done

    def add_data_key(self, number: int, wrapped: str) -> None:
        """See ``KeyTable.add_data_key``."""
        self._levelled()
        self._first.add_data_key(number, wrapped)
        self._copied(data_keys=True)

    def exchange_data_key(self, number: int, old: str, new: str) -> bool:
        """See ``KeyTable.exchange_data_key``."""
        self._levelled()
        done = self._first.exchange_data_key(number, old, new)
        self._copied(data_keys=True)
        return done

    def drop_data_key(self, number: int) -> bool:
        """See ``KeyTable.drop_data_key``."""
        self._levelled()
        done = self._first.drop_data_key(number)
        if done:
            self._copied(data_keys=True)
        return done

    def rewrapped(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.rewrapped``."""
        self._levelled()
        self._first.rewrapped(rows)
        self._copied(rows=rows)

    def copy(
        self,
        *,
        data_keys: dict[int, str] | None = None,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        """See ``KeyTable.copy``."""
        self._levelled()
        self._first.copy(data_keys=data_keys, rows=rows, destroyed=destroyed)
        self._copied(data_keys=data_keys is not None, rows=rows, destroyed=destroyed)

    def flaw(self) -> str:
        """See ``KeyTable.flaw``; of both tables."""
        if found := self._first.flaw():
            return found
        return f"in the replica, {found}" if (found := self._replica.flaw()) else ""

    def close(self) -> None:
        """See ``KeyTable.close``."""
        self._first.close()
        self._replica.close()

    def behind(self) -> bool:
        """True if the replica has not all that the first table has, or more."""
        return _state(self._first) != _state(self._replica)

    def ahead(self) -> str:
        """What the replica has that the first table does not know, in words; empty if there
        is nothing, which is how it must be: each write is made in the first table first.
        """
        # The replica is always read before the first table: another process may be writing.
        return self._ahead_in_data_keys() or self._ahead_in_rows()

    def _ahead_in_data_keys(self) -> str:
        first, replica = self._first, self._replica
        kept, n_kept = replica.data_keys(), replica.count()
        held = first.data_keys()
        if not held and (kept or n_kept):
            return f"{n_kept} keys, and the first place is empty"
        if (newest := max(kept, default=0)) > max(held, default=0):
            return f"the data key {newest}, which the first place never had"
        if dropped := [number for number in held if number < newest and number not in kept]:
            return f"no data key {dropped[0]} any more, which the first place still has"
        for number, wrapped in held.items():
            # Which wrapping is the newer one does not show; one that opens loses nothing.
            if kept.get(number, wrapped) != wrapped and not self._opens(number, wrapped):
                return f"another wrapping of the data key {number}, and the first one is of no use"
        return ""

    def _ahead_in_rows(self) -> str:
        first, replica = self._first, self._replica
        destroyed = {(one.sequence, one.pseudonym) for one in replica.removed()}
        if unknown := destroyed - {(one.sequence, one.pseudonym) for one in first.removed()}:
            return f"{len(unknown)} destructions that the first place does not know"
        for rows in replica.pages():
            pseudonyms = {row.pseudonym for row in rows}
            pseudonyms -= {row.pseudonym for row in first.by_pseudonym(list(pseudonyms))}
            if pseudonyms:
                pseudonyms -= {one.pseudonym for one in first.removed()}
            if pseudonyms:
                return f"{len(pseudonyms)} or more keys that the first place never had"
        return ""

    def _copied(
        self,
        *,
        data_keys: bool = False,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        """Bring what was written to the replica, as the first table has it now."""
        first, replica = self._first, self._replica
        with self._guard:
            # A write that failed in another thread is still to be levelled after this one.
            level, self._level = self._level, False
            seen = first.sequence()
            replica.copy(
                data_keys=first.data_keys() if data_keys else None,
                rows=first.by_handle([row.handle for row in rows]) if rows else (),
                destroyed=destroyed,
            )
            # Another process may have destroyed a row after it was read here.
            if rows and (since := first.removed(after=seen)):
                replica.copy(destroyed=since)
            self._level = level

    def _levelled(self) -> None:
        if self._level:
            return
        with self._guard:
            if not self._level and self.behind():
                if more := self.ahead():
                    raise Corrupt(
                        f"The replica of the subject keys (privacy.replica) has {more}: the"
                        " place that privacy.subject_keys names was lost, or is an older copy."
                        " Nothing was written to either.",
                        hint=MEND,
                    )
                self._level_all()
            self._level = True

    def _level_all(self) -> None:
        self._replica.copy(data_keys=self._first.data_keys())
        for rows in self._first.pages():
            self._replica.copy(rows=rows)
        self._replica.copy(destroyed=self._first.removed(after=0))


def _state(table: KeyTable) -> tuple[object, ...]:
    """What two tables that have the same rows agree in; cheap."""
    sequence = table.sequence()
    return table.count(), sequence, table.removed(after=sequence - 1), table.data_keys()


__all__ = ["MEND", "ReplicatedTable"]
