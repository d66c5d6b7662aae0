"""Passkeys (WebAuthn, level 3): what is asked of an authenticator, and what is believed of it.

The library that reads authenticators' answers is loaded when the first one comes: it takes
a third of a second and some megabytes that a control plane at rest does without.
"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection, RowMapping

from falaj.kernel.errors import AlreadyExists, Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.trust.model import Passkey
from falaj.trust.passkey_tables import passkeys

MOST = 20
"""Passkeys of one account."""
_FORMATS = frozenset({"none", "packed"})
"""Of attestation. None is asked for; what some authenticators send all the same is checked."""


@dataclass(frozen=True)
class RelyingParty:
    """Whom passkeys are for. Both come from settings, never from a request."""

    id: str
    """A domain, or empty: then there are no passkeys here."""
    origins: tuple[str, ...]
    """``https://name:port`` of the pages that may ask for one."""
    name: str = "Falaj"

    def known(self) -> str:
        """The domain; raises InvalidInput if this platform has none."""
        if not self.id:
            raise InvalidInput(
                "This platform has no name, only addresses; passkeys belong to a name.",
                hint="Give it a name: the settings http.names, sign_in.origins, sign_in.rp_id.",
            )
        return self.id


class Unbelieved(Exception):
    """An authenticator's answer is not accepted; the reason is for the audit log only."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Proof:
    """What an authenticator's answer proves."""

    credential_id: bytes
    sign_count: int
    user_verified: bool
    backed_up: bool
    public_key: bytes = b""
    """COSE; of a registration only."""


class Passkeys:
    """The passkeys of a platform. Each method works in the caller's transaction."""

    def of(self, connection: Connection, account_id: str) -> list[Passkey]:
        """The passkeys of an account, oldest first."""
        return [_passkey(row) for row in self.rows(connection, account_id)]

    def rows(self, connection: Connection, account_id: str) -> Sequence[RowMapping]:
        """The whole rows of an account's passkeys, for ceremonies only."""
        query = select(passkeys).where(passkeys.c.account == account_id)
        return connection.execute(query.order_by(passkeys.c.created_at)).mappings().all()

    def row(self, connection: Connection, credential_id: bytes) -> RowMapping | None:
        """The whole row of a credential's id, for ceremonies only."""
        query = select(passkeys).where(passkeys.c.credential_hash == _hash(credential_id))
        return connection.execute(query.with_for_update()).mappings().first()

    def add(
        self,
        connection: Connection,
        account_id: str,
        proof: Proof,
        *,
        name: str,
        user_handle: bytes,
        now: datetime,
    ) -> Passkey:
        """Keep a passkey of an account.

        Raises:
            AlreadyExists: it is somebody's already.
            Conflict: the account has ``MOST`` of them.
        """
        if self.row(connection, proof.credential_id) is not None:
            raise AlreadyExists("This passkey is registered already.", hint="Use another one.")
        if len(self.rows(connection, account_id)) >= MOST:
            raise Conflict(f"An account has at most {MOST} passkeys.", hint="Remove one.")
        passkey_id = new_id("passkey")
        connection.execute(
            insert(passkeys).values(
                id=passkey_id,
                account=account_id,
                credential_hash=_hash(proof.credential_id),
                credential_id=proof.credential_id,
                public_key=proof.public_key,
                user_handle=user_handle,
                sign_count=proof.sign_count,
                verifies=proof.user_verified,
                backed_up=proof.backed_up,
                name=name,
                created_at=now,
            )
        )
        query = select(passkeys).where(passkeys.c.id == passkey_id)
        return _passkey(connection.execute(query).mappings().one())

    def use(self, connection: Connection, row: RowMapping, proof: Proof, *, now: datetime) -> None:
        """Note the use of a passkey.

        Raises:
            Unbelieved: its counter has not grown. A counter that is always 0 says nothing:
                passkeys that are kept on several devices have none.
        """
        before = row["sign_count"]
        if (before or proof.sign_count) and proof.sign_count <= before:
            raise Unbelieved("cloned-counter")
        noted = connection.execute(
            update(passkeys)
            .where(passkeys.c.id == row["id"], passkeys.c.sign_count == before)
            .values(sign_count=proof.sign_count, backed_up=proof.backed_up, last_used_at=now)
        )
        if not noted.rowcount:
            raise Unbelieved("used-at-once")

    def remove(self, connection: Connection, account_id: str, passkey_id: str) -> None:
        """Forget one passkey of this account; raises NotFound."""
        gone = connection.execute(
            delete(passkeys).where(passkeys.c.id == passkey_id, passkeys.c.account == account_id)
        )
        if not gone.rowcount:
            raise NotFound(f"There is no passkey {passkey_id!r}.", hint="List the factors.")

    def forget(self, connection: Connection, account_id: str) -> None:
        """Forget all passkeys of an account."""
        connection.execute(delete(passkeys).where(passkeys.c.account == account_id))

    def count(self, connection: Connection, account_id: str) -> int:
        """How many passkeys an account has."""
        query = select(func.count()).where(passkeys.c.account == account_id)
        return int(connection.execute(query).scalar_one())


