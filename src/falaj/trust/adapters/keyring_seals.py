"""What seals a keyring file: a passphrase, or a secret file of the machine."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from argon2.low_level import Type, hash_secret_raw
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from falaj.kernel.errors import (
    AlreadyExists,
    Corrupt,
    InvalidInput,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from falaj.trust.keys import KEY_BYTES

FORMAT = "falaj-keyring-1"
_SHORTEST_PASSPHRASE = 12
_MOST_MEMORY_KIB, _MOST_TIME, _MOST_LANES = 2**20, 64, 64


class WrongSeal(Unauthenticated):
    """The passphrase or the machine's secret does not open the keyring."""

    code = "wrong-keyring-seal"


class Seal(Protocol):
    """Gives the key that seals a keyring file."""

    method: str

    def fresh(self) -> dict[str, Any]:
        """New public parameters (a salt, a cost), to stand in the file."""
        ...

    def key(self, parameters: Mapping[str, Any]) -> bytes:
        """The 32 bytes for such parameters; raises ValueError when they make no sense."""
        ...


class PassphraseSeal:
    """Seals with a passphrase through argon2id (RFC 9106: 64 MiB, 3 passes, 4 lanes).

    Args:
        passphrase: at least 12 characters.
        memory_kib, passes, lanes: the cost for a new keyring; an existing one says its own.
    """

    method = "passphrase"

    def __init__(
        self, passphrase: str, *, memory_kib: int = 65_536, passes: int = 3, lanes: int = 4
    ) -> None:
        if len(passphrase) < _SHORTEST_PASSPHRASE:
            raise InvalidInput(
                f"The keyring's passphrase has fewer than {_SHORTEST_PASSPHRASE} characters.",
                hint="Use a longer one, such as five random words.",
            )
        self._passphrase = passphrase.encode()
        self._cost = {"memory_kib": memory_kib, "passes": passes, "lanes": lanes}

    def fresh(self) -> dict[str, Any]:
        """A new salt and this seal's cost."""
        return {"salt": to_text(os.urandom(16)), **self._cost}

    def key(self, parameters: Mapping[str, Any]) -> bytes:
        """Derive the key; the cost is bounded, so that a hostile file cannot exhaust us."""
        memory, passes = int(parameters["memory_kib"]), int(parameters["passes"])
        lanes, salt = int(parameters["lanes"]), from_text(parameters["salt"])
        sensible = (
            8 * lanes <= memory <= _MOST_MEMORY_KIB
            and 1 <= passes <= _MOST_TIME
            and 1 <= lanes <= _MOST_LANES
            and len(salt) >= 8
        )
        if not sensible:
            raise ValueError("a cost of key derivation out of bounds")
        return hash_secret_raw(
            self._passphrase,
            salt,
            time_cost=passes,
            memory_cost=memory,
            parallelism=lanes,
            hash_len=KEY_BYTES,
            type=Type.ID,
        )


class MachineSeal:
    """Seals with a secret file of this machine, readable by its owner alone.

    The secret is 32 random bytes in hex. Keep it on another volume than the backups of
    the keyring.
    """

    method = "machine"

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path) -> MachineSeal:
        """Make the secret file; raises AlreadyExists rather than replace one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise AlreadyExists(
                f"The machine's secret {path} exists already.",
                hint="Use it, or name another file: without it its keyring cannot be opened.",
            ) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES).hex().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
        return cls(path)

    def fresh(self) -> dict[str, Any]:
        """A new salt."""
        return {"salt": to_text(os.urandom(16))}

    def key(self, parameters: Mapping[str, Any]) -> bytes:
        """Derive the key from the machine's secret."""
        salt = from_text(parameters["salt"])
        return HKDF(SHA256(), KEY_BYTES, salt=salt, info=FORMAT.encode()).derive(self._secret())

    def _secret(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(4 * KEY_BYTES)
        except FileNotFoundError:
            raise NotFound(
                f"The machine's secret {self._path} is missing.",
                hint="Restore it from where you keep it; without it the keyring stays shut.",
            ) from None
        except OSError as error:
            raise Unavailable(
                f"The machine's secret {self._path} cannot be read: {error.strerror}.",
                hint="Check its owner and mode.",
            ) from None
        if mode & 0o077:
            raise InvalidInput(
                f"The machine's secret {self._path} is open to others (mode {mode:04o}).",
                hint=f"Run `chmod 600 {self._path}`; if others may have read it, rotate the keys.",
            )
        try:
            secret = bytes.fromhex(text.decode("ascii").strip())
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise Corrupt(
                f"The machine's secret {self._path} is not {KEY_BYTES} bytes in hex.",
                hint="Restore it from where you keep it.",
            )
        return secret


def sync_directory(directory: Path) -> None:
    """Make a new or replaced name in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_text(value: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(value).decode()


def from_text(value: Any) -> bytes:
    """Base64 as bytes; raises ValueError."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError) as error:
        raise ValueError(f"not base64: {error}") from None
