"""Access tokens: Ed25519-signed JWT (RFC 7519, 8037, 9068), good for five minutes.

The key service signs and verifies, so the private key never stands here and a rotated key
goes on verifying what it has signed. Verification is strict: one algorithm, one type, no
header that names a key of its own or asks for an extension. A token may be bound to a key
(``trust.bindings``); then it is refused from whoever does not prove that he holds it.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Corrupt
from falaj.trust.bindings import NOTHING, Binding, BindingKind, Presented
from falaj.trust.epochs import Revocations, Revoked
from falaj.trust.model import InvalidToken, Verified
from falaj.trust.ports import Signature
from falaj.trust.proofs import Proofs, UnprovenKey

LIFETIME = timedelta(minutes=5)
LONGEST = timedelta(minutes=15)
"""No token is good for longer, whoever it is for."""
LEEWAY = timedelta(seconds=30)
"""How far the clocks of two machines may disagree."""
ALGORITHM = "Ed25519"
TYPE = "at+jwt"
_PURPOSE = "access-tokens"
_HEADER_NAMES = {"alg", "typ", "kid"}
_LONGEST = 4_096
_MOST_CACHED = 50_000


class SignsTokens(Protocol):
    """The part of the key service that tokens need."""

    def sign(self, purpose: str, message: bytes) -> Signature:
        """The Ed25519 signature of a message by the purpose's present key."""
        ...

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """Raise ``Corrupt`` unless a key of the purpose, present or past, made the signature."""
        ...


@dataclass(frozen=True, slots=True)
class _Kept:
    """A token that was verified, and the revocations that it was last held against."""

    verified: Verified
    revoked: Revoked
    good_until: datetime


