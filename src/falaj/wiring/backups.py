"""Backups of a platform whose stores are in its folder: made while it runs, sealed, proven.

The form of the file is told in ``backupreading``. Copies stand in it in an order that is
whole at every point: the witness before the audit log; the event log and the spool before
the lake, which takes from them under keys that write nothing twice; the metadata database
before the blobs that it names.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import time
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO, cast

from pydantic import BaseModel

from falaj.kernel.errors import AlreadyExists, Conflict, Corrupt, InvalidInput
from falaj.kernel.settings import Settings
from falaj.lake.disk import disk_error, sync_folder
from falaj.trust.ports import WRAPPING
from falaj.trust.sealing import SealingWriter
from falaj.wiring.backupreading import (
    CHUNK,
    CONTENTS,
    LENGTH,
    MAGIC,
    checked,
    made_at,
    opened,
    sealed_for,
    secret_copied,
    wants_secret,
)
from falaj.wiring.keyservices import keyring_file
from falaj.wiring.residencyparts import residency

if TYPE_CHECKING:
    from falaj.trust.ports import KeyService
    from falaj.wiring.assembly import Premises

ACTION, RESTORE = "backups.create", "backups.restore"
BACKER = "system:backup"
_DATABASE = "falaj.db"
_CATALOGUE = "lake/catalog.sqlite"
_MADE = "lake/catalog.sqlite.made"
_LEFT_SECONDS = 86_400.0
_BEFORE = ("witness", "log", "spool")
_AFTER = ("blobs", "tls")
_LEFT_OUT = re.compile(
    r"(^|/)(state|lock|\.groups(/.*)?|\.spill(/.*)?)$|\.(begun|unfinished|lock)$|\.rewrapped-|"
    r"(^|/)\.unfinished-"
)


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
    _swept(settings.home)
    begun = file.with_name(f"{file.name}.{token_hex(6)}.begun")
    try:
        now = premises.clock.now()
        handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as target:
            sealing = _begun(settings, target, premises.keys, now)
            held = _wrapping_versions(premises.keys)
            members = _written(settings, sealing)
            if not held <= _wrapping_versions(premises.keys):
                raise Conflict(
                    "A version of the wrapping key was destroyed while the backup was made.",
                    hint="Make it again: something in it may stand on that version.",
                )
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
    with opened(settings, file, secret) as (head, reader):
        return _told(file, made_at(head), checked(reader, lambda _name: None))


def restore(settings: Settings, file: Path, *, secret: Path | None = None) -> Backup:
    """Make a platform of a backup, in a folder that has none.

    The audit log is verified against its checkpoints and the witness that is in the
    backup before anything is in its place. All sessions end: those that were ended after
    the backup must not be open again, and programs need their secrets once more. Online
    values and feature indexes are not in a backup: `falaj features materialize` makes them
    again.

    Raises:
        AlreadyExists: there is a platform. Corrupt: a byte is not what was written, or
            the audit log in it is not whole; nothing is left of the attempt.
        OutOfRegion: something in it belongs to another region than this installation's.
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
        with opened(settings, file, secret) as (head, reader):
            begun.mkdir(mode=0o700, parents=True)
            members = checked(reader, lambda name: begun / name)
            there = settings.model_copy(update={"home": begun})
            if wants_secret(there) and secret is not None:
                secret_copied(there, there, secret)
            found = _told(file, made_at(head), members)
        n_records = _proven(there)
        begun.rename(home)
        sync_folder(home.parent)
    except OSError as error:
        raise disk_error(error, f"the folder {home}") from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)
    return found.model_copy(update={"n_audit_records": n_records})


def _swept(home: Path) -> None:
    """Remove the copies that a killed backup has left."""
    oldest = time.time() - _LEFT_SECONDS
    for folder in home.glob(".backup-*"):
        if folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


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