def creation_options(
    party: RelyingParty,
    *,
    challenge: bytes,
    user_handle: bytes,
    name: str,
    known: Iterable[bytes],
    verifies: bool,
) -> dict[str, Any]:
    """What a browser hands to ``navigator.credentials.create``, as JSON.

    Args:
        known: credential ids of the account, so that no authenticator is registered twice.
        verifies: True if the authenticator must check who uses it (PIN, fingerprint).
    """
    from webauthn import generate_registration_options, options_to_json
    from webauthn.helpers.structs import (
        AuthenticatorSelectionCriteria,
        PublicKeyCredentialDescriptor,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

    needed = UserVerificationRequirement
    options = generate_registration_options(
        rp_id=party.known(),
        rp_name=party.name,
        user_name=name,
        user_id=user_handle,
        challenge=challenge,
        timeout=120_000,
        exclude_credentials=[PublicKeyCredentialDescriptor(id=one) for one in known],
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.REQUIRED,
            user_verification=needed.REQUIRED if verifies else needed.PREFERRED,
        ),
        supported_pub_key_algs=_algorithms(),
    )
    return _plain(options_to_json(options))


def request_options(
    party: RelyingParty, *, challenge: bytes, allowed: Iterable[bytes] = (), verifies: bool
) -> dict[str, Any]:
    """What a browser hands to ``navigator.credentials.get``, as JSON.

    Args:
        allowed: credential ids; none lets the person choose, and tells nobody who has which.
        verifies: True if the authenticator must check who uses it.
    """
    from webauthn import generate_authentication_options, options_to_json
    from webauthn.helpers.structs import PublicKeyCredentialDescriptor, UserVerificationRequirement

    needed = UserVerificationRequirement
    options = generate_authentication_options(
        rp_id=party.known(),
        challenge=challenge,
        timeout=120_000,
        allow_credentials=[PublicKeyCredentialDescriptor(id=one) for one in allowed],
        user_verification=needed.REQUIRED if verifies else needed.PREFERRED,
    )
    return _plain(options_to_json(options))


def registered(
    party: RelyingParty, credential: Mapping[str, Any], *, challenge: bytes, verifies: bool
) -> Proof:
    """What the answer to ``create`` proves; raises Unbelieved."""
    from webauthn import verify_registration_response

    def verify() -> Proof:
        _check_format(credential)
        found = verify_registration_response(
            credential=dict(credential),
            expected_challenge=challenge,
            expected_rp_id=party.known(),
            expected_origin=list(party.origins),
            require_user_verification=verifies,
            supported_pub_key_algs=_algorithms(),
        )
        return Proof(
            found.credential_id,
            found.sign_count,
            found.user_verified,
            found.credential_backed_up,
            found.credential_public_key,
        )

    return _believed(verify)


def asserted(
    party: RelyingParty,
    credential: Mapping[str, Any],
    *,
    challenge: bytes,
    public_key: bytes,
    verifies: bool,
) -> Proof:
    """What the answer to ``get`` proves of the holder of a public key; raises Unbelieved."""
    from webauthn import verify_authentication_response

    def verify() -> Proof:
        found = verify_authentication_response(
            credential=dict(credential),
            expected_challenge=challenge,
            expected_rp_id=party.known(),
            expected_origin=list(party.origins),
            credential_public_key=public_key,
            credential_current_sign_count=0,  # held against ours after the signature
            require_user_verification=verifies,
        )
        return Proof(
            found.credential_id,
            found.new_sign_count,
            found.user_verified,
            found.credential_backed_up,
        )

    return _believed(verify)


def challenge_in(credential: Mapping[str, Any]) -> bytes:
    """The challenge that an answer says it is for; raises Unbelieved if there is none."""
    try:
        told = json.loads(from_base64url(credential["response"]["clientDataJSON"]))
        return from_base64url(told["challenge"])
    except (KeyError, TypeError, ValueError, RecursionError):
        raise Unbelieved("malformed") from None


def credential_id_in(credential: Mapping[str, Any]) -> bytes:
    """The id of the credential that an answer is by; raises Unbelieved if there is none."""
    try:
        return from_base64url(credential["rawId"])
    except (KeyError, TypeError, ValueError):
        raise Unbelieved("malformed") from None


def from_base64url(text: str) -> bytes:
    """The bytes of base64url without padding; raises ValueError, TypeError."""
    if not isinstance(text, str):
        raise TypeError("not a text")
    return urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))


def _check_format(credential: Mapping[str, Any]) -> None:
    from webauthn.helpers import parse_attestation_object

    written = from_base64url(credential["response"]["attestationObject"])
    if parse_attestation_object(written).fmt not in _FORMATS:
        raise Unbelieved("attestation-format")


def _believed(verify: Callable[[], Proof]) -> Proof:
    from webauthn.helpers.exceptions import WebAuthnException

    try:
        return verify()
    except WebAuthnException as error:
        raise Unbelieved(_reason(str(error))) from None
    except Unbelieved:
        raise
    except Exception as error:  # the readers of CBOR, COSE and ASN.1 raise what they like
        raise Unbelieved("malformed") from error


_REASONS = {
    "origin": "wrong-origin",
    "rp id": "wrong-rp",
    "user verification": "user-not-verified",
    "present": "user-not-present",
    "challenge": "wrong-challenge",
    "signature": "bad-signature",
    "client data type": "wrong-type",
}


def _reason(message: str) -> str:
    told = message.lower()
    return next((reason for word, reason in _REASONS.items() if word in told), "malformed")


def _algorithms() -> list[Any]:
    from webauthn.helpers.cose import COSEAlgorithmIdentifier

    return [
        COSEAlgorithmIdentifier.EDDSA,
        COSEAlgorithmIdentifier.ECDSA_SHA_256,
        COSEAlgorithmIdentifier.RSASSA_PKCS1_v1_5_SHA_256,
    ]


def _plain(document: str) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(document)
    return parsed


def _hash(credential_id: bytes) -> str:
    return hashlib.sha256(credential_id).hexdigest()


def _passkey(row: RowMapping) -> Passkey:
    return Passkey(
        id=row["id"],
        name=row["name"],
        verifies=row["verifies"],
        backed_up=row["backed_up"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
    )
