"""Retention: old records leave the database for an archive, by a rule, and the log still verifies.

Records are let go only from the start, only up to a signed checkpoint, and only after their
archive was written, read back and held to that checkpoint. A signed horizon then says where the
log begins, and the database's triggers let go what it covers and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from sqlalchemy import delete, func, select
from sqlalchemy.engine import Connection

from falaj.kernel.call import Call
from falaj.kernel.clock import Clock
from falaj.kernel.database import Database
from falaj.trust.audit import GENESIS
from falaj.trust.audit_archive import digest_of, read_archive, write_archive
from falaj.trust.audit_checkpoints import PURPOSE, Checkpoints
from falaj.trust.audit_horizons import Horizon, keep_horizon, latest_horizon
from falaj.trust.audit_model import Checkpoint
from falaj.trust.audit_proofs import damaged, record_bytes
from falaj.trust.audit_tables import audit_checkpoints, audit_records
from falaj.trust.merkle import Frontier

ACTION = "audit.archive"
_PAGE = 5_000


class _Opened(Protocol):
    def __call__(
        self, action: str, principal_id: str, *, resource: str = ..., arguments: dict[str, object]
    ) -> AbstractContextManager[Call]: ...


class Retention:
    """Moves records that are older than a rule says into archives.

    Args:
        database: where the log lives.
        checkpoints: of the log; its keys sign horizons.
        opened: opens a call of the platform's own, which leaves an audit record.
        folder: where archives are written.
        keep_for: how old a record is at least when it goes.
        clock: tells the time.
    """

    def __init__(
        self,
        database: Database,
        checkpoints: Checkpoints,
        opened: _Opened,
        *,
        folder: Path,
        keep_for: timedelta,
        clock: Clock,
    ) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._opened = opened
        self._folder = folder
        self._keep_for = keep_for
        self._clock = clock

    def run_once(self) -> Horizon | None:
        """Archive what is due and let it go; the new horizon, None if nothing was due.

        Raises:
            Corrupt: the log was tampered with; nothing is let go.
            Unavailable: the archive cannot be written; nothing is let go.
        """
        keys, log = self._checkpoints.keys, self._checkpoints.log
        with self._database.reading() as connection:
            before = latest_horizon(connection, keys, log)
            self._let_go(before)
            checkpoint = self._due(connection, before, self._clock.now() - self._keep_for)
            if checkpoint is None:
                return None
            horizon = self._archived(connection, before, checkpoint)
        with self._opened(
            ACTION,
            "system:retention",
            arguments={"size": horizon.size, "archive": horizon.archive, "sha256": horizon.digest},
        ) as call:
            keep_horizon(call.connection, keys, log, horizon)
        self._let_go(horizon)
        return horizon

    def _due(
        self, connection: Connection, before: Horizon | None, cut: datetime
    ) -> Checkpoint | None:
        """The greatest checkpoint whose records are all older than ``cut``."""
        table, done = audit_records.c, before.size if before else 0
        younger = select(func.min(table.seq)).where(table.seq > done, table.at > cut)
        head = connection.execute(select(func.max(table.seq))).scalar() or 0
        # The last record stays in any case: the next one is chained to it.
        last = min((connection.execute(younger).scalar() or head) - 1, head - 1)
        size = connection.execute(
            select(func.max(audit_checkpoints.c.size)).where(
                audit_checkpoints.c.size <= last, audit_checkpoints.c.size > done
            )
        ).scalar()
        return None if size is None else self._checkpoints.at(connection, size)

    def _archived(
        self, connection: Connection, before: Horizon | None, checkpoint: Checkpoint
    ) -> Horizon:
        keys, log = self._checkpoints.keys, self._checkpoints.log
        frontier, previous = Frontier(), GENESIS
        if before is not None:
            start = self._checkpoints.at(connection, before.size)
            frontier = self._checkpoints.frontier(connection, start)
            previous = bytes.fromhex(before.last)
        path = self._folder / f"audit-{frontier.size + 1:012d}-{checkpoint.size:012d}.jsonl.gz"
        digest = write_archive(
            path,
            _records(connection, frontier.size, checkpoint.size),
            log=log,
            frontier=frontier,
            previous=previous,
            checkpoint=checkpoint,
            public_key=keys.public_keys(PURPOSE)[checkpoint.key_id],
        )
        read = read_archive(path, public_key=keys.public_keys(PURPOSE)[checkpoint.key_id])
        if digest_of(path) != digest:
            raise damaged(f"the archive {path.name} was changed while it was written")
        return Horizon(
            size=checkpoint.size,
            root=checkpoint.root,
            last=read.hashes[-1].hex(),
            at=self._clock.now(),
            archive=path.name,
            digest=digest,
        )

    def _let_go(self, horizon: Horizon | None) -> None:
        """Delete what a horizon covers, in pieces, so that nobody waits for long."""
        if horizon is None:
            return
        table = audit_records.c
        while True:
            with self._database.reading() as connection:
                first = connection.execute(select(func.min(table.seq))).scalar()
            if first is None or first > horizon.size:
                return
            upto = min(first + _PAGE - 1, horizon.size)
            with self._database.transaction() as connection:
                connection.execute(delete(audit_records).where(table.seq <= upto))


def _records(connection: Connection, low: int, high: int) -> Iterator[bytes]:
    at = low
    while at < high:
        begun = at
        query = (
            select(audit_records)
            .where(audit_records.c.seq > at, audit_records.c.seq <= min(at + _PAGE, high))
            .order_by(audit_records.c.seq)
        )
        for row in connection.execute(query).all():
            at += 1
            if row.seq != at:
                raise damaged(f"record {at} is missing")
            yield record_bytes(row)
        if at == begun:
            raise damaged(f"record {at + 1} is missing")
