"""A service account's name and secret in the place of a token, as MLflow's client can send them.

An access token lasts minutes and the client does not renew it, so that a training of hours could
not log its end. With ``MLFLOW_TRACKING_USERNAME`` and ``MLFLOW_TRACKING_PASSWORD`` the client
sends both with each request; they are exchanged for a token here, as ``/auth/service-login`` does
(counted, recorded), and the token is used until three fifths of its time are over or it is
revoked. Only MLflow's routes take them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from pydantic import SecretStr, ValidationError
from starlette.requests import Request

from falaj.interfaces.http import Verifier, presented
from falaj.kernel.clock import Clock
from falaj.kernel.errors import Unauthenticated
from falaj.trust.bindings import Presented
from falaj.trust.model import ServiceLoginRequest, TokenPair

Login = Callable[[ServiceLoginRequest, "str | None", Presented], TokenPair]
"""Exchanges a name and a secret for a token; raises WrongCredentials, TooManyAttempts."""
MOST = 1_000
_USED = 0.6
GIVEN = "falaj.authorization"
"""Where a request keeps the header that stood there before."""
_SCHEME = b"basic "


class _Kept(NamedTuple):
    token: str
    until: datetime


class ServiceTokens:
    """Exchanges names and secrets for access tokens, and keeps these while they are good.

    Args:
        login: the exchange.
        verifier: tells of a kept token whether it was revoked.
        clock: tells the time.

    Secrets are not kept: a token is found by a hash of name, secret and client certificate.
    Safe from many threads.
    """

    def __init__(self, login: Login, verifier: Verifier, clock: Clock) -> None:
        self._login = login
        self._verifier = verifier
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def exchange(self, request: Request) -> None:
        """Put a token in the place of the name and secret that a request carries, if it does.

        Raises:
            WrongCredentials, TooManyAttempts: they are no service account's.
            Unauthenticated: they cannot be read.
        """
        headers = request.scope["headers"]
        for place, (name, value) in enumerate(headers):
            if name == b"authorization" and value[: len(_SCHEME)].lower() == _SCHEME:
                given = _given(value[len(_SCHEME) :])
                address = request.client.host if request.client else None
                token = self._token(given, address, presented(request))
                changed = [*headers]
                changed[place] = (name, b"Bearer " + token.encode())
                request.scope["headers"] = changed
                request.scope[GIVEN] = value.decode("latin-1")

    def _token(self, given: ServiceLoginRequest, address: str | None, shown: Presented) -> str:
        said = (given.name, given.secret.get_secret_value(), shown.certificate or "")
        key = hashlib.sha256("\0".join(said).encode()).digest()
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and self._clock.now() < kept.until and self._good(kept.token):
            return kept.token
        now = self._clock.now()
        pair = self._login(given, address, shown)
        made = _Kept(pair.access_token.get_secret_value(), now + _USED * (pair.expires_at - now))
        with self._lock:
            self._kept[key] = made
            self._kept.move_to_end(key)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return made.token

    def _good(self, token: str) -> bool:
        try:
            self._verifier.still_good(token)
        except Unauthenticated:
            return False
        return True


def _given(encoded: bytes) -> ServiceLoginRequest:
    try:
        name, colon, secret = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
        if not colon:
            raise ValueError("no colon")
        return ServiceLoginRequest(name=name, secret=SecretStr(secret))
    except (binascii.Error, ValueError, ValidationError):
        raise Unauthenticated(
            "The name and the secret of this request cannot be read.",
            hint="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a service"
            " account's name and secret.",
        ) from None
