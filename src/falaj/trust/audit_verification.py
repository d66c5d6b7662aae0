"""Checking the whole audit log, in one pass and constant memory.

What is found, and by what:

- changed, inserted, moved records: a hash that does not follow from the one before;
- removed records: a gap in the numbers;
- a cut end: fewer records than a signed checkpoint covers;
- a chain made anew with all hashes right: another Merkle root than the signed one;
- forged or removed checkpoints: a bad signature, a broken link between them;
- records let go before their horizon was signed: a gap at the start;
- a log put back to an earlier state, checkpoints and all: the outside witness.

A record added after the last checkpoint by whoever owns the database stands only on the
chain, until the next checkpoint: ``signed`` says up to where the log is vouched for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Any, cast

from sqlalchemy import Row, func, select
from sqlalchemy.engine import Connection

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import Corrupt
from falaj.trust.audit import COLUMNS, GENESIS, canonical
from falaj.trust.audit_checkpoints import Checkpoints
from falaj.trust.audit_horizons import Horizon, latest_horizon
from falaj.trust.audit_model import Checkpoint, Finding, FindingKind, Verification
from falaj.trust.audit_pages import PAGE as _PAGE
from falaj.trust.audit_pages import PagesAhead
from falaj.trust.audit_proofs import damaged, fingerprint, proven_frontier
from falaj.trust.audit_tables import audit_checkpoints, audit_records
from falaj.trust.merkle import Frontier
from falaj.trust.ports import Sighting, Witness

_MOST_FINDINGS = 20
Progress = Callable[[int, int], None]
"""Told how many records of how many are checked."""


class Verifier:
    """Checks the log against its chain, its checkpoints and its witness.

    Args:
        checkpoints: reads and checks signed checkpoints.
        witness: what vouches from outside, if anything does.
    """

    def __init__(self, checkpoints: Checkpoints, *, witness: Witness | None = None) -> None:
        self._checkpoints = checkpoints
        self._witness = witness

    def verify(self, connection: Connection, *, progress: Progress | None = None) -> Verification:
        """Check everything; what is wrong with the log is told, not raised.

        Give a connection that has read nothing yet in its transaction.

        Raises:
            Unavailable: the witness does not answer.
            DBAPIError: the database cannot read its own file.
        """
        started = monotonic()
        # In this order: what vouches is read before what it vouches for, so that a log
        # which grows meanwhile is never taken for one that was cut.
        sighting = self._witness.latest() if self._witness else None
        newest = connection.execute(select(func.max(audit_checkpoints.c.size))).scalar() or 0
        walk = _Walk(connection, progress)
        try:
            return self._walked(connection, walk, sighting, newest, started)
        finally:
            walk.close()

    def _walked(
        self,
        connection: Connection,
        walk: _Walk,
        sighting: Sighting | None,
        newest: int,
        started: float,
    ) -> Verification:
        """Walk over all records, and hold them to each checkpoint up to the newest."""
        horizon = self._horizon(connection, walk)
        n_checkpoints, signed, last = 0, 0, None
        witnessed = self._witnessed(walk, sighting)
        for row in _checkpoint_rows(connection, newest):
            n_checkpoints += 1
            checkpoint = self._checked(row, walk)
            if checkpoint is None:
                continue
            expected = fingerprint(last) if last else GENESIS.hex()
            if checkpoint.previous != expected:
                walk.found(
                    FindingKind.CHECKPOINT,
                    last.size + 1 if last else 1,
                    checkpoint.size,
                    f"A checkpoint before that of {checkpoint.size} records is missing.",
                )
            if witnessed and (last.size if last else 0) < witnessed.size < checkpoint.size:
                self._hold_to_witness(walk, witnessed)
            if checkpoint.size < horizon:
                pass  # its records lie in an archive, which holds them to their own checkpoint
            elif checkpoint.size == horizon:
                signed = self._begun(walk, checkpoint, row.frontier)
            elif self._hold_to(walk, checkpoint, row.frontier):
                signed = checkpoint.size
            if witnessed and witnessed.size == checkpoint.size and witnessed != checkpoint:
                walk.found(
                    FindingKind.ROLLED_BACK,
                    checkpoint.size,
                    checkpoint.size,
                    f"The witness holds another checkpoint of {checkpoint.size} records.",
                )
            last = checkpoint
        if witnessed and (last is None or last.size < witnessed.size):
            self._hold_to_witness(walk, witnessed)
        walk.go_on(None)
        return Verification(
            sound=walk.n_findings == 0,
            n_records=walk.n_records,
            archived=horizon,
            n_checkpoints=n_checkpoints,
            signed=signed,
            witnessed=(witnessed.size if witnessed else 0) if self._witness else None,
            findings=walk.findings,
            n_findings=walk.n_findings,
            seconds=monotonic() - started,
        )

    def _horizon(self, connection: Connection, walk: _Walk) -> int:
        """How many records lie in archives; the walk begins behind them."""
        try:
            horizon = latest_horizon(connection, self._checkpoints.keys, self._checkpoints.log)
        except (Corrupt, TypeError) as error:
            walk.found(
                FindingKind.CHECKPOINT,
                1,
                1,
                f"The horizon of the log is forged or damaged: {error}",
            )
            return 0
        if horizon is None:
            return 0
        walk.begin(horizon)
        return horizon.size

    def _begun(self, walk: _Walk, checkpoint: Checkpoint, encoded: bytes) -> int:
        """Take in the tree at the horizon, which its checkpoint signs; the size it vouches for."""
        try:
            if checkpoint.root != walk.begun:
                raise damaged("the horizon and its checkpoint sign different trees")
            walk.frontier = proven_frontier(checkpoint, encoded)
        except Corrupt as error:
            walk.found(FindingKind.CHECKPOINT, checkpoint.size, checkpoint.size, str(error))
            return 0
        return checkpoint.size

    def _checked(self, row: Row[Any], walk: _Walk) -> Checkpoint | None:
        try:
            return self._checkpoints.checked(row)
        except (Corrupt, TypeError) as error:
            walk.found(
                FindingKind.CHECKPOINT,
                row.size,
                row.size,
                f"The checkpoint of {row.size} records is forged or damaged: {error}",
            )
            return None

    def _hold_to(self, walk: _Walk, checkpoint: Checkpoint, encoded: bytes) -> bool:
        """Walk up to a checkpoint and compare; True if its records are those it signed."""
        first = walk.at + 1
        damaged = walk.go_on(checkpoint.size)
        if walk.at < checkpoint.size:
            walk.found(
                FindingKind.CUT,
                walk.at + 1,
                checkpoint.size,
                f"The log ends at record {walk.at}, but {checkpoint.size} were signed.",
            )
            return False
        if walk.frontier is not None and walk.frontier.root().hex() == checkpoint.root:
            return not damaged
        if walk.frontier is not None and not damaged:
            walk.found(
                FindingKind.RECHAINED,
                min(first, checkpoint.size),
                checkpoint.size,
                f"Records {first} to {checkpoint.size} are not those that were signed: one of "
                "them was changed and the chain made anew.",
            )
        try:
            walk.frontier = proven_frontier(checkpoint, encoded)
        except Corrupt as error:
            walk.frontier = None
            walk.found(FindingKind.CHECKPOINT, checkpoint.size, checkpoint.size, str(error))
        return False

    def _witnessed(self, walk: _Walk, sighting: Sighting | None) -> Checkpoint | None:
        if sighting is None:
            return None
        try:
            return self._checkpoints.checked_statement(sighting.statement, sighting.signature)
        except Corrupt as error:
            walk.found(
                FindingKind.CHECKPOINT,
                sighting.size,
                sighting.size,
                f"What the witness holds is not signed by this log: {error}",
            )
            return None

    def _hold_to_witness(self, walk: _Walk, witnessed: Checkpoint) -> None:
        """The log shows no checkpoint of the size that the witness has seen."""
        walk.go_on(witnessed.size)
        same = walk.frontier is not None and walk.frontier.root().hex() == witnessed.root
        if walk.at < witnessed.size:
            told = f"it ends at record {walk.at}"
        elif same:
            told = "the checkpoint that it saw was removed"
        else:
            told = "its records are not those that the witness saw"
        walk.found(
            FindingKind.ROLLED_BACK,
            min(walk.at + 1, witnessed.size),
            witnessed.size,
            f"The witness saw {witnessed.size} records, but the log was put back: {told}.",
        )


class _Walk:
    """One pass over the records: the chain, the numbers, and the tree as it grows."""

    def __init__(self, connection: Connection, progress: Progress | None) -> None:
        self._connection = connection
        self._progress = progress
        self._sql = _statement(connection.dialect.name)
        self._previous = GENESIS
        self._end = connection.execute(select(func.max(audit_records.c.seq))).scalar() or 0
        self._ahead: PagesAhead | None = None
        if connection.dialect.name == "sqlite":
            driver = cast("sqlite3.Connection", connection.connection.driver_connection)
            self._ahead = PagesAhead(driver, self._end, page=_PAGE)
        self.begun: str | None = None
        """The Merkle root at the horizon, in hex, if some records lie in archives."""
        self.at = 0
        """The number of the last record that was checked."""
        self.n_records = 0
        self.frontier: Frontier | None = Frontier()
        """The tree so far; None while it cannot be known (a record is missing)."""
        self.findings: list[Finding] = []
        self.n_findings = 0

    def begin(self, horizon: Horizon) -> None:
        """Begin behind a horizon; the tree there is known once its checkpoint is read."""
        self.begun = horizon.root
        self.at = horizon.size
        self._previous = bytes.fromhex(horizon.last)
        self.frontier = None

    def found(self, kind: FindingKind, seq: int, until: int, message: str) -> None:
        """Note what is wrong; the first ones are kept, all are counted."""
        self.n_findings += 1
        if len(self.findings) < _MOST_FINDINGS:
            self.findings.append(Finding(kind=kind, seq=seq, until=until, message=message))

    def go_on(self, until: int | None) -> bool:
        """Check the records up to a number (or all); True if something was wrong."""
        before = self.n_findings
        last = self._end if until is None else min(until, self._end)
        while self.at < last:
            high = min(last, self.at + _PAGE)
            if not self._as_written(high):
                self._check(self._page(self.at, high), high)
            if self._progress:
                self._progress(self.at, self._end)
        return self.n_findings > before

    def close(self) -> None:
        """Read nothing any more."""
        if self._ahead is not None:
            self._ahead.close()

    def _as_written(self, high: int) -> bool:
        """Take records in that are whole and right, the usual case, on SQLite; up to ``high``."""
        if self._ahead is None or not self._previous:
            return False
        page = self._ahead.part(self.at, high)
        if page is None:
            return False
        digest, kept = sha256, page.hashes
        before = [self._previous, *kept[:-1]]
        if kept != [
            digest(one + record).digest() for one, record in zip(before, page.records, strict=True)
        ]:
            return False
        if self.frontier is not None:
            self.frontier.extend([digest(b"\0" + one).digest() for one in kept])
        self.n_records += len(kept)
        self._previous, self.at = kept[-1], page.high
        return True

    def _page(self, low: int, high: int) -> Sequence[Any]:
        if self._ahead is not None:
            self._ahead.settle()
        # Numbers of our own, no input: plain text works in both drivers.
        sql = self._sql.format(low=low, high=high)
        raw = self._connection.connection
        cursor = raw.cursor()
        try:
            cursor.execute(sql)
            return cursor.fetchall()
        except sqlite3.OperationalError as error:
            if "UTF-8" not in str(error):
                raise
            return _lenient(raw.dbapi_connection, sql)
        finally:
            cursor.close()

    def _check(self, rows: Sequence[Any], high: int) -> None:
        previous, at, encode, digest = self._previous, self.at, canonical, sha256
        leaves: list[bytes] = []
        for row in rows:
            at += 1
            kept = row[-1]
            if row[0] != at:
                self._gap(at, row[0] - 1)
                at, leaves, previous = row[0], [], b""
            if not isinstance(kept, bytes) or len(kept) != 32:
                self._altered(at)
                kept = bytes(32)
            elif previous and digest(previous + encode(row[:-1])).digest() != kept:
                self._altered(at)
            previous = kept
            leaves.append(digest(b"\0" + kept).digest())
        if at < high:
            self._gap(at + 1, high)
            previous = b""
        if self.frontier is not None:
            self.frontier.extend(leaves)
        self.n_records += len(rows)
        self._previous, self.at = previous, high

    def _gap(self, low: int, high: int) -> None:
        self.frontier = None
        which = f"Record {low} is" if low == high else f"Records {low} to {high} are"
        self.found(FindingKind.MISSING, low, high, f"{which} missing.")

    def _altered(self, seq: int) -> None:
        self.found(
            FindingKind.ALTERED,
            seq,
            seq,
            f"Record {seq} does not follow from record {seq - 1}: one of the two was changed, "
            "inserted or moved.",
        )


def _statement(dialect: str) -> str:
    """Selects the canonical columns and the hash of ``{low} < seq <= {high}``.

    SQLite keeps any type in any column: without the casts, bytes that render as the same
    JSON could stand in the place of a text.
    """
    text_columns = COLUMNS[2:]
    listed = (
        [f"CAST({name} AS TEXT)" for name in text_columns]
        if dialect == "sqlite"
        else list(text_columns)
    )
    return (
        f"SELECT seq, at, {', '.join(listed)}, hash FROM audit_records "
        "WHERE seq > {low} AND seq <= {high} ORDER BY seq"
    )


def _lenient(connection: Any, sql: str) -> Sequence[Any]:
    """The rows with bytes that are no text replaced, so that they show as altered."""
    before = connection.text_factory
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        rows: Sequence[Any] = connection.execute(sql).fetchall()
    finally:
        connection.text_factory = before
    return rows


def _checkpoint_rows(connection: Connection, newest: int) -> Iterator[Row[Any]]:
    at = 0
    while True:
        rows = connection.execute(
            select(audit_checkpoints)
            .where(audit_checkpoints.c.size > at, audit_checkpoints.c.size <= newest)
            .order_by(audit_checkpoints.c.size)
            .limit(1_000)
        ).all()
        yield from rows
        if len(rows) < 1_000:
            return
        at = rows[-1].size
