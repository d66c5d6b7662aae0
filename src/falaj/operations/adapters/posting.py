"""How the adapters of receivers send: JSON over HTTPS through the guarded sender."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from falaj.kernel.errors import Unavailable
from falaj.operations.sending import is_taken, posted

if TYPE_CHECKING:
    from falaj.kernel.outgoing import Outgoing


def post(
    outgoing: Outgoing, url: str, document: Any, headers: Mapping[str, str] | None = None
) -> None:
    """Send a document; returns if the answer is 2xx.

    Raises:
        OutgoingRefused, InvalidInput: the address may not be called.
        Unavailable: nobody answers, or with another status. Its text holds neither the path,
            which is a secret of many channels, nor a word of the answer, which may repeat it.
    """
    body = json.dumps(document, ensure_ascii=False).encode()
    status = posted(outgoing, url, body, agent="Falaj-Alerts", sign=lambda _body: headers or {})
    if not is_taken(status):
        raise Unavailable(
            f"{host_of(url)} answered {status}.",
            hint="What else it said is not kept: it may repeat the secret that it was sent.",
        )


def reach(outgoing: Outgoing, url: str) -> None:
    """Return if a server answers at the address's host, whatever it says; no path is sent.

    Raises:
        OutgoingRefused, InvalidInput, Unavailable: as for ``Outgoing.send``.
    """
    parts = urlsplit(url)
    outgoing.send("GET", f"{parts.scheme}://{parts.netloc}/")


def host_of(url: str) -> str:
    """The host of an address, for texts."""
    return urlsplit(url).hostname or "the server"


def shortened(text: str, most: int) -> str:
    """The text, cut to so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
