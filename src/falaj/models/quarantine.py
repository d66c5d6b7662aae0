"""Quarantined model versions: what may not be served until somebody has looked at it.

Unlike a revocation, which is for good and about bytes, a quarantine is about one version of
one model, and is lifted on the record. What serves already is not stopped by it: who puts a
version into quarantine takes its requests away first.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel
from sqlalchemy import delete, select

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.models.reading import PRESENT
from falaj.models.tables import quarantine_rows, version_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call


class Quarantined(Conflict):
    """The model version is in quarantine."""

    code = "quarantined"


class Quarantine(BaseModel):
    """One model version in quarantine."""

    model: str
    version: int
    at: datetime
    by: str
    reason: str


def quarantine(call: Call, model: str, version: int, reason: str) -> Quarantine:
    """Put a version into quarantine; one that is there already keeps its first reason.

    Raises:
        NotFound: there is no such version.
        InvalidInput: the reason is empty.
    """
    if not reason.strip():
        raise InvalidInput("A quarantine needs a reason.", hint="Say why, for the record.")
    known = select(version_rows.c.version).where(
        version_rows.c.model == model, version_rows.c.version == version, PRESENT
    )
    if call.connection.execute(known).first() is None:
        raise NotFound(
            f"There is no version {version} of the model {model!r}.",
            hint=f"`falaj models versions {model}` shows all.",
        )
    row = {
        "model": model, "version": version, "at": call.now, "by": call.principal.id,
        "reason": reason,
    }  # fmt: skip
    if insert_if_absent(call.connection, quarantine_rows, row):
        call.note(quarantined=f"{model}/{version}")
        call.emit("model_version.quarantined", model=model, version=version, reason=reason)
    found = quarantine_of(call.connection, model, version)
    if found is None:
        raise AssertionError
    return found


def release_from_quarantine(call: Call, model: str, version: int, reason: str) -> None:
    """Let a version be served again, if all else permits it.

    Raises:
        NotFound: it is not in quarantine.
        InvalidInput: the reason is empty.
    """
    if not reason.strip():
        raise InvalidInput("To end a quarantine needs a reason.", hint="Say what was found.")
    if quarantine_of(call.connection, model, version) is None:
        raise NotFound(f"{model}/{version} is not in quarantine.")
    call.connection.execute(
        delete(quarantine_rows).where(
            quarantine_rows.c.model == model, quarantine_rows.c.version == version
        )
    )
    call.note(released=f"{model}/{version}", reason=reason)
    call.emit("model_version.released", model=model, version=version, reason=reason)


def quarantine_of(connection: Connection, model: str, version: int) -> Quarantine | None:
    """The quarantine of a version, or None."""
    row = connection.execute(
        select(quarantine_rows).where(
            quarantine_rows.c.model == model, quarantine_rows.c.version == version
        )
    ).first()
    return None if row is None else Quarantine(**row._mapping)


def check_not_quarantined(connection: Connection, model: str, version: int) -> None:
    """Return if a version is not in quarantine; raises Quarantined."""
    found = quarantine_of(connection, model, version)
    if found is not None:
        raise Quarantined(
            f"{model}/{version} is in quarantine since {found.at:%Y-%m-%d %H:%M} UTC, put there "
            f"by {found.by}: {found.reason}",
            hint="Serve another version, or have it looked at and released.",
            model=model,
            version=version,
        )


def listed(connection: Connection) -> list[Quarantine]:
    """All versions in quarantine, by model and version."""
    rows = connection.execute(
        select(quarantine_rows).order_by(quarantine_rows.c.model, quarantine_rows.c.version)
    )
    return [Quarantine(**row._mapping) for row in rows]
