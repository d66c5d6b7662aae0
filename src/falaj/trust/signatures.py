"""Signatures: the algorithms that keys sign with, and verification with a public key alone.

Which algorithm a key is of follows from the name of its purpose, never from what a
signature says of itself.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from falaj.kernel.errors import Corrupt
from falaj.trust.ports import Signature

ED25519 = "Ed25519"
ECDSA_P256 = "ECDSA-P256-SHA256"
P256_ENDING = ".p256"
"""A signing purpose whose name ends so has keys of P-256."""
_ED25519_BYTES = 32
_SCALAR_BYTES = 32


def signing_algorithm(purpose: str) -> str:
    """What the keys of a signing purpose are of."""
    return ECDSA_P256 if purpose.endswith(P256_ENDING) else ED25519


def new_secret(algorithm: str) -> bytes:
    """The 32 secret bytes of a new signing key: the seed, or the scalar (big-endian)."""
    if algorithm == ED25519:
        return Ed25519PrivateKey.generate().private_bytes_raw()
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return number.to_bytes(_SCALAR_BYTES, "big")


def public_of(algorithm: str, secret: bytes) -> bytes:
    """The public key of a secret: 32 raw bytes of Ed25519, or P-256 as DER of its SPKI."""
    if algorithm == ED25519:
        return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    public = _p256(secret).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signature_by(algorithm: str, secret: bytes, message: bytes) -> bytes:
    """A signature: 64 bytes of Ed25519, or of ECDSA in DER."""
    if algorithm == ED25519:
        return Ed25519PrivateKey.from_private_bytes(secret).sign(message)
    # RFC 6979: the same message gives the same signature, so that what is signed again after a
    # crash has the digest that it had before.
    return _p256(secret).sign(message, ec.ECDSA(SHA256(), deterministic_signing=True))


def verify_signature(public_key: bytes, message: bytes, signature: Signature) -> None:
    """Check a signature with a public key alone; raises Corrupt.

    Args:
        public_key: 32 raw bytes of Ed25519, or an SPKI of P-256 in DER. The key says what
            is computed; a signature that claims another algorithm is refused.
        message: what was signed.
        signature: as the key service gave it.
    """
    try:
        if len(public_key) == _ED25519_BYTES:
            _claimed(signature, ED25519)
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature.value, message)
            return
        _claimed(signature, ECDSA_P256)
        found = load_der_public_key(public_key)
        if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name != "secp256r1":
            raise ValueError("another kind of key")
        found.verify(signature.value, message, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        raise Corrupt(
            f"The signature of key {signature.key_id[:80]!r} does not fit what it stands on.",
            hint="It was changed, or signed by somebody else. Do not use it.",
        ) from None


def _claimed(signature: Signature, algorithm: str) -> None:
    if signature.algorithm != algorithm:
        raise ValueError("another algorithm")


def _p256(secret: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(secret, "big"), ec.SECP256R1())
