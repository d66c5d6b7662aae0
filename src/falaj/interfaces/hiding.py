"""Takes this installation's own folders, servers and users out of what strangers read.

The second line of defence: errors of components are told without their text anyway
(``kernel.problems.public``). What is left are messages for callers, into which a path or an
address of a component must not slip.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Self

from falaj.kernel.settings import Settings

_LEAST = 4
"""Shorter words (a host named ``db``) stand in honest sentences as well."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_COMPONENTS = ("database", "lake", "lake_data", "blobs", "online", "event_log", "compute", "traces")
_HOSTS = re.compile(r"(?:@|//|,)([A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\])(?=[:/?,]|$)")


class Hiding:
    """Replaces known words of the inside by ``(hidden)``.

    Args:
        words: what must not be shown; longer ones are looked for first.
    """

    def __init__(self, words: Iterable[str]) -> None:
        found = sorted({word for word in words if len(word) >= _LEAST}, key=len, reverse=True)
        self._pattern = re.compile("|".join(re.escape(word) for word in found)) if found else None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Hides the home folder, and the addresses of the components that settings name."""
        home = settings.home
        words = {str(home), str(home.resolve()), str(home.parent), str(home.parent.resolve())}
        words -= {"/tmp", "/home", "/root", "/srv"}  # noqa: S108 - a word, not a file
        for name in _COMPONENTS:
            url = str(getattr(settings, name))
            if "//" in url:
                words |= {url, url.partition("?")[0]}
                words |= {host for host in _HOSTS.findall(url) if host not in _LOOPBACK}
        return cls(words)

    def text(self, told: str) -> str:
        """The text without the hidden words."""
        return self._pattern.sub("(hidden)", told) if self._pattern else told

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        """A problem document without the hidden words, in its texts and details."""
        if self._pattern is None:
            return document
        shown = {
            name: self.text(value) if isinstance(value, str) else value
            for name, value in document.items()
        }
        if "details" in shown:
            written = json.dumps(shown["details"], default=str, ensure_ascii=False)
            shown["details"] = json.loads(self.text(written))
        return shown
