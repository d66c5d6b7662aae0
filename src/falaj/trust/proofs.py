"""DPoP (RFC 9449): each request is signed by the key that its token is bound to.

A proof is a small JWT with the client's public key in its header. It names the method and
the address of the request and, beside an access token, that token's digest; so it is good for
one request to this server alone. It also carries a nonce of this platform, which tells its age
whatever the client's clock says, and an id that one process takes once.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from datetime import datetime
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from falaj.kernel.errors import LimitExceeded, Unauthenticated
from falaj.trust.bindings import Presented, digest_text

TYPE = "dpop+jwt"
NONCE_SECONDS = 60
"""A nonce is taken for so long after its minute, and as long before it ended."""
_CLOCK_SECONDS = 300
"""So far may a client's clock be off: the nonce, not ``iat``, bounds a proof's age."""
_LONGEST = 4_096
_MOST_REMEMBERED = 200_000
_MOST_KEYS = 4_096

_Verify = Callable[[bytes, bytes], None]


class UnprovenKey(Unauthenticated):
    """The token is bound to a key, and the request does not prove that its sender holds it."""

    code = "unproven-key"


class StaleNonce(Unauthenticated):
    """The proof carries no nonce of this platform, or an old one; the answer gives a new one."""

    code = "use-dpop-nonce"


class Proofs:
    """Checks proofs of possession.

    Args:
        secret: gives what makes nonces, the same in all processes; asked once, at first use.

    Safe from many threads. What is remembered is bounded: ids of proofs whose signature was
    good, for two minutes. Those that come without a token (anybody can make them) stand
    apart, so that a stranger cannot fill the memory of those that come with one.
    """

    def __init__(self, secret: Callable[[], bytes]) -> None:
        self._secret = cache(secret)
        self._lock = threading.Lock()
        self._seen: dict[bytes, int] = {}
        self._seen_at_login: dict[bytes, int] = {}
        self._swept = 0
        self._keys: dict[str, tuple[str, _Verify]] = {}

    def nonce(self, now: datetime) -> str:
        """The nonce of this minute, for the next proofs."""
        return self._nonce_of(int(now.timestamp()) // NONCE_SECONDS)

    def key_of(self, presented: Presented, now: datetime, *, token: str | None = None) -> str:
        """The thumbprint of the key that signed this request.

        Args:
            presented: what came with the request.
            now: this instant.
            token: the access token that it presents, if there is one.

        Raises:
            UnprovenKey: no proof, a forged one, one for another request, or one that came before.
            StaleNonce: its nonce is none of ours, or is old.
        """
        proof = presented.proof
        if not proof or len(proof) > _LONGEST or not proof.isascii():
            raise _refused("the request carries no proof")
        header_text, _, rest = proof.partition(".")
        payload_text, _, signature_text = rest.partition(".")
        jkt, verify = self._key(header_text)
        signed = proof[: len(header_text) + 1 + len(payload_text)].encode()
        try:
            verify(_bytes(signature_text), signed)
        except (InvalidSignature, ValueError):
            raise _refused("its signature is not of the key in it") from None
        claims = _object(payload_text)
        if claims.get("htm") != presented.method or not _same(claims.get("htu"), presented.url):
            raise _refused("it was made for another request")
        if token is not None and claims.get("ath") != digest_text(token.encode()):
            raise _refused("it was made for another token")
        minute = self._aged(claims, now)
        present = int(now.timestamp()) // NONCE_SECONDS
        self._once(jkt, claims.get("jti"), minute, present, with_token=token is not None)
        return jkt

    def _key(self, header_text: str) -> tuple[str, _Verify]:
        """The thumbprint and the verifying function of the key in a proof's header."""
        known = self._keys.get(header_text)
        if known is None:
            header = _object(header_text)
            jwk = header.get("jwk")
            if set(header) != {"typ", "alg", "jwk"} or header["typ"] != TYPE:
                raise _refused("its header is not that of a proof")
            if not isinstance(jwk, dict) or "d" in jwk:
                raise _refused("its key is not a public one")
            known = _loaded(header["alg"], jwk)
            if len(self._keys) >= _MOST_KEYS:
                self._keys = {}
            self._keys[header_text] = known
        return known

    def _aged(self, claims: dict[str, Any], now: datetime) -> int:
        """The minute of a proof's nonce; raises if it is old or not ours."""
        issued_at = claims.get("iat")
        if isinstance(issued_at, bool) or not isinstance(issued_at, int | float):
            raise _refused("it does not say when it was made")
        minute = int(now.timestamp()) // NONCE_SECONDS
        given = claims.get("nonce")
        if isinstance(given, str):
            for candidate in (minute, minute - 1):
                if hmac.compare_digest(given.encode(), self._nonce_of(candidate).encode()):
                    if abs(now.timestamp() - issued_at) > _CLOCK_SECONDS:
                        raise _refused("it was made at another time; check the clocks")
                    return candidate
        raise StaleNonce(
            "The proof of the key carries no nonce of this platform, or an old one.",
            hint="Make it again with the nonce in the header DPoP-Nonce of this answer.",
        )

    def _once(self, jkt: str, given: Any, minute: int, present: int, *, with_token: bool) -> None:
        if not isinstance(given, str) or not 8 <= len(given) <= 128:
            raise _refused("it has no id of its own")
        name = hashlib.sha256(f"{jkt} {given}".encode()).digest()
        with self._lock:
            if self._swept != present:
                self._swept = present
                self._seen = {one: at for one, at in self._seen.items() if at >= present - 1}
                logins = self._seen_at_login.items()
                self._seen_at_login = {one: at for one, at in logins if at >= present - 1}
            if name in self._seen or name in self._seen_at_login:
                raise _refused("it was presented before")
            if not with_token:
                # A login is proven by more than this: here, forgetting does less harm.
                if len(self._seen_at_login) >= _MOST_REMEMBERED:
                    self._seen_at_login = {}
                self._seen_at_login[name] = minute
                return
            if len(self._seen) >= _MOST_REMEMBERED:
                raise LimitExceeded(
                    "More signed requests came within two minutes than can be told apart.",
                    hint="Wait a minute; programs with many requests use a client certificate.",
                )
            self._seen[name] = minute

    def _nonce_of(self, minute: int) -> str:
        mac = hmac.digest(self._secret(), minute.to_bytes(8, "big"), "sha256")
        return urlsafe_b64encode(mac[:18]).decode()


