"""Falaj: one governed machine-learning platform in Python.

>>> import falaj
>>> with falaj.open("my-project") as platform:      # doctest: +SKIP
...     platform.models.list()

``open`` gives a platform in this process, ``connect`` the same object on a server.
Declarations for ``falaj plan`` and ``falaj apply`` come from ``falaj.declare``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.interfaces.platform import Platform, ask_for_code, connect
    from falaj.interfaces.platform import open_platform as open

__all__ = ["Platform", "ask_for_code", "connect", "open"]

_PLACES = {
    "open": "open_platform",
    "connect": "connect",
    "Platform": "Platform",
    "ask_for_code": "ask_for_code",
}


def __getattr__(name: str) -> Any:
    """Import the platform when it is first used, so that ``import falaj`` costs little."""
    if name in _PLACES:
        from falaj.interfaces import platform

        return getattr(platform, _PLACES[name])
    raise AttributeError(f"module 'falaj' has no attribute {name!r}")
