"""Being let in, or brought a fresh factor, through a browser: the client's side (RFC 8628)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from falaj.interfaces.client import sent
from falaj.kernel.errors import Unavailable
from falaj.trust.devices import AuthorizationPending, ExpiredCode, SlowDown


@dataclass(frozen=True)
class DeviceLink:
    """What a person is to do in a browser."""

    address: str
    user_code: str
    address_with_code: str
    """The address that has the code in it."""

    def __str__(self) -> str:
        return f"Open {self.address} in a browser and enter the code {self.user_code}."


Show = Callable[[DeviceLink], None]
"""Shows a link to a person."""


def tokens_through_browser(
    client: httpx.Client,
    show: Show,
    *,
    named: str,
    token: str | None = None,
    provider: str = "",
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Wait until somebody has let this program in; the tokens that it gets.

    Args:
        client: an HTTP client of the server.
        show: is given the link once.
        named: what the person is told that this program is.
        token: an access token whose session gets a fresh factor, instead of a new session.
        provider: the identity provider through which the person signs in; empty: as they like.
        sleep, monotonic: wait, and tell how long.

    Raises:
        NotFound: the server knows no such provider.
        AccessDenied: the person has refused.
        ExpiredCode: nobody has decided in time.
    """
    path = "/auth/device" if token is None else "/auth/device/step-up"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    through = {"provider": provider} if provider else {}
    request = client.build_request("POST", path, json={"client": named, **through}, headers=headers)
    offer = sent(client, request).json()
    show(
        DeviceLink(
            offer["verification_uri"], offer["user_code"], offer["verification_uri_complete"]
        )
    )
    interval = float(offer["interval"])
    patience = monotonic() + float(offer["expires_in"])
    asked = {"device_code": offer["device_code"]}
    while monotonic() < patience:
        sleep(interval)
        try:
            question = client.build_request("POST", "/auth/device/token", json=asked)
            tokens: dict[str, Any] = sent(client, question).json()
            return tokens
        except AuthorizationPending:
            continue
        except SlowDown as told:
            interval = float(told.details.get("interval", interval + 5))
        except Unavailable:
            interval += 5  # RFC 8628, 3.5: back off when the server cannot be reached
    raise ExpiredCode("Nobody has let this program in in time.", hint="Begin again.")
