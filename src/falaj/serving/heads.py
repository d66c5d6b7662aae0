"""Heads of requests that were read before: the same bytes mean the same request.

A client that keeps its connection sends the same head again and again, but for the length
of its body. Parsing it anew costs several callbacks; looking its bytes up costs one hash,
and one that differs in its length alone a search and a copy besides.
Only heads that can be read in one way are kept: a POST of HTTP/1.1 that keeps its
connection and says the length of its body, each line ended by CR LF, none folded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_MOST, _LONGEST = 2_048, 4_096
_KEPT_SECONDS = 1.0
_LENGTH = re.compile(rb"\r\ncontent-length: ?([1-9]\d{0,11})(?=\r\n|$)", re.IGNORECASE)
_NEVER = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"connection"})


class Head:
    """A request without its body."""

    __slots__ = (
        "headers", "keep_alive", "kept_until", "length", "memo", "method", "old", "path", "query",
    )  # fmt: skip

    def __init__(
        self,
        method: bytes = b"",
        path: bytes = b"",
        query: bytes = b"",
        headers: Mapping[bytes, bytes] | None = None,
        *,
        keep_alive: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers: Mapping[bytes, bytes] = {} if headers is None else headers
        self.keep_alive = keep_alive
        self.old = False
        """True for HTTP/1.0, which knows no chunks; no kept head is."""
        self.length = 0
        """Bytes of the body, of a kept head."""
        self.kept_until = 0.0
        self.memo: Any = None
        """What the application likes to remember of this head."""


class KnownHeads:
    """Heads by their bytes; a bounded number, each for a second.

    After a second a head is read again, so that what an application said of it (how long
    its body may be) is never older than that.
    """

    def __init__(self) -> None:
        self._kept: dict[bytes, Head] = {}
        self._alike: dict[tuple[bytes, bytes], tuple[Head, int]] = {}
        """By what stands before and behind the length: a head, and the longest body it may have."""

    def found(self, raw: bytes, now: float) -> Head | None:
        """The head of these bytes (without the empty line), if it was kept a moment ago."""
        head = self._kept.get(raw)
        if head is not None and head.kept_until > now:
            return head
        length = _LENGTH.search(raw)
        if length is None:
            return None
        alike = self._alike.get((raw[: length.start(1)], raw[length.end(1) :]))
        if alike is None or alike[0].kept_until <= now or int(length[1]) > alike[1]:
            return None
        return self._with_length(raw, alike[0], length[1])

    def _with_length(self, raw: bytes, known: Head, length: bytes) -> Head:
        """Keep a head that differs from a known one in its length; it is forgotten with it."""
        headers = {**known.headers, b"content-length": length}
        head = Head(known.method, known.path, known.query, headers)
        head.length = int(length)
        head.kept_until = known.kept_until
        head.memo = known.memo
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[raw] = head
        return head

    def keep(self, raw: bytes, head: Head, now: float, longest: int) -> None:
        """Remember a head that was parsed from exactly these bytes, if it is a plain one.

        Args:
            raw: the bytes.
            head: what they say.
            now: ``time.perf_counter()``.
            longest: bytes of the longest body that its path takes.
        """
        length = head.headers.get(b"content-length", b"")
        if (
            head.method != b"POST"
            or not head.keep_alive
            or len(raw) > _LONGEST
            or not length.isdigit()
            or len(length) > 12
            or not _NEVER.isdisjoint(head.headers)
            or not _plain(raw)
        ):
            return
        if len(self._kept) >= _MOST:
            self._kept.clear()
            self._alike.clear()
        head.length = int(length)
        head.kept_until = now + _KEPT_SECONDS
        self._kept[raw] = head
        told = _LENGTH.search(raw)
        if told is not None and told[1] == length:
            self._alike[raw[: told.start(1)], raw[told.end(1) :]] = head, longest


def _plain(raw: bytes) -> bool:
    """True if nobody can see other lines in these bytes than we do."""
    lines = raw.count(b"\r\n")
    return (
        raw.count(b"\r") == lines == raw.count(b"\n")
        and b"\r\n " not in raw
        and b"\r\n\t" not in raw
        and not raw.startswith(b"\r\n")
        and raw.partition(b"\r\n")[0].endswith(b" HTTP/1.1")
    )
