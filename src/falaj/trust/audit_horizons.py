"""Horizons: signed statements that the records before one lie in an archive, and which.

A horizon signs the JSON array ``["falaj audit horizon", 1, log, size, root, last, at, archive,
digest]``: the Merkle root over the first ``size`` records (that of the checkpoint of this size),
the hash of the last of them, the Unix microseconds, the archive's file name and its SHA-256. The
log verifies from there on as it did from its first record.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.trust.audit import canonical
from falaj.trust.audit_proofs import damaged
from falaj.trust.audit_tables import audit_horizons
from falaj.trust.ports import KeyService, Signature

TITLE, VERSION = "falaj audit horizon", 1
_PURPOSE = "audit"


@dataclass(frozen=True, slots=True)
class Horizon:
    """Where a log begins whose first records lie in archives."""

    size: int
    """How many records lie before it."""
    root: str
    """The Merkle root over them, in hex."""
    last: str
    """The hash of the last of them, in hex."""
    at: datetime
    archive: str
    """The name of the file that holds those since the horizon before."""
    digest: str
    """Its SHA-256, in hex."""


def latest_horizon(connection: Connection, keys: KeyService, log: str) -> Horizon | None:
    """The horizon of a log, its signature checked; None if all its records are there.

    Raises:
        Corrupt: it is not signed by this log's key.
    """
    query = select(audit_horizons).order_by(audit_horizons.c.size.desc()).limit(1)
    row = connection.execute(query).first()
    if row is None:
        return None
    statement = str(row.statement).encode()
    keys.verify(_PURPOSE, statement, Signature(row.key_id, row.algorithm, row.signature))
    try:
        title, version, named, size, root, last, at, archive, digest = msgspec.json.decode(
            statement, type=tuple[str, int, str, int, str, str, int, str, str]
        )
        right = (title, version, named, size) == (TITLE, VERSION, log, row.size)
        hashes = [len(bytes.fromhex(one)) == 32 for one in (root, last, digest)]
        when = from_microseconds(at)
    except (msgspec.DecodeError, ValueError, OverflowError):
        right, hashes = False, []
    if not right or not all(hashes):
        raise damaged("a statement is not one of a horizon of this log")
    return Horizon(size, root, last, when, archive, digest)


def keep_horizon(connection: Connection, keys: KeyService, log: str, horizon: Horizon) -> None:
    """Sign a horizon and keep it in the caller's transaction."""
    statement = canonical(
        (
            TITLE,
            VERSION,
            log,
            horizon.size,
            horizon.root,
            horizon.last,
            microseconds(horizon.at),
            horizon.archive,
            horizon.digest,
        )
    )
    signature = keys.sign(_PURPOSE, statement)
    connection.execute(
        insert(audit_horizons).values(
            size=horizon.size,
            statement=statement.decode(),
            key_id=signature.key_id,
            algorithm=signature.algorithm,
            signature=signature.value,
        )
    )
