"""The lines of what happened to a change or an incident, in order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.operations import tables
from falaj.operations.model import Entry


def add_entry(call: Call, of: str, what: str, text: str = "") -> None:
    """Add a line, in the call's transaction, whose row of ``of`` is locked."""
    last = call.connection.execute(
        select(func.max(tables.histories.c.seq)).where(tables.histories.c.of == of)
    ).scalar()
    call.connection.execute(
        insert(tables.histories).values(
            of=of, seq=(last or 0) + 1, at=call.now, by=call.principal.id, what=what, text=text
        )
    )


def entries(connection: Connection, of: str) -> list[Entry]:
    """The lines, the oldest first."""
    rows = connection.execute(
        select(tables.histories).where(tables.histories.c.of == of).order_by(tables.histories.c.seq)
    )
    return [Entry(at=row.at, by=row.by, what=row.what, text=row.text) for row in rows]


def add_link(call: Call, of: str, to: str, kind: str) -> bool:
    """Note that something (an alert, a problem, an incident, a change) belongs to ``of``; True
    if it was not noted before."""
    row = {"of": of, "to": to, "kind": kind, "at": call.now}
    return insert_if_absent(call.connection, tables.links, row)


def linked(connection: Connection, of: str) -> dict[str, list[str]]:
    """The ids of what belongs to ``of``, by kind, the oldest first."""
    return linked_each(connection, [of])[of]


def linked_each(connection: Connection, of: Sequence[str]) -> dict[str, dict[str, list[str]]]:
    """As ``linked``, of each of several."""
    found: dict[str, dict[str, list[str]]] = {one: {} for one in of}
    query = select(tables.links).where(tables.links.c.of.in_(of))
    for row in connection.execute(query.order_by(tables.links.c.at, tables.links.c.to)):
        found[row.of].setdefault(row.kind, []).append(row.to)
    return found


def key_of(*parts: Any) -> str:
    """A short name for a combination of values: SHA-256 of their canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def record_about(
    catalog: Catalog, call: Call, ref: AssetRef, subject: AssetRef, description: str
) -> None:
    """Record a change, an alert or an incident as an asset that is guarded as its subject is:
    with the subject's classification and region.

    Raises:
        NotFound: the subject is not in the catalogue.
    """
    try:
        about = catalog.get(call.connection, subject)
    except NotFound as error:
        raise NotFound(
            f"There is no {subject.kind} {subject.key!r} in the catalogue.",
            hint=f"Record it before a {ref.kind} is about it.",
        ) from error
    catalog.record(
        call,
        ref,
        description=description,
        classification=about.classification,
        region=about.region,
        attributes={"subject": str(subject)},
    )
