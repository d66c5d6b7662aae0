"""The online store on Redis or Valkey: the same bytes as in LMDB, shared by machines.

A write is one script on the server, so it is applied whole and one after the other. What a
merge depends on is read before, and the script compares it with what stands there then: if
somebody was faster, the merge is made again. A write is acknowledged when the server has
synced it to its append-only file (``WAITAOF``), where it keeps one.

Reads go to the server that is written to: a replica may be behind, and is refused.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import hiredis

from falaj.features.adapters.redis_connection import (
    RedisConnection,
    RedisPlace,
    Reply,
    told,
)
from falaj.features.adapters.redis_script import APPLY, APPLY_SHA, REHEARSE, Change
from falaj.features.order import ORDER_BYTES
from falaj.features.ports import Merge, Write, Written
from falaj.kernel.errors import FalajError, LimitExceeded, Unavailable

LONGEST_KEY = 511
LARGEST_WRITE = 256 << 20
"""Bytes of one write: the server answers nobody else while it applies it."""
_SLOW_SECONDS = 0.1
"""An append-only file synced at each write takes milliseconds; once in a second takes more."""


class _Overtaken(Exception):
    """Somebody changed a row between the reading of a merge and its writing."""


class _State:
    """The rows that merges have read, and what they make of them.

    Args:
        newer: rows that are put before; those that merges read are put here.
        read: reads stored rows.
    """

    def __init__(
        self,
        newer: Sequence[tuple[bytes, bytes]],
        read: Callable[[Sequence[bytes]], list[bytes | None]],
    ) -> None:
        self.before: dict[bytes, bytes | None] = {}
        self.rows: dict[bytes, bytes | None] = {}
        self.done = Written()
        self._newer: dict[bytes, list[bytes]] = {}
        for key, row in newer:
            self._newer.setdefault(key, []).append(row)
        self._read = read

    def merge(self, merge: Merge) -> None:
        """Change rows as a merge does."""
        keys = list(merge.keys)
        found = self._found(keys)
        while merge.more is not None and (further := list(merge.more(found))):
            _check(further)
            keys += further
            found += self._found(further)
        for key, old, new in zip(keys, found, merge.change(found), strict=True):
            self.rows[key] = new
            self.done.n_rows += new is not None and new != old

    def take(self, keys: Sequence[bytes], stored: Sequence[bytes | None]) -> None:
        """Stored rows that were read; the write's own newer ones are put in their place."""
        for key, found in zip(keys, stored, strict=True):
            self.before[key] = row = found
            for one in self._newer.get(key, ()):
                if row is not None and row[:ORDER_BYTES] > one[:ORDER_BYTES]:
                    self.done.n_older += 1
                else:
                    row = one
                    self.done.n_rows += 1
            self.rows[key] = row

    def _found(self, keys: Sequence[bytes]) -> list[bytes | None]:
        unread = [key for key in dict.fromkeys(keys) if key not in self.before]
        if unread:
            self.take(unread, self._read(unread))
        return [self.rows[key] for key in keys]


