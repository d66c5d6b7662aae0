"""Proof before the reader's eyes: tampering with a copy, and the refusal that follows.

What is tampered with is the demo's own: a byte of the served model on disk, put back
afterwards, and a row of the audit log in a copy of the database.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Corrupt
from falaj.kernel.settings import Settings
from falaj.trust.audit_model import Verification
from falaj.wiring.assembly import Premises


def blob_files(home: Path, digest: str) -> list[Path]:
    """The files that hold a sealed blob."""
    return [
        path
        for path in (home / "blobs").rglob("*")
        if path.is_file() and digest.partition(":")[2] in str(path).replace("/", "")
    ]


@contextmanager
def one_bit_flipped(file: Path) -> Iterator[None]:
    """Flip one bit in the middle of a file, and put it back afterwards."""
    whole = file.read_bytes()
    place = len(whole) // 2
    file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    try:
        yield
    finally:
        file.write_bytes(whole)


def refusal_of_changed_model(made: Premises, bundle: str) -> str:
    """What the platform says when one bit of a served bundle was changed on disk.

    Raises:
        LookupError: no file holds the bundle, or the change was not noticed.
    """
    files = blob_files(made.settings.home, bundle)
    if not files:
        raise LookupError(f"no file holds the bundle {bundle}")
    with one_bit_flipped(files[0]):
        try:
            made.bundles.open_bundle(bundle)
        except Corrupt as refusal:
            return refusal.message
    raise LookupError("a changed model was opened")


@dataclass(frozen=True)
class TamperedLog:
    """What the verifier found in a copy of the log with one changed row."""

    changed: int
    """The number of the changed record."""
    found: Verification


def finding_in_changed_log(settings: Settings, folder: Path, clock: Clock) -> TamperedLog:
    """Change who did something, in a copy of the database, and verify the copy.

    Whoever can write the file can drop the triggers that refuse changes; so does this.

    Args:
        settings: of the platform; its database is SQLite.
        folder: an empty one, for the copy.
        clock: the platform's.
    """
    home = folder / "copy"
    shutil.copytree(settings.home / "keys", home / "keys")
    shutil.copytree(settings.home / "witness", home / "witness")
    source = sqlite3.connect(settings.home / "falaj.db")
    copy = sqlite3.connect(home / "falaj.db")
    with source, copy:
        source.backup(copy)
    source.close()
    triggers = copy.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        copy.execute(f'DROP TRIGGER "{name}"')
    (changed,) = copy.execute(
        "SELECT max(seq) FROM audit_records WHERE action = 'changes.approve'"
    ).fetchone()
    copy.execute(
        "UPDATE audit_records SET principal = 'user:somebody-else' WHERE seq = ?", (changed,)
    )
    copy.commit()
    copy.close()
    made = Premises(settings.model_copy(update={"home": home}), process="proof", clock=clock)
    try:
        with made.database.reading() as connection:
            return TamperedLog(int(changed), made.audit_verifier.verify(connection))
    finally:
        made.close()
