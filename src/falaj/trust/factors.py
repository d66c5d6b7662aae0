"""Second factors: time-based codes (RFC 6238) and recovery codes, and one-time secrets.

A TOTP secret is sealed before it reaches the database; a code's time step is good once, so a
code that was seen over a shoulder or on the wire is worth nothing afterwards.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from base64 import b32encode, urlsafe_b64encode
from datetime import datetime

import pyotp

from falaj.trust.ports import KeyService
from falaj.trust.sealing import open_bytes, seal_bytes

STEP_SECONDS = 30
SKEW_STEPS = 1
"""How many steps before and after the present one are accepted, for clocks that disagree."""
N_RECOVERY_CODES = 10


class Factors:
    """Makes and checks time-based codes.

    Args:
        keys: seals TOTP secrets, each bound to its account's id, so that a sealed secret that
            is moved to another account does not open.
        issuer: the name that authenticators show.
    """

    def __init__(self, keys: KeyService, *, issuer: str = "Falaj") -> None:
        self._keys = keys
        self._issuer = issuer

    def new_secret(self) -> str:
        """A fresh TOTP secret: 160 bits in base32."""
        return pyotp.random_base32()

    def uri(self, secret: str, name: str) -> str:
        """The ``otpauth://`` address of a secret, to be shown as a QR code."""
        return pyotp.TOTP(secret, interval=STEP_SECONDS).provisioning_uri(
            name=name, issuer_name=self._issuer
        )

    def seal(self, secret: str, account_id: str) -> bytes:
        """The secret as the database keeps it."""
        return seal_bytes(secret.encode(), self._keys, context=factor_context(account_id))

    def open(self, sealed: bytes, account_id: str) -> str:
        """The secret of a sealed one.

        Raises:
            Corrupt: it was changed, belongs to another account, or the keys are others.
        """
        return open_bytes(sealed, self._keys, context=factor_context(account_id)).decode()

    def step_of(self, secret: str, code: str, *, now: datetime, last_step: int) -> int | None:
        """The time step that a code belongs to, if it is right and later than the last used one.

        Args:
            secret: base32.
            code: six digits; blanks are ignored.
            last_step: the latest step for which a code was accepted (0: none).

        Every candidate is compared, in constant time each.
        """
        given = code.replace(" ", "")
        if len(given) != 6 or not given.isascii() or not given.isdigit():
            return None
        totp = pyotp.TOTP(secret, interval=STEP_SECONDS)
        present = int(now.timestamp()) // STEP_SECONDS
        found: int | None = None
        for step in range(present - SKEW_STEPS, present + SKEW_STEPS + 1):
            right = hmac.compare_digest(totp.generate_otp(step), given)
            if right and step > last_step:
                found = step
        return found


def factor_context(account_id: str) -> str:
    """Under which the TOTP secret of an account is sealed."""
    return f"second factor of {account_id}"


def new_recovery_codes() -> tuple[str, ...]:
    """Ten codes of 80 random bits, in groups that people can copy: ``abcd-efgh-ijkl-mnop``."""
    codes = []
    for _ in range(N_RECOVERY_CODES):
        text = b32encode(os.urandom(10)).decode().lower()
        codes.append("-".join(text[at : at + 4] for at in range(0, 16, 4)))
    return tuple(codes)


def recovery_hash(code: str, account_id: str) -> str:
    """What is kept of a recovery code; case, blanks and hyphens do not matter.

    A fast hash is right: 80 random bits are not to be guessed.
    """
    plain = code.lower().replace("-", "").replace(" ", "")
    return hashlib.sha256(f"recovery\n{account_id}\n{plain}".encode()).hexdigest()


def new_secret(kind: str) -> str:
    """A 256-bit secret that names its kind, so that secret scanners find a leaked one.

    Kinds: ``link`` (enrolment), ``ticket`` (second step of it), ``sk`` (service account),
    ``rt`` (refresh token).
    """
    return f"falaj_{kind}_{urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"


def secret_hash(secret: str) -> str:
    """What is kept of a 256-bit secret: a fast hash is right for what cannot be guessed."""
    return hashlib.sha256(secret.encode()).hexdigest()
