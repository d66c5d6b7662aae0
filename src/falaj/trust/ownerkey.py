"""The key file of a workspace's owner: whoever can read it may open the embedded platform."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from falaj.kernel.errors import AlreadyExists, Corrupt, Forbidden, NotFound

_CONTEXT = b"falaj owner challenge v1\n"


class OwnerKey:
    """An Ed25519 private key in a file that only its owner may read (PKCS 8, PEM, mode 0600)."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def create(cls, path: Path) -> OwnerKey:
        """Make a new key and write it; raises AlreadyExists rather than replace a file."""
        key = Ed25519PrivateKey.generate()
        text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise AlreadyExists(
                f"There is a key file {path} already.", hint="Move it away to make a new one."
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> OwnerKey:
        """Read a key file.

        Raises:
            NotFound: there is none.
            Forbidden: others than its owner may read it.
            Corrupt: it holds something else.
        """
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(10_000)
        except FileNotFoundError:
            raise NotFound(
                f"There is no key file {path}.", hint="Run `falaj init` in this folder."
            ) from None
        except PermissionError:
            raise Forbidden(
                f"The key file {path} is another user's.", hint="Run as the workspace's owner."
            ) from None
        if os.name == "posix" and mode & 0o077:
            raise Forbidden(
                f"The key file {path} may be read by others (mode {mode:o}).",
                hint=f"Run `chmod 600 {path}`; make a new key if others had access.",
            )
        try:
            key = load_pem_private_key(text, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise Corrupt(
                f"The file {path} is not an owner's key.", hint="Restore it from your backup."
            )
        return cls(key)

    @property
    def public_key(self) -> bytes:
        """The public half: 32 raw bytes."""
        return self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def answer(self, challenge: bytes) -> bytes:
        """The signature that proves possession for a fresh challenge."""
        return self._key.sign(_CONTEXT + challenge)


def proves(public_key: bytes, challenge: bytes, answer: bytes) -> bool:
    """True if the holder of a raw public key's private half gave this answer."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(answer, _CONTEXT + challenge)
    except (InvalidSignature, ValueError):
        return False
    return True
