"""Heads of requests that were read before: the same bytes mean the same request.

A client that keeps its connection sends the same head again and again, but for the length
of its body. Parsing it anew costs several callbacks; looking its bytes up costs one hash.
Only heads that can be read in one way are kept: a POST of HTTP/1.1 that keeps its
connection and says the length of its body, each line ended by CR LF, none folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MOST, _LONGEST = 2_048, 4_096
_KEPT_SECONDS = 1.0
_NEVER = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"connection"})


class Head:
    """A request without its body."""

    __slots__ = ("headers", "keep_alive", "kept_until", "length", "memo", "method", "path", "query")

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

    def found(self, raw: bytes, now: float) -> Head | None:
        """The head of these bytes (without the empty line), if it was kept a moment ago."""
        head = self._kept.get(raw)
        return head if head is not None and head.kept_until > now else None

    def keep(self, raw: bytes, head: Head, now: float) -> None:
        """Remember a head that was parsed from exactly these bytes, if it is a plain one."""
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
        head.length = int(length)
        head.kept_until = now + _KEPT_SECONDS
        self._kept[raw] = head


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
