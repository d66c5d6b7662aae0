"""``FileKeyring``: the key service on one sealed file, shared by the processes of a machine.

The file is JSON: how it is sealed, a generation that counts its changes, and the keys
themselves under AES-256-GCM, with all the rest authenticated. It is replaced atomically
and synced, by one writer at a time (a lock file beside it); readers see a change at their
next use. Whoever has the file alone has nothing; whoever loses it, or what seals it, has
lost everything that it opens: back both up, apart from each other.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.clock import Clock
from falaj.kernel.errors import (
    AlreadyExists,
    Corrupt,
    FalajError,
    LimitExceeded,
    NotFound,
    Unavailable,
)
from falaj.trust.adapters.keyring_seals import (
    FORMAT,
    MachineSeal,
    PassphraseSeal,
    Seal,
    WrongSeal,
    from_text,
    sync_directory,
    to_text,
)
from falaj.trust.keys import (
    NONCE_BYTES,
    Keyset,
    checked_purpose,
    checked_signing_purpose,
)
from falaj.trust.ports import KeyVersion, Signature, UnknownKey, WrappedKey

_LARGEST = 16 * 2**20


@dataclass(frozen=True, slots=True)
class _Opened:
    keys: Keyset
    generation: int
    stamp: tuple[int, int, int]
    sealed_by: Mapping[str, Any]
    sealing_key: bytes

    def __repr__(self) -> str:
        return f"_Opened(generation {self.generation})"


class FileKeyring:
    """The ``KeyService`` on a sealed file.

    Args:
        path: the file; ``create`` makes it.
        seal: what opens it.
        clock: gives new versions their time.

    Raises:
        NotFound: there is no such file.
        WrongSeal: the passphrase or the secret is wrong, or the file was tampered with.
        Corrupt: the file is truncated, or no keyring.
    """

    def __init__(self, path: Path, seal: Seal, *, clock: Clock) -> None:
        self._path = path
        self._seal = seal
        self._clock = clock
        self._lock = threading.RLock()
        self._opened = self._read(None)

    @classmethod
    def create(cls, path: Path, seal: Seal, *, clock: Clock) -> FileKeyring:
        """Make a new keyring with fresh keys; raises AlreadyExists rather than replace one."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path):
            if path.exists():
                raise AlreadyExists(
                    f"The keyring {path} exists already.",
                    hint="Use it, or name another file: what it sealed opens with no other.",
                )
            parameters = {"method": seal.method, **seal.fresh()}
            _write(path, Keyset.fresh(clock.now()), 1, parameters, seal.key(parameters))
        return cls(path, seal, clock=clock)

    # The port.

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``."""
        return self._keys().wrap(data_key, context)

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        return self._keys().unwrap(wrapped, context)

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """See ``KeyService.derive``."""
        return self._keys().derive(purpose, n_bytes)

    def sign(self, purpose: str, message: bytes) -> Signature:
        """See ``KeyService.sign``."""
        keys = self._with_key(checked_signing_purpose(purpose))
        key = keys.active(purpose)
        if key is None:
            raise UnknownKey(f"The keyring lost its key for {purpose!r}.", hint="Repeat the call.")
        return keys.sign(key, message)

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """See ``KeyService.verify``."""
        self._keys().verify(checked_signing_purpose(purpose), message, signature)

    def public_key(self, purpose: str) -> bytes:
        """See ``KeyService.public_key``."""
        return list(self.public_keys(purpose).values())[-1]

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """See ``KeyService.public_keys``."""
        return self._with_key(checked_signing_purpose(purpose)).public_keys(purpose)

    def rotate(self, purpose: str) -> KeyVersion:
        """See ``KeyService.rotate``."""
        checked_purpose(purpose)
        changed = self._changed(lambda keys: keys.rotated(purpose, self._clock.now()))
        return [version for version in changed.versions() if version.purpose == purpose][-1]

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``."""
        return self._keys().versions()

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``."""
        self._changed(lambda keys: keys.without(key_id))

    # The file.

    @property
    def sealed_by(self) -> Mapping[str, Any]:
        """How the file is sealed now, without the secret of it."""
        self._keys()
        return self._opened.sealed_by

    def reseal(self, seal: Seal) -> None:
        """Seal the same keys with another passphrase or secret; the old one opens no more.

        Other processes fail with ``WrongSeal`` until they are started with the new one.
        """
        with self._lock, _writing(self._path):
            opened = self._read(self._opened)
            parameters = {"method": seal.method, **seal.fresh()}
            _write(self._path, opened.keys, opened.generation + 1, parameters, seal.key(parameters))
            self._seal = seal
            self._opened = self._read(None)

    def _with_key(self, purpose: str) -> Keyset:
        keys = self._keys()
        if keys.active(purpose) is not None:
            return keys
        return self._changed(
            lambda held: held if held.active(purpose) else held.rotated(purpose, self._clock.now())
        )

    def _keys(self) -> Keyset:
        """The keys as the file holds them now: one ``stat``, and a read if it changed."""
        opened = self._opened
        if _stamp(self._path) == opened.stamp:
            return opened.keys
        with self._lock:
            self._opened = self._read(self._opened)
            return self._opened.keys

    def _changed(self, change: Callable[[Keyset], Keyset]) -> Keyset:
        with self._lock, _writing(self._path):
            opened = self._read(self._opened)
            keys = change(opened.keys)
            if keys is not opened.keys:
                generation = opened.generation + 1
                _write(self._path, keys, generation, opened.sealed_by, opened.sealing_key)
            self._opened = self._read(opened)
            return self._opened.keys

    def _read(self, before: _Opened | None) -> _Opened:
        stamp, document = _document(self._path)
        try:
            sealed_by, generation = dict(document["sealed_by"]), int(document["generation"])
            nonce, sealed = from_text(document["nonce"]), from_text(document["keys"])
            if document["format"] != FORMAT or len(nonce) != NONCE_BYTES:
                raise ValueError("an unknown format")
        except (KeyError, TypeError, ValueError):
            raise _not_a_keyring(self._path) from None
        if before is not None and generation < before.generation:
            raise Corrupt(
                f"The keyring {self._path} is older than it was (generation {generation} "
                f"after {before.generation}).",
                hint="If you restored it on purpose, restart this process; else look who did.",
            )
        sealing_key = self._sealing_key(sealed_by, before)
        try:
            opened = AESGCM(sealing_key).decrypt(
                nonce, sealed, _authenticated(sealed_by, generation)
            )
        except (InvalidTag, ValueError):
            raise WrongSeal(
                f"The {self._seal.method} does not open the keyring {self._path}, "
                "or the file was changed.",
                hint="Give the right one, or restore the keyring from a backup.",
            ) from None
        try:
            keys = Keyset.from_document(json.loads(opened))
        except ValueError:
            raise _not_a_keyring(self._path) from None
        return _Opened(keys, generation, stamp, sealed_by, sealing_key)

    def _sealing_key(self, sealed_by: dict[str, Any], before: _Opened | None) -> bytes:
        """Deriving a key from a passphrase is slow on purpose: keep it while it serves."""
        if before is not None and before.sealed_by == sealed_by:
            return before.sealing_key
        method = sealed_by.get("method")
        if method != self._seal.method:
            raise WrongSeal(
                f"The keyring {self._path} is sealed by {str(method)[:40]!r}, "
                f"not by {self._seal.method!r}.",
                hint="Change the setting that says how the keyring is sealed.",
            )
        try:
            return self._seal.key(sealed_by)
        except (KeyError, TypeError, ValueError):
            raise _not_a_keyring(self._path) from None


def _document(path: Path) -> tuple[tuple[int, int, int], Any]:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            text = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise Unavailable(
            f"The keyring {path} cannot be read: {error.strerror}.",
            hint="Check its owner and mode.",
        ) from None
    if len(text) > _LARGEST:
        raise _not_a_keyring(path)
    try:
        return (found.st_ino, found.st_mtime_ns, found.st_size), json.loads(text)
    except (ValueError, RecursionError):
        raise _not_a_keyring(path) from None


def _write(
    path: Path, keys: Keyset, generation: int, sealed_by: Mapping[str, Any], sealing_key: bytes
) -> None:
    """Replace the file in one step: after a crash it is the old one or the new one."""
    nonce = os.urandom(NONCE_BYTES)
    clear = json.dumps(keys.to_document()).encode()
    sealed = AESGCM(sealing_key).encrypt(nonce, clear, _authenticated(sealed_by, generation))
    document = {
        "format": FORMAT,
        "sealed_by": dict(sealed_by),
        "generation": generation,
        "nonce": to_text(nonce),
        "keys": to_text(sealed),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(json.dumps(document, indent=1).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise LimitExceeded(
            f"The keyring {path} cannot be written: {error.strerror}.",
            hint="Free some space or mend the permissions; the old keyring is unchanged.",
        ) from None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """One writer at a time, over all processes of the machine."""
    try:
        descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Unavailable(
            f"The keyring's folder {path.parent} cannot be written: {error.strerror}.",
            hint="Give the platform's user the right to write there.",
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _authenticated(sealed_by: Mapping[str, Any], generation: int) -> bytes:
    return json.dumps([FORMAT, sealed_by, generation], sort_keys=True).encode()


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise _missing(path) from None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _missing(path: Path) -> FalajError:
    return NotFound(
        f"The keyring {path} is missing.",
        hint="Restore it from a backup; a new one (`falaj init`) opens nothing that exists.",
    )


def _not_a_keyring(path: Path) -> FalajError:
    return Corrupt(
        f"The file {path} is truncated, damaged or no keyring.",
        hint="Restore the keyring from a backup.",
    )


__all__ = ["FileKeyring", "MachineSeal", "PassphraseSeal", "Seal", "WrongSeal"]
