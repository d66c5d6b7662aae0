"""DPoP at the client (RFC 9449): each request is signed by a key that stays here."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Generator
from pathlib import Path
from secrets import token_urlsafe

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from falaj.kernel.errors import InvalidInput
from falaj.trust.bindings import digest_text
from falaj.trust.pemfiles import write


class SigningKey:
    """An Ed25519 key that makes proofs.

    Args:
        key: the private key; it never leaves this object but into a file of its owner's.
    """

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        public = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        jwk = {"crv": "Ed25519", "kty": "OKP", "x": _text(public)}
        self._header = _part({"typ": "dpop+jwt", "alg": "Ed25519", "jwk": jwk})

    @classmethod
    def new(cls) -> SigningKey:
        """A fresh key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> SigningKey | None:
        """The key in a file; None if there is none. Raises InvalidInput."""
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
            if not isinstance(key, Ed25519PrivateKey):
                raise TypeError("another kind of key")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            raise InvalidInput(
                f"The key {path} cannot be read.", hint="Remove it and log in again."
            ) from None
        return cls(key)

    def save(self, path: Path) -> None:
        """Write it to a file that its owner alone can read; raises LimitExceeded."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        content = self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write(path, content)

    def proof(self, method: str, url: str, *, token: str | None, nonce: str | None) -> str:
        """A proof for one request."""
        claims = {"jti": token_urlsafe(12), "htm": method, "htu": url, "iat": int(time.time())}
        if token is not None:
            claims["ath"] = digest_text(token.encode())
        if nonce is not None:
            claims["nonce"] = nonce
        message = f"{self._header}.{_part(claims)}"
        return f"{message}.{_text(self._key.sign(message.encode()))}"


class SignedRequests(httpx.Auth):
    """Signs each request of a client; one that lacked the server's nonce is sent once more.

    Args:
        key: signs.
    """

    def __init__(self, key: SigningKey) -> None:
        self._key = key
        self._nonce: str | None = None

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign, send, and sign anew with the nonce that the server asks for."""
        nonce = self._nonce
        response = yield self._signed(request)
        fresh = self._taken(response)
        if response.status_code == 401 and fresh is not None and fresh != nonce:
            response = yield self._signed(request)
            self._taken(response)

    def _taken(self, response: httpx.Response) -> str | None:
        fresh: str | None = response.headers.get("DPoP-Nonce")
        self._nonce = fresh or self._nonce
        return fresh

    def _signed(self, request: httpx.Request) -> httpx.Request:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if token and scheme == "Bearer":
            request.headers["Authorization"] = f"DPoP {token}"
        url = str(request.url.copy_with(query=None, fragment=None))
        request.headers["DPoP"] = self._key.proof(
            request.method, url, token=token or None, nonce=self._nonce
        )
        return request


def _part(value: dict[str, object]) -> str:
    return _text(json.dumps(value, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
