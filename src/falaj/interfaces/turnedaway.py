"""Requests that the front refuses are told to what records them; the door never sees them."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.requests import Request

from falaj.kernel.errors import FalajError, Unauthenticated
from falaj.trust.proofs import UnprovenKey
from falaj.trust.refusals import UNKNOWN

CODES = frozenset({"wrong-host", "foreign-origin", "forged-form"})
"""Errors that only the front raises. Others say in their details what was ``refused``."""
_OF_TOKENS = frozenset({"unauthenticated", "invalid-token", UnprovenKey.code})
"""A wrong password is none of these: the exchange has recorded it already."""


class Recorder(Protocol):
    """Records requests that are refused before the door (``trust.refusals.Refusals``)."""

    def told(self, error: BaseException, address: str | None, asked: str) -> None:
        """Take in a request that nobody vouches for."""
        ...

    def turned_away(
        self, error: FalajError, address: str | None, asked: str, *, principal: str = UNKNOWN
    ) -> None:
        """Take in a request that the front turned away."""
        ...


def tell(request: Request, error: FalajError) -> None:
    """Have a request recorded that was refused before the door; others leave records there."""
    recorder: Recorder | None = getattr(request.app.state, "recorder", None)
    if recorder is None:
        return
    address = request.client.host if request.client else None
    asked = f"{request.method} {request.url.path}"
    if isinstance(error, Unauthenticated):
        if error.code in _OF_TOKENS:
            recorder.told(error, address, asked)
    elif error.code in CODES or error.details.get("refused"):
        principal: Any = getattr(request.state, "principal", UNKNOWN)
        recorder.turned_away(error, address, asked, principal=principal)


def known(request: Request, principal: str) -> None:
    """Remember who asks, for what is recorded of this request from here on."""
    request.state.principal = principal