def _refused(why: str) -> UnprovenKey:
    return UnprovenKey(
        f"The proof of the key that the token needs is refused: {why}.",
        hint="A token that was copied from elsewhere does not work; log in here.",
    )


def jwk_thumbprint(jwk: dict[str, Any]) -> str:
    """The thumbprint of a public key (RFC 7638); raises KeyError if a member is missing."""
    names = ("crv", "kty", "x") if jwk["kty"] == "OKP" else ("crv", "kty", "x", "y")
    members = {name: jwk[name] for name in names}
    return digest_text(json.dumps(members, separators=(",", ":"), sort_keys=True).encode())


def _loaded(algorithm: Any, jwk: dict[str, Any]) -> tuple[str, _Verify]:
    try:
        if algorithm == "Ed25519" and (jwk["kty"], jwk["crv"]) == ("OKP", "Ed25519"):
            edwards = Ed25519PublicKey.from_public_bytes(_bytes(jwk["x"]))
            return jwk_thumbprint(jwk), edwards.verify
        if algorithm == "ES256" and (jwk["kty"], jwk["crv"]) == ("EC", "P-256"):
            point = b"\x04" + _coordinate(jwk["x"]) + _coordinate(jwk["y"])
            public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
            return jwk_thumbprint(jwk), _of_curve(public)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _refused("its key cannot be read") from None
    raise _refused("its algorithm is neither Ed25519 nor ES256")


def _of_curve(public: ec.EllipticCurvePublicKey) -> _Verify:
    def verify(signature: bytes, message: bytes) -> None:
        if len(signature) != 64:
            raise ValueError("not a signature of P-256")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        public.verify(encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))

    return verify


def _coordinate(text: str) -> bytes:
    found = _bytes(text)
    if len(found) != 32:
        raise ValueError("not a coordinate of P-256")
    return found


def _same(given: Any, url: str) -> bool:
    """True if the address in a proof is the request's; the default port may be left out."""
    if not isinstance(given, str) or len(given) > _LONGEST:
        return False
    plain = given.partition("?")[0].partition("#")[0]
    return bool(url) and _plain(plain) == _plain(url)


def _plain(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower().removesuffix(':443')}{slash or '/'}{path}"


def _bytes(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise _refused("it is not a JWT") from None
    if urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise _refused("it is not a JWT")
    return data


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(text), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise _refused("it is not a JWT") from None
    if not isinstance(value, dict):
        raise _refused("it is not a JWT")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
