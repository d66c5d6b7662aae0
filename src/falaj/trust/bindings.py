"""Tokens that are worth nothing without a key: who presents one must prove that he holds it.

A token says in its claim ``cnf`` (RFC 7800) whose key it needs: ``x5t#S256`` is the digest of
a client certificate, which the connection must have shown (RFC 8705); ``jkt`` the thumbprint
of a key that signs each request (DPoP, RFC 9449; see ``proofs``).
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

_DIGEST = re.compile(r"[A-Za-z0-9_-]{43}")


class BindingKind(StrEnum):
    """What has to be proven with a token; the names are those in ``cnf``."""

    CERTIFICATE = "x5t#S256"
    DPOP = "jkt"


@dataclass(frozen=True, slots=True)
class Binding:
    """The key that a token or a session needs."""

    kind: BindingKind
    value: str
    """A SHA-256 digest, base64url without padding."""

    def to_text(self) -> str:
        """``kind:value``, for a text column."""
        return f"{self.kind.value}:{self.value}"

    @classmethod
    def parse(cls, text: str | None) -> Self | None:
        """Read ``to_text`` back; None for None. Raises ValueError."""
        if text is None:
            return None
        kind, _, value = text.rpartition(":")
        return cls._checked(kind, value)

    @classmethod
    def of_claim(cls, claim: Any) -> Self | None:
        """The binding in a claim ``cnf``; None if there is no claim. Raises ValueError."""
        if claim is None:
            return None
        if not isinstance(claim, dict) or len(claim) != 1:
            raise ValueError("not a confirmation of one key")
        ((kind, value),) = claim.items()
        return cls._checked(kind, value)

    @classmethod
    def _checked(cls, kind: Any, value: Any) -> Self:
        if not isinstance(value, str) or not _DIGEST.fullmatch(value):
            raise ValueError("not a digest")
        return cls(BindingKind(kind), value)


@dataclass(frozen=True, slots=True)
class Presented:
    """What came with a token, beside it."""

    certificate: str | None = None
    """Thumbprint of the client certificate that the connection has shown and TLS has checked."""
    proof: str | None = None
    """The DPoP proof of this request."""
    method: str = ""
    url: str = ""
    """Of the request, without query and fragment; what a proof must name."""
    scheme: str = "bearer"
    """Of the Authorization header, in lower case: ``bearer`` or ``dpop``."""


NOTHING = Presented()
"""A token alone. Bound tokens are refused with it."""


def thumbprint(certificate: bytes) -> str:
    """``x5t#S256`` of a certificate in DER."""
    return digest_text(certificate)


def digest_text(data: bytes) -> str:
    """SHA-256, base64url without padding."""
    return urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
