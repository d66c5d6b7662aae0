"""Backups as files: opened piece by piece, and believed in no piece that was changed.

A backup is one file::

    magic | n (u32) | head (n bytes, JSON) | a tar, sealed under a data key of its own

The head holds the keyring as it lies on disk, sealed by a passphrase, a machine's secret or
a device, which is never in the backup; its digest is part of what the seal is bound to. The
last member of the tar lists the others with their sizes and digests.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.kernel.settings import Settings
from falaj.lake.disk import disk_error
from falaj.trust.sealing import Source, Target, open_pieces
from falaj.wiring.keyservices import (
    KEYRING,
    key_service,
    keyring_file,
    kind_of,
    machine_secret_file,
)

if TYPE_CHECKING:
    from falaj.trust.ports import KeyService

MAGIC = b"FALAJBACKUP1\n"
LENGTH = struct.Struct(">I")
CONTENTS = "contents.json"
CHUNK = 1 << 20
_LONGEST_HEAD = 32 * 2**20
_MEMBER = re.compile(r"[A-Za-z0-9_=.+-]+(/[A-Za-z0-9_=.+-]+)*")


def sealed_for(head: bytes) -> str:
    """The context under which the rest of a backup with this head is sealed."""
    return f"backup {hashlib.sha256(head).hexdigest()}"


def made_at(head: dict[str, Any]) -> datetime:
    """When a backup was made, as its head says."""
    return datetime.fromisoformat(head["made_at"])


@contextmanager
def opened(
    settings: Settings, file: Path, secret: Path | None
) -> Iterator[tuple[dict[str, Any], tarfile.TarFile]]:
    """Head and members of a backup, to be read in turn, within the context.

    Args:
        settings: name the key service, and the platform whose secret opens the keyring.
        secret: the file of another machine's secret instead.

    Raises:
        NotFound: there is no such file, or no secret. Corrupt: it is not what was written;
            that nothing is missing at its end shows when the context is left.
    """
    try:
        source = file.open("rb")
    except FileNotFoundError:
        raise NotFound(f"There is no backup {file}.", hint="Check the name.") from None
    except OSError as error:
        raise disk_error(error, f"the backup {file}") from error
    with source, TemporaryDirectory(prefix="falaj-backup-") as beside:
        text = _read_head(source, file)
        head = _parsed(text, file)
        keys = _keys(settings, head, Path(beside), secret)
        pieces = open_pieces(cast("Source", source), keys, context=sealed_for(text))
        reader = _Pieces(pieces)
        try:
            with tarfile.open(fileobj=cast("BinaryIO", reader), mode="r|", bufsize=CHUNK) as tar:
                yield head, tar
                reader.drained()
        except tarfile.TarError:
            raise _damaged(file) from None


def _read_head(source: BinaryIO, file: Path) -> bytes:
    start = source.read(len(MAGIC) + LENGTH.size)
    if len(start) != len(MAGIC) + LENGTH.size or not start.startswith(MAGIC):
        raise Corrupt(f"{file} does not begin as a backup does.", hint="Name another file.")
    (length,) = LENGTH.unpack(start[len(MAGIC) :])
    head = source.read(length) if length <= _LONGEST_HEAD else b""
    if len(head) != length:
        raise _damaged(file)
    return head


def _parsed(text: bytes, file: Path) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(text)
        made_at(head)
        if not isinstance(head["keys"], str) or not isinstance(head["keyring"], str | None):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(file) from None
    return head


def _damaged(file: Path) -> Corrupt:
    return Corrupt(
        f"The backup {file} is not what was written.", hint="Use another copy of it; trust no part."
    )


def _keys(
    settings: Settings, head: dict[str, Any], folder: Path, secret: Path | None
) -> KeyService:
    """The key service that the backup was made with, on its keyring in a folder of its own."""
    if head["keys"] != settings.keys:
        raise InvalidInput(
            f"The backup was made with keys = {head['keys'][:100]!r}.",
            hint="Set the same key service before you open it.",
        )
    there = settings.model_copy(update={"home": folder})
    if head["keyring"] is not None:
        keyring_file(there).parent.mkdir(mode=0o700)
        keyring_file(there).write_text(head["keyring"], encoding="utf-8")
    if wants_secret(settings):
        secret_copied(settings, there, secret)
    return key_service(there, SystemClock())


def wants_secret(settings: Settings) -> bool:
    """True if a machine's secret opens the keyring."""
    return kind_of(settings) == KEYRING and settings.keyring_passphrase is None


def secret_copied(settings: Settings, there: Settings, secret: Path | None) -> None:
    """Put the secret (this platform's if none is named) beside another keyring."""
    own = secret or machine_secret_file(settings)
    if not own.exists():
        raise NotFound(
            f"The secret that sealed the backup's keyring is not in {own}.",
            hint="Name it with --secret, or set FALAJ_KEYRING_PASSPHRASE if a passphrase did.",
        )
    target = machine_secret_file(there)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(own.read_bytes())


class _Pieces:
    """What was opened, as a file to read from."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, wanted = [], size
        while wanted:
            if not self._rest:
                self._rest = bytes(next(self._pieces, b""))
                if not self._rest:
                    break
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def drained(self) -> None:
        """Read to the end: only there it shows that nothing is missing."""
        for _ in self._pieces:
            continue


def checked(
    tar: tarfile.TarFile, place: Callable[[str], Path | None]
) -> dict[str, tuple[int, str]]:
    """Read all members, each into its place if it has one; returns size and digest of each.

    Raises:
        Corrupt: a member is none that we write, or differs from the list of contents.
    """
    found: dict[str, tuple[int, str]] = {}
    listed: dict[str, Any] | None = None
    for member in tar:
        content = tar.extractfile(member) if member.isfile() else None
        parts = member.name.split("/")
        if content is None or not _MEMBER.fullmatch(member.name) or {".", ".."} & set(parts):
            raise _damaged(Path(member.name[:100]))
        if member.name == CONTENTS:
            listed = json.loads(content.read())
            continue
        digest = hashlib.sha256()
        with _into(place(member.name)) as target:
            while chunk := content.read(CHUNK):
                digest.update(chunk)
                target.write(chunk)
        found[member.name] = member.size, digest.hexdigest()
    if listed is None or {name: tuple(facts) for name, facts in listed.items()} != found:
        raise _damaged(Path(CONTENTS))
    return found


@contextmanager
def _into(path: Path | None) -> Iterator[Target]:
    if path is None:
        yield _Nowhere()
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


class _Nowhere:
    def write(self, data: bytes | memoryview, /) -> object:
        return len(data)
