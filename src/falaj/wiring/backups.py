"""Backups of a platform whose stores are in its folder: made while it runs, sealed, proven.

A backup is one file::

    magic | n (u32) | head (n bytes, JSON) | a tar, sealed under a data key of its own

The head holds the keyring as it lies on disk, sealed by a passphrase, a machine's secret or
a device, which is never in the backup; its digest is part of what the seal is bound to. The
tar holds copies in an order that is whole at every point: the witness before the audit
log; the event log and the spool before the lake, which takes from them under keys that
write nothing twice; the metadata database before the blobs that it names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import struct
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from pydantic import BaseModel

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import AlreadyExists, Corrupt, InvalidInput, NotFound
from falaj.kernel.settings import Settings
from falaj.lake.disk import disk_error, sync_folder
from falaj.trust.sealing import SealingWriter, Source, Target, open_pieces
from falaj.wiring.keyservices import KEYRING, key_service, keyring_file, kind_of

if TYPE_CHECKING:
    from falaj.trust.ports import KeyService

ACTION = "backups.create"
BACKER = "system:backup"
_MAGIC = b"FALAJBACKUP1\n"
_LENGTH = struct.Struct(">I")
_LONGEST_HEAD = 32 * 2**20
_CONTENTS = "contents.json"
_DATABASE = "falaj.db"
_CATALOGUE = "lake/catalog.sqlite"
_MADE = "lake/catalog.sqlite.made"
_BEFORE = ("witness", "log", "spool")
_AFTER = ("blobs", "tls")
_LEFT_OUT = re.compile(
    r"(^|/)(state|lock|\.groups(/.*)?|\.spill(/.*)?)$|\.(begun|unfinished|lock)$|\.rewrapped-|"
    r"(^|/)\.unfinished-"
)
_MEMBER = re.compile(r"[A-Za-z0-9_=.+-]+(/[A-Za-z0-9_=.+-]+)*")
_CHUNK = 1 << 20


class Backup(BaseModel):
    """What is in a backup."""

    file: str
    made_at: datetime
    n_files: int
    n_bytes: int
    """Before sealing."""
    n_audit_records: int | None = None
    """Of the restored platform, all of which verify; None where nothing was restored."""


def create(settings: Settings, file: Path) -> Backup:
    """Make a backup of a platform, which may be in use.

    Args:
        settings: of the platform; its database, lake and blobs are in its folder.
        file: must not exist; whole and synced when this returns, absent after a failure.

    Raises:
        InvalidInput: a store of it is elsewhere, and has backups of its own.
        AlreadyExists: the file is there. LimitExceeded, Unavailable: the disk refuses.
    """
    from falaj.wiring.assembly import assemble

    _own_stores(settings)
    if file.exists():
        raise AlreadyExists(f"{file} exists already.", hint="Name a file that is not there yet.")
    premises = assemble(settings, process="backup")
    begun = file.with_name(f"{file.name}.{token_hex(6)}.begun")
    try:
        now = premises.clock.now()
        head = _head(settings, now)
        handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as target:
            target.write(_MAGIC + _LENGTH.pack(len(head)) + head)
            members = _written(settings, target, premises.keys, _context(head))
            target.flush()
            os.fsync(target.fileno())
        found = _told(file, now, members)
        with premises.calls.opened(ACTION, BACKER) as call:
            call.note(**found.model_dump(mode="json", include={"n_files", "n_bytes"}))
        begun.rename(file)
        sync_folder(file.absolute().parent)
    except OSError as error:
        raise disk_error(error, f"the backup {file}") from error
    finally:
        begun.unlink(missing_ok=True)
        premises.close()
    return found


def verify(settings: Settings, file: Path, *, secret: Path | None = None) -> Backup:
    """Open a backup to its last byte and hold every file in it to its digest; writes nothing.

    Args:
        secret: the machine's secret that sealed its keyring, where that is not this
            platform's, and no passphrase or key service seals it.

    Raises:
        Corrupt: a byte of it is not what was written, or it is cut.
        WrongSeal: the passphrase or the secret is not the one of its keyring.
    """
    with _opened(settings, file, secret) as (head, reader):
        return _told(file, _made_at(head), _checked(reader, lambda _name: None))


def restore(settings: Settings, file: Path, *, secret: Path | None = None) -> Backup:
    """Make a platform of a backup, in a folder that has none.

    The audit log is verified against its checkpoints and the witness that is in the
    backup before anything is in its place. Online values and feature indexes are not in
    a backup: `falaj features materialize` makes them again.

    Raises:
        AlreadyExists: there is a platform. Corrupt: a byte is not what was written, or
            the audit log in it is not whole; nothing is left of the attempt.
        WrongSeal: as for ``verify``.
    """
    _own_stores(settings)
    home = settings.home
    if home.exists():
        raise AlreadyExists(
            f"There is a platform in {home} already.", hint="Restore into another folder."
        )
    begun = home.with_name(f"{home.name}.restoring-{token_hex(6)}")
    try:
        with _opened(settings, file, secret) as (head, reader):
            begun.mkdir(mode=0o700, parents=True)
            members = _checked(reader, lambda name: begun / name)
            _keys_restored(settings.model_copy(update={"home": begun}), head, secret)
            found = _told(file, _made_at(head), members)
        n_records = _proven(settings.model_copy(update={"home": begun}))
        begun.rename(home)
        sync_folder(home.parent)
    except OSError as error:
        raise disk_error(error, f"the folder {home}") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return found.model_copy(update={"n_audit_records": n_records})


def _own_stores(settings: Settings) -> None:
    elsewhere = [
        name
        for name, value, own in (
            ("database", settings.database, "sqlite:"),
            ("lake", settings.lake, "ducklake:"),
            ("lake_data", settings.lake_data, "file:"),
            ("blobs", settings.blobs, "file:"),
        )
        if value != own
    ]
    if elsewhere:
        raise InvalidInput(
            f"This platform keeps its {', '.join(elsewhere)} outside of its folder.",
            hint="Back those up with their own tools (pg_dump, versions of the bucket), all of "
            "them, and the keyring beside them.",
        )


def _head(settings: Settings, now: datetime) -> bytes:
    keyring = keyring_file(settings)
    document = {
        "made_at": now.isoformat(),
        "keys": settings.keys,
        "keyring": keyring.read_text(encoding="utf-8") if keyring.exists() else None,
    }
    return json.dumps(document).encode()


def _context(head: bytes) -> str:
    return f"backup {hashlib.sha256(head).hexdigest()}"


def _made_at(head: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(head["made_at"])


def _told(file: Path, made_at: datetime, members: dict[str, tuple[int, str]]) -> Backup:
    n_bytes = sum(size for size, _ in members.values())
    return Backup(file=str(file), made_at=made_at, n_files=len(members), n_bytes=n_bytes)


# Making one.


def _written(
    settings: Settings, target: Target, keys: KeyService, context: str
) -> dict[str, tuple[int, str]]:
    """Write all members; returns size and digest of each."""
    home = settings.home
    sealing = SealingWriter(target, keys, context=context)
    members: dict[str, tuple[int, str]] = {}
    with ExitStack() as stack:
        tar = stack.enter_context(
            tarfile.open(fileobj=cast("BinaryIO", sealing), mode="w|", bufsize=_CHUNK)
        )
        beside = Path(stack.enter_context(TemporaryDirectory(prefix=".backup-", dir=home)))
        for folder in _BEFORE:
            _added(tar, home, _files(home / folder), members)
        _copied(home / _DATABASE, beside / _DATABASE)
        _added(tar, beside, [beside / _DATABASE], members)
        (beside / "lake").mkdir()
        # What is listed before and after the catalogue is copied holds all that it names,
        # though compaction removes files meanwhile.
        _linked(home / "lake" / "data", beside / "lake" / "data")
        _copied(home / _CATALOGUE, beside / _CATALOGUE)
        _linked(home / "lake" / "data", beside / "lake" / "data")
        _added(tar, beside, [beside / _CATALOGUE, *_files(beside / "lake" / "data")], members)
        _added(tar, home, [home / _MADE], members)
        for folder in _AFTER:
            _added(tar, home, _files(home / folder), members)
        _added(tar, home, [home / "owner.key"], members)
        contents = json.dumps(members).encode()
        tar.addfile(_member(_CONTENTS, len(contents)), io.BytesIO(contents))
    sealing.close()
    return members


def _files(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(
        path for path in found if not _LEFT_OUT.search(str(path.relative_to(folder.parent)))
    )


def _added(
    tar: tarfile.TarFile, top: Path, paths: list[Path], members: dict[str, tuple[int, str]]
) -> None:
    for path in paths:
        name = str(path.relative_to(top))
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue  # released meanwhile: a later member holds what was in it
        with file:
            size = os.fstat(file.fileno()).st_size
            hashed = _Hashed(file)
            tar.addfile(_member(name, size), cast("BinaryIO", hashed))
            members[name] = size, hashed.digest.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


class _Hashed:
    """Reads a file and hashes what was read; a file that grows is read to its first size."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _copied(source: Path, target: Path) -> None:
    """Copy a SQLite database as of one moment, while others write to it."""
    with (
        closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30)) as read,
        closing(sqlite3.connect(target)) as written,
    ):
        target.chmod(0o600)
        read.backup(written)
        written.execute("PRAGMA journal_mode=DELETE")