class RedisOnlineStore:
    """An ``OnlineStore`` on a Redis (7.2 or newer) or Valkey server.

    Args:
        place: the server, and the prefix of the keys.
        seconds: to connect, and to answer a read.
        write_seconds: for a write to be applied and synced.
        once_seconds: how long the mark of a write is remembered.

    Safe from many threads; each has a connection while it asks. After a fork the child
    opens its own store. Nothing is connected before the first question.
    """

    def __init__(
        self,
        place: RedisPlace,
        *,
        seconds: float = 5.0,
        write_seconds: float = 30.0,
        once_seconds: int = 30 * 86400,
    ) -> None:
        self.place = place
        self._seconds, self._write_seconds, self._once_seconds = (
            seconds,
            write_seconds,
            once_seconds,
        )
        prefix = place.prefix.encode()
        self._rows, self._marks, self._touch = prefix + b"r:", prefix + b"o:", prefix + b"t"
        self._idle: deque[RedisConnection] = deque()
        self._merging = threading.Lock()  # of this process, so that its merges do not collide
        self._is_rehearsed = False
        self._closed = threading.Event()

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows of these keys by one command, so of one state of the store."""
        if not keys:
            return []
        _check(keys)
        prefix = self._rows
        return self._got([prefix + key for key in keys])

    def _got(self, names: Sequence[bytes]) -> list[bytes | None]:
        try:
            (reply,) = self._asked([b"MGET", *names])
        except Unavailable as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            self._forget_idle()  # connections may have ended while nobody used them
            (reply,) = self._asked([b"MGET", *names])
        found: list[bytes | None] = self._good(reply)
        return found

    def write(self, write: Write) -> Written:
        """Apply a change by one script, synced to the server's append-only file."""
        _check([key for key, _ in write.newer])
        _check([key for merge in write.merges for key in merge.keys])
        if not write.newer and not write.merges and write.once is None:
            return Written()
        self._rehearse()
        if not write.merges:
            return self._applied(Change(write.newer, write.once), Written())
        deadline = time.monotonic() + self._write_seconds
        with self._merging:
            for attempt in itertools.count(1):
                try:
                    return self._merged(write)
                except _Overtaken:
                    if time.monotonic() > deadline:
                        break
                time.sleep(random.random() * 0.001 * min(attempt, 20))  # noqa: S311 - no secret
        raise Unavailable(
            f"Others changed the same rows of {self.place.shown} for {self._write_seconds:.0f} s.",
            hint="Repeat it; nothing was written.",
        )

    def _merged(self, write: Write) -> Written:
        """Make the merges of what is stored now, and apply all; raises _Overtaken."""
        state = _State(write.newer, self.read)
        keys = list(dict.fromkeys(key for merge in write.merges for key in merge.keys))
        mark = [] if write.once is None else [self._marks + write.once]
        found = self._got([*[self._rows + key for key in keys], *mark])
        if mark and found.pop() is not None:
            return self._applied(Change((), write.once), Written(applied=False))
        state.take(keys, found)
        try:
            for merge in write.merges:
                state.merge(merge)
        except Exception:
            # Rows that were read one after the other may be of two states, which no merge
            # can be blamed for.
            now = self.read(list(state.before)) if len(state.before) > len(keys) else found
            if now != list(state.before.values()):
                raise _Overtaken from None
            raise
        rest = [(key, row) for key, row in write.newer if key not in state.before]
        before, after = list(state.before.values()), list(state.rows.values())
        return self._applied(
            Change(rest, write.once, list(state.before), before, after), state.done
        )

    def _applied(self, change: Change, done: Written) -> Written:
        """Run the script; raises _Overtaken if a merged row is not what it was."""
        _check_size(change)
        status, n_older = self._synced(
            change.arguments(self._rows, self._marks, self._touch, self._once_seconds)
        )
        if status < 0:
            raise _Overtaken
        if status == 0:
            return Written(applied=False)
        done.n_rows += len(change.rows) - n_older
        done.n_older += n_older
        return done

    def _synced(self, arguments: Sequence[bytes | str | int]) -> Sequence[int]:
        """What the script returns, when its effects are on stable storage."""
        wait = self._wait
        done, waited = self._asked([b"EVALSHA", APPLY_SHA, *arguments], wait, writing=True)
        if isinstance(done, hiredis.ReplyError) and str(done).startswith("NOSCRIPT"):
            done, waited = self._asked([b"EVAL", APPLY, *arguments], wait, writing=True)
        found: Sequence[int] = self._good(done)
        self._check_synced(waited)
        return found

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        """The keys that begin so, sorted; found by one command, so of one state.

        The server answers nobody else meanwhile: 0.06 to 0.16 s for each million keys that it
        holds, whether they begin so or not.
        """
        (found,) = self._asked([b"KEYS", _literal(self._rows + prefix) + b"*"], writing=True)
        begin = len(self._rows)
        return iter(sorted(key[begin:] for key in self._good(found)))

    def forget(self, keys: Sequence[bytes]) -> int:
        """Remove rows by one command, synced to the server's append-only file."""
        if not keys:
            return 0
        _check(keys)
        command = [b"DEL", *[self._rows + key for key in keys]]
        touch = [b"SET", self._touch, b""]
        done, _, waited = self._asked(command, touch, self._wait, writing=True)
        found: int = self._good(done)
        self._check_synced(waited)
        return found

    def close(self) -> None:
        """Close the connections."""
        self._closed.set()
        self._forget_idle()

    def weaknesses(self) -> Iterator[tuple[str, str]]:
        """What of this server breaks or weakens a promise of the port, and what to do."""
        shown = f"The Redis server {self.place.shown}"
        if not self.place.tls and not self.place.is_this_machine:
            yield f"{shown} is asked in clear text.", "Use rediss:// and a server with TLS."
        (said,) = self._asked([b"INFO", b"everything"])
        if isinstance(said, hiredis.ReplyError):
            yield (
                f"{shown} does not tell how it keeps rows: {said}.",
                "Give its user the right +info, so that the doctor can look.",
            )
            return
        lines = (line.partition(":") for line in said.decode(errors="replace").splitlines())
        facts = {name: value for name, _, value in lines}
        policy = facts.get("maxmemory_policy", "")
        if facts.get("maxmemory", "0") != "0" and policy != "noeviction":
            yield (
                f"{shown} throws rows away when its memory is full (maxmemory-policy {policy}).",
                "Set its maxmemory-policy to noeviction.",
            )
        if facts.get("aof_enabled") != "1":
            yield (
                f"{shown} keeps no append-only file: what was acknowledged is lost when it ends.",
                "Set appendonly yes and appendfsync always.",
            )
            return
        nothing = Change(()).arguments(self._rows, self._marks, self._touch, 0)
        took = 0.0
        for _ in range(3):  # the first may come just before a sync that was due
            started = time.monotonic()
            self._synced(nothing)
            took = max(took, time.monotonic() - started)
        if took > _SLOW_SECONDS:
            yield (
                f"{shown} syncs its append-only file late: a write took {took:.2f} s.",
                "Set its appendfsync to always; writers that wait then share a sync.",
            )

    @property
    def _wait(self) -> tuple[bytes | str | int, ...]:
        return (b"WAITAOF", 1, self.place.replicas, int(self._write_seconds * 800))

    def _check_synced(self, waited: Reply) -> None:
        if isinstance(waited, hiredis.ReplyError):
            text = str(waited)
            keeps_none = "appendonly is disabled" in text or "unknown command" in text
            if not keeps_none or self.place.replicas:
                raise told(self.place, waited)
            return  # ``weaknesses`` tells it
        local, replicas = waited
        if local < 1 or replicas < self.place.replicas:
            raise Unavailable(
                f"The Redis server {self.place.shown} has not synced a write in "
                f"{self._write_seconds * 0.8:.0f} s, here or on {self.place.replicas} replicas.",
                hint="It is applied, but may be lost; repeat it.",
            )

    def _rehearse(self) -> None:
        """Find out, before the first write, whether a script may do all that it needs.

        A script that is stopped half way by a missing right would leave half a write.
        """
        if not self._is_rehearsed:
            (done,) = self._asked([b"EVAL", REHEARSE, 1, self._touch], writing=True)
            self._good(done)
            self._is_rehearsed = True

    def _asked(self, *commands: Sequence[bytes | str | int], writing: bool = False) -> list[Reply]:
        if self._closed.is_set():
            raise Unavailable("The online store is closed.", hint="Open it again.")
        connection = self._connected(writing)
        replies = connection.asked(*commands, seconds=self._write_seconds if writing else None)
        self._idle.append(connection)
        if self._closed.is_set():
            self._forget_idle()
        return replies

    def _connected(self, writing: bool) -> RedisConnection:
        try:
            connection = self._idle.pop()
        except IndexError:
            return RedisConnection(self.place, seconds=self._seconds)
        if writing and not connection.is_open():  # a read is repeated, a write must not be
            connection.close()
            self._forget_idle()
            return RedisConnection(self.place, seconds=self._seconds)
        return connection

    def _good(self, reply: Reply) -> Reply:
        if isinstance(reply, hiredis.ReplyError):
            error: FalajError = told(self.place, reply)
            self._forget_idle()  # the name may lead to another server by now
            raise error
        return reply

    def _forget_idle(self) -> None:
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                return


def _check(keys: Sequence[bytes]) -> None:
    if keys and not (all(keys) and max(map(len, keys)) <= LONGEST_KEY):
        raise LimitExceeded(
            f"A key of the online store is empty or longer than {LONGEST_KEY} bytes.",
            hint="Use a shorter entity key; nothing was written.",
        )


def _check_size(change: Change) -> None:
    size = sum([len(row) for _, row in change.rows])
    size += sum(len(one) for one in (*change.before, *change.after) if one is not None)
    if size > LARGEST_WRITE:
        raise LimitExceeded(
            f"A write of {size / 1e6:.0f} MB is too large for the online store on Redis "
            f"({LARGEST_WRITE / 1e6:.0f} MB).",
            hint="Write fewer rows at once; nothing was written.",
        )


def _literal(text: bytes) -> bytes:
    """A pattern of KEYS that means just this text."""
    return b"".join(b"\\" + bytes([one]) if one in b"*?[]^-\\" else bytes([one]) for one in text)