def _begun(settings: Settings, target: BinaryIO, keys: KeyService, now: datetime) -> SealingWriter:
    """Write the head, and begin what is sealed under a version that its keyring holds."""
    while True:
        target.seek(0)
        target.truncate()
        head = _head(settings, now)
        target.write(MAGIC + LENGTH.pack(len(head)) + head)
        sealing = SealingWriter(target, keys, context=sealed_for(head))
        if head == _head(settings, now):
            return sealing  # else the key was rotated in this moment


def _wrapping_versions(keys: KeyService) -> set[str]:
    return {version.id for version in keys.versions() if version.purpose == WRAPPING}


def _head(settings: Settings, now: datetime) -> bytes:
    keyring = keyring_file(settings)
    document = {
        "made_at": now.isoformat(),
        "keys": settings.keys,
        "keyring": keyring.read_text(encoding="utf-8") if keyring.exists() else None,
    }
    return json.dumps(document).encode()


def _told(file: Path, made_at: datetime, members: dict[str, tuple[int, str]]) -> Backup:
    n_bytes = sum(size for size, _ in members.values())
    return Backup(file=str(file), made_at=made_at, n_files=len(members), n_bytes=n_bytes)


# Making one.


def _written(settings: Settings, sealing: SealingWriter) -> dict[str, tuple[int, str]]:
    """Write all members; returns size and digest of each."""
    home = settings.home
    members: dict[str, tuple[int, str]] = {}
    with ExitStack() as stack:
        tar = stack.enter_context(
            tarfile.open(fileobj=cast("BinaryIO", sealing), mode="w|", bufsize=CHUNK)
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
        # The keyring comes last once more: the key may have been rotated meanwhile.
        last = [home / "owner.key", keyring_file(settings)]
        _added(tar, home, [path for path in last if path.exists()], members)
        contents = json.dumps(members).encode()
        tar.addfile(_member(CONTENTS, len(contents)), io.BytesIO(contents))
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
            # A segment of the event log that is ended meanwhile is cut: what it loses are zeros.
            hashed = _Hashed(file, padded=name.startswith("log/"))
            tar.addfile(_member(name, size), cast("BinaryIO", hashed))
            members[name] = size, hashed.digest.hexdigest()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    return member


class _Hashed:
    """Reads a file and hashes what was read; a file that grows is read to its first size."""

    def __init__(self, file: BinaryIO, *, padded: bool) -> None:
        self._file = file
        self._padded = padded
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if self._padded:
            data = data.ljust(size, b"\0")
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


def _proven(there: Settings) -> int:
    """Verify the restored audit log, end all sessions; returns how many records it has."""
    from falaj.wiring.assembly import assemble

    premises = assemble(there, process="restore")
    try:
        with premises.database.reading() as connection:
            found = premises.audit_verifier.verify(connection)
        if not found.sound:
            raise Corrupt(
                f"The audit log in the backup is not whole: {found.findings[0].message}.",
                hint="Use an older backup, and find out who changed this one.",
            )
        _of_this_region(premises)
        _sessions_ended(premises)
    finally:
        premises.close()
    return found.n_records


def _of_this_region(premises: Premises) -> None:
    """Raise OutOfRegion if something in the backup belongs to another region than this one."""
    found = residency(premises)
    with premises.database.reading() as connection:
        for asset in premises.catalog.search(connection):
            found.places.check("home", asset.region, asset.ref)


def _sessions_ended(premises: Premises) -> None:
    parts, certificates = premises.authentication, premises.certificates.of_programs
    because = "restored from a backup"
    with premises.calls.opened(RESTORE, BACKER) as call:
        n = 0
        for account in parts.accounts.all(call.connection):
            certificates.revoke(call.connection, account.name, None, now=call.now, because=because)
            n += parts.sessions.end_all(call.connection, account, now=call.now, because=because)
            parts.accounts.change(call.connection, account, now=call.now)
        call.note(n_sessions_ended=n)