def _linked(source: Path, target: Path) -> None:
    for path in _files(source):
        link = target / path.relative_to(source)
        if not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path, link)
            except FileNotFoundError:
                continue  # merged into another file meanwhile


# Opening one.


@contextmanager
def _opened(
    settings: Settings, file: Path, secret: Path | None
) -> Iterator[tuple[dict[str, Any], tarfile.TarFile]]:
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
        pieces = open_pieces(cast("Source", source), keys, context=_context(text))
        reader = _Pieces(pieces)
        try:
            with tarfile.open(fileobj=cast("BinaryIO", reader), mode="r|", bufsize=_CHUNK) as tar:
                yield head, tar
                reader.drained()
        except tarfile.TarError:
            raise _damaged(file) from None


def _read_head(source: BinaryIO, file: Path) -> bytes:
    start = source.read(len(_MAGIC) + _LENGTH.size)
    if len(start) != len(_MAGIC) + _LENGTH.size or not start.startswith(_MAGIC):
        raise Corrupt(f"{file} does not begin as a backup does.", hint="Name another file.")
    (length,) = _LENGTH.unpack(start[len(_MAGIC) :])
    head = source.read(length) if length <= _LONGEST_HEAD else b""
    if len(head) != length:
        raise _damaged(file)
    return head


