"""The online store on LMDB: one file, mapped by every process of a machine.

Readers take no lock against writers; LMDB's own lock lets one writer of all processes
work at a time. A commit is synced before ``write`` returns. The map grows by doubling
when it is full; other processes notice and follow.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter, lt
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from falaj.features.order import ORDER_BYTES
from falaj.features.ports import Write, Written
from falaj.kernel.errors import Corrupt, FalajError, LimitExceeded, StorageFull, Unavailable
from falaj.lake.disk import reserved

T = TypeVar("T")
LONGEST_KEY = 511
_LOCK_BYTES, _READER_BYTES = 8192, 64
"""More than LMDB's lock file takes for its head, and for each reader."""
_ROWS, _ONCE = b"rows", b"once"
_KEY = itemgetter(0)


class LmdbOnlineStore:
    """An ``OnlineStore`` in a folder.

    Args:
        folder: made if it is not there; readable by its owner only.
        map_bytes: the first size of the map; it grows by doubling.
        max_readers: processes and threads that read at the same time.

    Safe from many threads and processes. A process opens a folder once, and after a fork
    the child opens its own.
    """

    def __init__(self, folder: Path, *, map_bytes: int = 1 << 30, max_readers: int = 1024) -> None:
        self.folder = folder
        self._lock = threading.Lock()  # of this process's readers; held to resize the map
        self._writer = threading.Lock()  # of this process's writers, before LMDB's own
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            reserved(folder / "lock.mdb", _LOCK_BYTES + _READER_BYTES * max_readers)
            self._env = lmdb.open(
                str(folder), map_size=map_bytes, max_dbs=2, max_readers=max_readers,
                mode=0o600, readahead=False, meminit=False, metasync=False,
            )  # fmt: skip
            self._rows, self._once = self._table(_ROWS), self._table(_ONCE)
        except (lmdb.Error, OSError) as error:
            raise self._told(error) from error

    def _table(self, name: bytes) -> Any:
        while True:
            try:
                return self._env.open_db(name)
            except lmdb.MapResizedError:  # another process has grown it just now
                self._env.set_mapsize(0)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of these keys, of one state of the store."""
        try:
            with self._lock, self._env.begin(db=self._rows) as transaction:
                return list(map(transaction.get, keys))
        except lmdb.Error:  # again, with every remedy
            return self._reading(lambda transaction: list(map(transaction.get, keys)))

    def _reading(self, work: Callable[[Any], T]) -> T:
        with self._lock:
            while True:
                try:
                    with self._env.begin(db=self._rows) as transaction:
                        return work(transaction)
                except lmdb.MapResizedError:
                    self._env.set_mapsize(0)
                except lmdb.BadValsizeError:
                    raise _bad_key() from None
                except lmdb.Error as error:
                    raise self._told(error) from error

    def write(self, write: Write) -> Written:
        """Apply a change in one transaction, synced to disk.

        The pages of a commit are always synced; the page that makes them valid only if the
        change must be durable, which takes as long again.
        """

        def work(transaction: Any) -> Written:
            return self._apply(transaction, write)

        return self._writing(work, durable=write.durable)

    def _apply(self, transaction: Any, write: Write) -> Written:
        done = Written()
        if write.once is not None and not transaction.put(
            write.once, b"", db=self._once, overwrite=False
        ):
            return Written(applied=False)
        if write.newer:
            self._put_newer(transaction, write.newer, done)
        for merge in write.merges:
            keys = list(merge.keys)
            stored = list(map(transaction.get, keys))
            while merge.more is not None and (further := merge.more(stored)):
                keys += further
                stored += map(transaction.get, further)
            changed = merge.change(stored)
            put = []
            for key, before, after in zip(keys, stored, changed, strict=True):
                if after is None:
                    if before is not None:
                        transaction.delete(key)
                elif after != before:
                    put.append((key, after))
            put.sort(key=_KEY)
            transaction.cursor().putmulti(put)
            done.n_rows += len(put)
        return done

    @staticmethod
    def _put_newer(transaction: Any, newer: Sequence[tuple[bytes, bytes]], done: Written) -> None:
        """Put rows in the order of their keys: neighbours share pages, of which each is copied
        and written once. Where no stored key lies among them, nothing has to be compared."""
        put = newer
        keys = [key for key, _ in newer]
        if not all(map(lt, keys, islice(keys, 1, None))):
            put = sorted(_newest(newer).items(), key=_KEY)
            keys = [key for key, _ in put]
        cursor = transaction.cursor()
        beyond = not cursor.set_range(keys[0])
        if not beyond and bytes(cursor.key()) <= keys[-1]:
            stored = map(transaction.get, keys)
            put = [
                item
                for item, before in zip(put, stored, strict=True)
                if before is None or before[:ORDER_BYTES] <= item[1][:ORDER_BYTES]
            ]
        cursor.putmulti(put, append=beyond)
        done.n_rows += len(put)
        done.n_older += len(newer) - len(put)

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """The keys that begin so, sorted; read in one transaction."""

        def work(transaction: Any) -> list[bytes]:
            found: list[bytes] = []
            cursor = transaction.cursor()
            there = cursor.set_range(prefix) if prefix else cursor.first()
            while there and (key := bytes(cursor.key())).startswith(prefix):
                found.append(key)
                there = cursor.next()
            return found

        return iter(self._reading(work))

    def forget(self, keys: Sequence[bytes]) -> int:
        """Remove rows in one transaction, synced to disk."""

        def work(transaction: Any) -> int:
            return sum(bool(transaction.delete(key)) for key in keys)

        return self._writing(work)

    def _writing(self, work: Callable[[Any], T], *, durable: bool = True) -> T:
        with self._writer:
            done = self._retried(work)
            if durable:
                try:
                    self._env.sync()
                except lmdb.Error as error:
                    raise self._told(error) from error
            return done

    def _retried(self, work: Callable[[Any], T]) -> T:
        while True:
            try:
                with self._env.begin(write=True, db=self._rows) as transaction:
                    return work(transaction)
            except lmdb.MapFullError:
                with self._lock:  # no transaction may be open in this process meanwhile
                    self._env.set_mapsize(self._env.info()["map_size"] * 2)
            except lmdb.MapResizedError:
                with self._lock:
                    self._env.set_mapsize(0)  # what another process has chosen
            except lmdb.BadValsizeError:
                raise _bad_key() from None
            except (lmdb.Error, OSError) as error:
                raise self._told(error) from error

    def close(self) -> None:
        """Close the folder."""
        with self._writer, self._lock:
            self._env.close()

    def _told(self, error: Exception) -> FalajError:
        reason = str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        short = os.strerror(errno.EIO) in reason  # what LMDB makes of a write that was cut short
        if full or short or "No space" in reason or isinstance(error, lmdb.DiskError):
            return StorageFull(
                f"The disk of the online store {self.folder} is full or failing: {reason}.",
                hint="Free some space; nothing was changed.",
            )
        if isinstance(error, lmdb.CorruptedError | lmdb.InvalidError | lmdb.PageNotFoundError):
            return Corrupt(
                f"The online store {self.folder} is damaged: {reason}.",
                hint="Move the folder away and materialise the views again.",
            )
        return Unavailable(
            f"The online store {self.folder} cannot be used: {reason}.",
            hint="See that the folder is there, is yours, and is opened once in a process.",
        )


def _newest(newer: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Of each key the row with the greatest order; of equal ones the last."""
    kept: dict[bytes, bytes] = {}
    for key, row in newer:
        other = kept.get(key)
        if other is None or other[:ORDER_BYTES] <= row[:ORDER_BYTES]:
            kept[key] = row
    return kept


def _bad_key() -> LimitExceeded:
    return LimitExceeded(
        f"A key of the online store is empty or longer than {LONGEST_KEY} bytes.",
        hint="Use a shorter entity key; nothing was written.",
    )