class Tokens:
    """Issues and verifies access tokens.

    Args:
        keys: signs and verifies.
        revocations: says what is revoked (``Epochs``).
        issuer: the name of this platform, in every token (``iss``).
        audience: for whom its tokens are (``aud``); a token for another is refused.
        proofs: checks signed requests; without it, tokens that need them are refused.

    Verified tokens are kept by their digest: a repeat costs one hash and a look at the
    revocations, about 2 µs instead of 100.
    """

    def __init__(
        self,
        keys: SignsTokens,
        revocations: Revocations,
        *,
        issuer: str,
        audience: str = "falaj",
        lifetime: timedelta = LIFETIME,
        leeway: timedelta = LEEWAY,
        proofs: Proofs | None = None,
    ) -> None:
        self._keys = keys
        self._revocations = revocations
        self._issuer = issuer
        self._audience = audience
        self.lifetime = lifetime
        self._leeway = leeway
        self.proofs = proofs
        self._kept: dict[bytes, _Kept] = {}
        self._key_id = ""

    def issue(
        self,
        principal: Principal,
        *,
        session: str,
        account_epoch: int,
        mfa_at: datetime | None,
        now: datetime,
        binding: Binding | None = None,
        lasts: timedelta | None = None,
        purpose: str = "",
    ) -> tuple[str, datetime]:
        """A signed token for a principal's session, and when it ends.

        Args:
            binding: the key that must be proven with it (the claim ``cnf``).
            lasts: how long it is good, instead of ``lifetime``; at most ``LONGEST``.
            purpose: why its holder reads data, whatever they say with a request.
        """
        expires_at = now + min(lasts or self.lifetime, LONGEST)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": principal.id,
            "roles": list(principal.roles),
            "sid": session,
            "epoch": account_epoch,
            "iat": int(now.timestamp()),
            "nbf": int(now.timestamp()),
            "exp": int(expires_at.timestamp()),
        }
        if mfa_at is not None:
            claims["mfa_at"] = microseconds(mfa_at)
        if binding is not None:
            claims["cnf"] = {binding.kind.value: binding.value}
        if purpose:
            claims["purpose"] = purpose
        payload = _part(claims)
        signature: Signature | None = None
        # The key id stands in the signed header, and only a signature tells which key is the
        # present one: after a rotation the first token is signed twice.
        for _ in range(3):
            message = f"{_part({'alg': ALGORITHM, 'kid': self._key_id, 'typ': TYPE})}.{payload}"
            signature = self._keys.sign(_PURPOSE, message.encode())
            if signature.key_id == self._key_id:
                break
            self._key_id = signature.key_id
        else:
            raise Corrupt(
                "The key service names another key for each signature.",
                hint="Check the key service with `falaj doctor`.",
            )
        return f"{message}.{_text(signature.value)}", expires_at

    def verify(self, token: str, now: datetime, presented: Presented = NOTHING) -> Caller:
        """Who presents this token.

        Args:
            token: as it came.
            now: this instant.
            presented: what came beside it; a bound token is refused without its key.

        Raises:
            InvalidToken: malformed, forged, for another audience, expired, or revoked.
            UnprovenKey, StaleNonce: it is bound to a key that the request does not prove.
            Unavailable: the revocations cannot be read, so nothing can be said.
        """
        return self.read(token, now, presented).caller

    def at_hand(self, token: str, now: datetime) -> Caller | None:
        """The caller of an unbound token that was verified before and is still good.

        None if something has to be read or proven to know, or the token is not good.
        """
        if len(token) > _LONGEST or not token.isascii():
            return None
        kept = self._kept.get(hashlib.sha256(token.encode()).digest())
        if kept is None or now > kept.good_until or kept.verified.binding is not None:
            return None
        if kept.revoked is not self._revocations.lately(now):
            return None
        return kept.verified.caller

    def still_good(self, token: str, now: datetime) -> None:
        """Return unless a token that was verified before is over or revoked by now.

        Raises:
            InvalidToken: it is.
        """
        self._unbound(token, now)

    def read(self, token: str, now: datetime, presented: Presented = NOTHING) -> Verified:
        """All that a token says, verified; raises as ``verify`` does."""
        verified = self._unbound(token, now)
        if verified.binding is not None:
            self._prove(verified.binding, token, now, presented)
        return verified

    def binding_at_login(self, presented: Presented, now: datetime) -> Binding | None:
        """The key that a new session will need: of the proof or the certificate that came along.

        Raises:
            UnprovenKey, StaleNonce: there is a proof, and it is not good.
        """
        if presented.proof is not None:
            return Binding(BindingKind.DPOP, self._signer(presented, now, None))
        if presented.certificate is not None:
            return Binding(BindingKind.CERTIFICATE, presented.certificate)
        return None

    def prove(self, binding: Binding, now: datetime, presented: Presented) -> None:
        """Return if a request without an access token proves a key; raises as ``verify``."""
        self._prove(binding, None, now, presented)

    def _prove(
        self, binding: Binding, token: str | None, now: datetime, presented: Presented
    ) -> None:
        if binding.kind is BindingKind.CERTIFICATE:
            if presented.certificate != binding.value:
                raise UnprovenKey(
                    "The token is bound to a client certificate that this connection did not show.",
                    hint="Connect with the certificate of the login.",
                )
            return
        if token is not None and presented.scheme != "dpop":
            raise UnprovenKey(
                "The token is bound to a key, and came as if it were not.",
                hint="Send `Authorization: DPoP <token>` with a proof in the header DPoP.",
            )
        if self._signer(presented, now, token) != binding.value:
            raise UnprovenKey(
                "The request is signed by another key than that of the token.",
                hint="A token that was copied from elsewhere does not work; log in here.",
            )

    def _signer(self, presented: Presented, now: datetime, token: str | None) -> str:
        if self.proofs is None:
            raise UnprovenKey(
                "Signed requests (DPoP) are not taken here.",
                hint="Use a token that is bound to a client certificate, or to nothing.",
            )
        return self.proofs.key_of(presented, now, token=token)

    def _unbound(self, token: str, now: datetime) -> Verified:
        """What a token says, whatever key it needs."""
        if len(token) > _LONGEST or not token.isascii():
            raise _refused("it is not a token of this platform")
        digest = hashlib.sha256(token.encode()).digest()
        revoked = self._revocations.current(now)
        kept = self._kept.get(digest)
        if kept is not None and kept.revoked is revoked and now <= kept.good_until:
            return kept.verified
        verified = self._verified(token, now) if kept is None else kept.verified
        good_until = verified.expires_at + self._leeway
        if now > good_until:
            self._kept.pop(digest, None)
            raise _refused("it has expired")
        if revoked.covers(
            session=verified.session,
            principal=verified.caller.principal.id,
            account_epoch=verified.account_epoch,
        ):
            self._kept.pop(digest, None)
            raise _refused("it was revoked")
        if len(self._kept) >= _MOST_CACHED:
            self._kept = {key: item for key, item in self._kept.items() if item.good_until >= now}
            if len(self._kept) >= _MOST_CACHED:
                self._kept = {}
        self._kept[digest] = _Kept(verified, revoked, good_until)
        return verified

    def _verified(self, token: str, now: datetime) -> Verified:
        header_text, payload_text, signature_text = _three(token)
        header = _object(header_text)
        if set(header) != _HEADER_NAMES or header["alg"] != ALGORITHM or header["typ"] != TYPE:
            raise _refused("its header is not one that this platform writes")
        if not isinstance(header["kid"], str):
            raise _refused("its header is not one that this platform writes")
        message = token[: len(header_text) + 1 + len(payload_text)].encode()
        signature = Signature(header["kid"], ALGORITHM, _bytes(signature_text))
        try:
            self._keys.verify(_PURPOSE, message, signature)
        except Corrupt as error:
            raise _refused("its signature is not this platform's") from error
        return self._believed(_object(payload_text), now)

    def _believed(self, claims: dict[str, Any], now: datetime) -> Verified:
        """The claims as a caller; they are signed, so a wrong shape means another platform's."""
        if claims.get("iss") != self._issuer:
            raise _refused("another platform issued it")
        if claims.get("aud") != self._audience:
            raise _refused("it is meant for another audience")
        try:
            subject, session = claims["sub"], claims["sid"]
            kind = PrincipalKind(subject.partition(":")[0])
            roles = tuple(str(role) for role in claims["roles"])
            not_before = _instant(claims["nbf"])
            issued_at = _instant(claims["iat"])
            expires_at = _instant(claims["exp"])
            epoch = int(claims["epoch"])
            mfa_at = from_microseconds(int(claims["mfa_at"])) if "mfa_at" in claims else None
            binding = Binding.of_claim(claims.get("cnf"))
            purpose = str(claims["purpose"]) if "purpose" in claims else None
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise _refused("its claims are not those of this platform") from error
        if not isinstance(session, str) or kind is PrincipalKind.SYSTEM:
            raise _refused("its claims are not those of this platform")
        if max(not_before, issued_at) > now + self._leeway:
            raise _refused("it is not valid yet; check the clocks")
        if now > expires_at + self._leeway or expires_at - issued_at > LONGEST:
            raise _refused("it has expired")
        return Verified(
            caller=Caller(
                Principal(subject, kind, roles),
                mfa_at=mfa_at,
                purpose=purpose,
                via="http",
                session=session,
                epoch=epoch,
            ),
            session=session,
            account_epoch=epoch,
            expires_at=expires_at,
            binding=binding,
        )


def _refused(why: str) -> InvalidToken:
    return InvalidToken(
        f"The access token is refused: {why}.", hint="Log in again, or refresh the session."
    )


def _part(value: dict[str, Any]) -> str:
    return _text(json.dumps(value, separators=(",", ":")).encode())


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _three(token: str) -> tuple[str, str, str]:
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise _refused("it is not a token of this platform")
    return parts[0], parts[1], parts[2]


def _bytes(text: str) -> bytes:
    try:
        data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise _refused("it is not a token of this platform") from error
    if _text(data) != text:  # Python's decoder overlooks foreign characters; we don't
        raise _refused("it is not a token of this platform")
    return data


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(text), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise _refused("it is not a token of this platform") from error
    if not isinstance(value, dict):
        raise _refused("it is not a token of this platform")
    return value


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _instant(seconds: Any) -> datetime:
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise TypeError("an instant is a whole number of seconds")
    return from_microseconds(seconds * 1_000_000)
