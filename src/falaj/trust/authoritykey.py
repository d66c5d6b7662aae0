"""The private key of the built-in certificate authority, sealed by the key service.

Whoever has this key can be any program and any server of the platform, so it never stands on
the disk in clear. Older versions wrote it so (``ca.key``); such a file is sealed and removed
when the authority is used next.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.kernel.telemetry import logger
from falaj.trust.pemfiles import pem_key, read_key, removed, write
from falaj.trust.ports import KeyService
from falaj.trust.sealing import open_bytes, seal_bytes

CLEAR_FILE, SEALED_FILE = "ca.key", "ca.key.sealed"
CONTEXT = "certificate authority"
"""Under which the key is sealed."""


class AuthorityKey:
    """Keeps the key of an authority in its folder; whoever calls holds the folder's lock.

    Args:
        directory: the authority's folder.
        keys: seals it. None leaves it in clear, readable by its owner alone: for the servers
            that tests start, never for a platform.
    """

    def __init__(self, directory: Path, keys: KeyService | None) -> None:
        self._clear = directory / CLEAR_FILE
        self._sealed = directory / SEALED_FILE
        self._keys = keys

    @property
    def exists(self) -> bool:
        """True if there is a key, whether it can be read or not."""
        return self._clear.exists() or (self._keys is not None and self._sealed.exists())

    def create(self) -> None:
        """Make a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        if self._keys is None:
            write(self._clear, pem_key(key))
        else:
            write(self._sealed, seal_bytes(pem_key(key), self._keys, context=CONTEXT))

    def load(self) -> ec.EllipticCurvePrivateKey:
        """The key.

        Raises:
            OSError, ValueError, TypeError: the file cannot be read, or holds no key of ours.
            Corrupt: what is sealed was changed, or was sealed by another key service.
            InvalidInput: the file in clear is open to others.
        """
        if self._keys is None:
            return self._in_clear()
        if self._clear.exists():
            self._seal_what_is_clear(self._keys)
        return self._opened(self._keys)

    def _in_clear(self) -> ec.EllipticCurvePrivateKey:
        key = read_key(self._clear.read_bytes())
        if self._clear.stat().st_mode & 0o077:
            raise InvalidInput(
                f"The authority's key {self._clear} is open to others.",
                hint=f"Run `chmod 600 {self._clear}`; if others may have read it, found a new one.",
            )
        return key

    def _opened(self, keys: KeyService) -> ec.EllipticCurvePrivateKey:
        return read_key(open_bytes(self._sealed.read_bytes(), keys, context=CONTEXT))

    def _seal_what_is_clear(self, keys: KeyService) -> None:
        """Seal the key of an older version; killed in between, it is done again."""
        key = self._in_clear()
        if not self._sealed.exists():
            write(self._sealed, seal_bytes(pem_key(key), keys, context=CONTEXT))
        if _same(self._opened(keys), key):  # read back before the only other copy goes
            removed(self._clear)
            logger(__name__).info("the key of the certificate authority is sealed now")
            return
        raise Corrupt(
            f"{self._clear} and {self._sealed} hold two different keys.",
            hint="Keep the one that belongs to ca.pem and move the other one away.",
        )


def _same(one: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePrivateKey) -> bool:
    def public(key: ec.EllipticCurvePrivateKey) -> bytes:
        return key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    return public(one) == public(other)
