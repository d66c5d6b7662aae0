"""A second place for subject keys: each write stands in both before it returns."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime

from falaj.trust.subjectkeys import KeyRow, KeyTable
from falaj.trust.subjects import Destroyed


class ReplicatedTable:
    """A ``KeyTable`` whose writes are also made in another one; reads come from the first.

    A replica that is behind (it was away, or a process was killed between the two writes)
    is brought up to date at the first use, and before the next write after a failure.
    """

    def __init__(self, first: KeyTable, replica: KeyTable) -> None:
        self._first = first
        self._replica = replica
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
        self._copied(rows=self._first.by_handle([row.handle for row in rows]))

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
        self._copied(data_keys=self._first.data_keys())

    def exchange_data_key(self, number: int, old: str, new: str) -> bool:
        """See ``KeyTable.exchange_data_key``."""
        done = self._first.exchange_data_key(number, old, new)
        self._copied(data_keys=self._first.data_keys())
        return done

    def drop_data_key(self, number: int) -> bool:
        """See ``KeyTable.drop_data_key``."""
        done = self._first.drop_data_key(number)
        if done:
            self._copied(data_keys=self._first.data_keys())
        return done

    def rewrapped(self, rows: Sequence[KeyRow]) -> None:
        """See ``KeyTable.rewrapped``."""
        self._first.rewrapped(rows)
        self._copied(rows=self._first.by_handle([row.handle for row in rows]))

    def copy(
        self,
        *,
        data_keys: dict[int, str] | None = None,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        """See ``KeyTable.copy``."""
        self._first.copy(data_keys=data_keys, rows=rows, destroyed=destroyed)
        self._copied(data_keys=data_keys, rows=rows, destroyed=destroyed)

    def close(self) -> None:
        """See ``KeyTable.close``."""
        self._first.close()
        self._replica.close()

    def behind(self) -> bool:
        """True if the replica has not all that the first table has, or more."""
        first, replica = self._first, self._replica
        return (first.count(), first.sequence(), first.data_keys()) != (
            replica.count(),
            replica.sequence(),
            replica.data_keys(),
        )

    def _copied(
        self,
        *,
        data_keys: dict[int, str] | None = None,
        rows: Sequence[KeyRow] = (),
        destroyed: Sequence[Destroyed] = (),
    ) -> None:
        with self._guard:
            self._level = False
            self._replica.copy(data_keys=data_keys, rows=rows, destroyed=destroyed)
            self._level = True

    def _levelled(self) -> None:
        if self._level:
            return
        with self._guard:
            if not self._level and self.behind():
                self._level_all()
            self._level = True

    def _level_all(self) -> None:
        self._replica.copy(data_keys=self._first.data_keys())
        for rows in self._first.pages():
            self._replica.copy(rows=rows)
        self._replica.copy(destroyed=self._first.removed(after=0))


__all__ = ["ReplicatedTable"]
