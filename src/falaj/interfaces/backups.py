"""``falaj backup``: create, verify, restore."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings

if TYPE_CHECKING:
    from falaj.interfaces.session import Session


def run_backup(session: Session, what: str, file: Path, secret: Path | None) -> None:
    """Do what the command asks, and show what was done.

    Raises:
        InvalidInput: it asks for something else.
    """
    from falaj.wiring import backups

    settings = Settings.read(session.folder)
    if what == "create":
        session.show(backups.create(settings, file))
    elif what == "verify":
        session.show(backups.verify(settings, file, secret=secret))
    elif what == "restore":
        session.show(backups.restore(settings, file, secret=secret))
    else:
        raise InvalidInput(
            f"A backup is not to {what[:40]!r}.", hint="Say create, verify or restore."
        )