def _parsed(text: bytes, file: Path) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads(text)
        _made_at(head)
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
    if kind_of(settings) == KEYRING and settings.keyring_passphrase is None:
        _secret_copied(settings, there, secret)
    return key_service(there, SystemClock())


def _secret_copied(settings: Settings, there: Settings, secret: Path | None) -> None:
    from falaj.wiring.keyservices import machine_secret_file

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


def _checked(tar: tarfile.TarFile, place: Any) -> dict[str, tuple[int, str]]:
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
        if member.name == _CONTENTS:
            listed = json.loads(content.read())
            continue
        digest = hashlib.sha256()
        with _into(place(member.name)) as target:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        found[member.name] = member.size, digest.hexdigest()
    if listed is None or {name: tuple(facts) for name, facts in listed.items()} != found:
        raise _damaged(Path(_CONTENTS))
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


def _keys_restored(there: Settings, head: dict[str, Any], secret: Path | None) -> None:
    if head["keyring"] is None:
        return
    keyring_file(there).parent.mkdir(mode=0o700)
    handle = os.open(keyring_file(there), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(head["keyring"])
    if kind_of(there) == KEYRING and there.keyring_passphrase is None and secret is not None:
        _secret_copied(there, there, secret)


def _proven(there: Settings) -> int:
    """Verify the restored audit log; returns how many records it has."""
    from falaj.wiring.assembly import assemble

    premises = assemble(there, process="restore")
    try:
        with premises.database.reading() as connection:
            found = premises.audit_verifier.verify(connection)
    finally:
        premises.close()
    if not found.sound:
        raise Corrupt(
            f"The audit log in the backup is not whole: {found.findings[0].message}.",
            hint="Use an older backup, and find out who changed this one.",
        )
    return found.n_records
