"""Signed checkpoints of the audit log, and proofs that stand on them.

A checkpoint signs a statement, the JSON array ``["falaj audit checkpoint", 1, log, size,
root, at, previous]``: the Merkle root over the first ``size`` records (the leaf of a
record is RFC 6962's leaf hash of the record's own hash), the Unix microseconds, and the
hash of the checkpoint before it. Beside it stands the frontier of the tree, so that the
next checkpoint and every proof read only the records around them, whatever the log's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, insert, select, text
from sqlalchemy.engine import Connection

from falaj.kernel.clock import Clock, microseconds
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, NotFound
from falaj.trust.audit import GENESIS, canonical
from falaj.trust.audit_horizons import Horizon, latest_horizon
from falaj.trust.audit_model import Checkpoint, ConsistencyProof, RecordProof
from falaj.trust.audit_proofs import (
    TITLE,
    VERSION,
    damaged,
    fingerprint,
    parsed,
    proven_frontier,
    record_bytes,
    signature_of,
    verify_consistency_proof,
    verify_record_proof,
)
from falaj.trust.audit_tables import audit_checkpoints, audit_records
from falaj.trust.merkle import (
    Frontier,
    Subtree,
    consistency_path,
    inclusion_path,
    leaf_hash,
)
from falaj.trust.ports import KeyService, Sighting, Signature, Witness

PURPOSE = "audit"
"""The signing purpose of checkpoints."""
_LOCK = text("SELECT pg_advisory_xact_lock(5279742041164669282)")
_PAGE = 10_000


class Checkpoints:
    """Makes, reads and proves with checkpoints.

    Args:
        keys: signs them (purpose ``audit``).
        log: the name of the log, which every checkpoint states.
    """

    def __init__(self, keys: KeyService, *, log: str = "falaj") -> None:
        self.keys = keys
        self.log = log

    def make(self, connection: Connection, now: datetime) -> Checkpoint | None:
        """Sign the log as it is; returns the latest checkpoint (None for an empty log).

        Makes nothing when no record was added since. Call it in a writing transaction.

        Raises:
            Corrupt: the last checkpoint was tampered with.
        """
        if connection.dialect.name == "postgresql":
            connection.execute(_LOCK)
        last = self.latest(connection)
        frontier = self.frontier(connection, last)
        done = frontier.size
        frontier.extend(leaf_hash(value) for value in _hashes(connection, done, None))
        if frontier.size == done:
            return last
        previous = fingerprint(last) if last else GENESIS.hex()
        statement = canonical(
            (
                TITLE,
                VERSION,
                self.log,
                frontier.size,
                frontier.root().hex(),
                microseconds(now),
                previous,
            )
        )
        signature = self.keys.sign(PURPOSE, statement)
        connection.execute(
            insert(audit_checkpoints).values(
                size=frontier.size,
                statement=statement.decode(),
                key_id=signature.key_id,
                algorithm=signature.algorithm,
                signature=signature.value,
                frontier=frontier.encoded(),
            )
        )
        return parsed(statement, signature)

    def latest(self, connection: Connection) -> Checkpoint | None:
        """The newest checkpoint, its signature checked; None if there is none yet."""
        query = select(audit_checkpoints).order_by(audit_checkpoints.c.size.desc()).limit(1)
        row = connection.execute(query).first()
        return self.checked(row) if row else None

    def at(self, connection: Connection, size: int) -> Checkpoint:
        """The checkpoint of exactly that size; raises NotFound."""
        query = select(audit_checkpoints).where(audit_checkpoints.c.size == size)
        row = connection.execute(query).first()
        if row is None:
            raise NotFound(f"No checkpoint covers exactly {size} records.", hint="Name another.")
        return self.checked(row)

    def checked(self, row: Row[Any]) -> Checkpoint:
        """The checkpoint of a row; raises Corrupt unless it is signed and says its own size."""
        signature = Signature(row.key_id, row.algorithm, row.signature)
        checkpoint = self.checked_statement(str(row.statement).encode(), signature)
        if checkpoint.size != row.size:
            raise damaged(f"the checkpoint kept for {row.size} was made for {checkpoint.size}")
        return checkpoint

    def checked_statement(self, statement: bytes, signature: Signature) -> Checkpoint:
        """The checkpoint that a signed statement is; raises Corrupt unless it is ours."""
        self.keys.verify(PURPOSE, statement, signature)
        return parsed(statement, signature, log=self.log)

    def frontier(self, connection: Connection, checkpoint: Checkpoint | None) -> Frontier:
        """The tree's right edge at a checkpoint, proven by its signed root."""
        if checkpoint is None:
            return Frontier()
        query = select(audit_checkpoints.c.frontier).where(
            audit_checkpoints.c.size == checkpoint.size
        )
        return proven_frontier(checkpoint, connection.execute(query).scalar_one())

    def record_proof(self, connection: Connection, seq: int) -> RecordProof:
        """Proof that a record stands in the log.

        Raises:
            NotFound: there is no such record.
            Conflict: no checkpoint covers it yet.
            Corrupt: the log around it was tampered with.
        """
        rows = connection.execute(
            select(audit_records).where(audit_records.c.seq.in_((seq - 1, seq)))
        ).all()
        found = {row.seq: row for row in rows}
        horizon = latest_horizon(connection, self.keys, self.log)
        if seq < 1 or seq not in found or (horizon and seq <= horizon.size):
            raise _not_here(seq, horizon)
        checkpoint = self._covering(connection, seq)
        previous = GENESIS
        if horizon and seq - 1 == horizon.size:
            previous = bytes.fromhex(horizon.last)
        elif seq - 1 in found:
            previous = found[seq - 1].hash
        record = record_bytes(found[seq])
        subtree = self._subtree(connection, seq - 1)
        proof = RecordProof(
            record=record.decode(),
            previous=previous.hex(),
            path=[node.hex() for node in inclusion_path(seq - 1, checkpoint.size, subtree)],
            checkpoint=checkpoint,
            public_key=self.keys.public_keys(PURPOSE)[checkpoint.key_id].hex(),
        )
        verify_record_proof(proof)
        return proof

    def consistency_proof(self, connection: Connection, old: int, new: int) -> ConsistencyProof:
        """Proof that the checkpoint of size ``old`` is the beginning of the one of ``new``.

        Raises:
            NotFound: there is no checkpoint of such a size.
            Corrupt: it is not its beginning.
        """
        if old > new:
            raise Conflict(f"A log of {old} records begins none of {new}.", hint="Swap them.")
        earlier, later = self.at(connection, old), self.at(connection, new)
        horizon = latest_horizon(connection, self.keys, self.log)
        if horizon is not None and old < horizon.size:
            raise _not_here(old, horizon)
        path = consistency_path(old, new, self._subtree(connection, old))
        proof = ConsistencyProof(old=earlier, new=later, path=[node.hex() for node in path])
        verify_consistency_proof(proof)
        return proof

    def _covering(self, connection: Connection, seq: int) -> Checkpoint:
        row = connection.execute(
            select(audit_checkpoints)
            .where(audit_checkpoints.c.size >= seq)
            .order_by(audit_checkpoints.c.size)
            .limit(1)
        ).first()
        if row is None:
            raise Conflict(
                f"No signed checkpoint covers record {seq} yet.",
                hint="Wait a second, or run `falaj audit checkpoint`.",
            )
        return self.checked(row)

    def _subtree(self, connection: Connection, edge: int) -> Subtree:
        """Roots of the ranges that a path around the leaf ``edge`` needs.

        Left of it these are peaks of the tree of ``edge`` leaves, which grows out of the
        checkpoint before; right of it they are hashed from the records.
        """
        row = connection.execute(
            select(audit_checkpoints)
            .where(audit_checkpoints.c.size <= edge)
            .order_by(audit_checkpoints.c.size.desc())
            .limit(1)
        ).first()
        frontier = self.frontier(connection, self.checked(row) if row else None)
        frontier.extend(leaf_hash(value) for value in _hashes(connection, frontier.size, edge))
        peaks = frontier.ranges()

        def subtree(low: int, high: int) -> bytes:
            if (low, high) in peaks:
                return peaks[low, high]
            part = Frontier()
            part.extend(leaf_hash(value) for value in _hashes(connection, low, high))
            return part.root()

        return subtree


class Checkpointer:
    """Makes checkpoints when they are due; a worker calls ``run_once`` about each second.

    Args:
        database: where the log lives.
        checkpoints: makes them.
        every: due after so many records,
        max_age: or when records have waited for so long.
        witness: is told of every checkpoint after its commit.
    """

    def __init__(
        self,
        database: Database,
        checkpoints: Checkpoints,
        *,
        clock: Clock,
        every: int = 1_000,
        max_age: timedelta = timedelta(seconds=1),
        witness: Witness | None = None,
    ) -> None:
        self._database = database
        self._checkpoints = checkpoints
        self._clock = clock
        self._every = every
        self._max_age = max_age
        self._witness = witness
        self._told: Sighting | None = None

    def run_once(self, *, force: bool = False) -> Checkpoint | None:
        """Make a checkpoint if one is due (or anyhow); returns it, None if none was made.

        Raises:
            Corrupt: the log was tampered with.
            Conflict: the log is not the one that the witness has seen.
            Unavailable: the database or the witness does not answer.
        """
        if self._witness is not None and self._told is None:
            self._told = self._witness.latest()
        with self._database.reading() as connection:
            self._hold_to_witness(connection)
            last = self._checkpoints.latest(connection)
            due = self._due(connection, last.size if last else 0, force)
        made = None
        if due:
            with self._database.transaction() as connection:
                made = self._checkpoints.make(connection, self._clock.now())
        self._tell(made or last)
        return made

    def _hold_to_witness(self, connection: Connection) -> None:
        """Refuse to sign on a log that was put back: the witness would be led astray."""
        told = self._told
        if told is None:
            return
        query = select(audit_checkpoints.c.statement).where(audit_checkpoints.c.size == told.size)
        if connection.execute(query).scalar() != told.statement.decode():
            raise Conflict(
                f"The audit log is not the one whose {told.size} records the witness has seen.",
                hint="Run `falaj audit verify`. If you restored a backup, keep the witness's file "
                "as evidence and begin a new one.",
            )

    def _due(self, connection: Connection, done: int, force: bool) -> bool:
        table = audit_records.c
        query = select(table.seq, table.at).where(table.seq > done).order_by(table.seq)
        first = connection.execute(query.limit(1)).first()
        if first is None:
            return False
        if force or self._clock.now() - first.at >= self._max_age:
            return True
        full = select(table.seq).where(table.seq == done + self._every)
        return connection.execute(full).first() is not None

    def _tell(self, checkpoint: Checkpoint | None) -> None:
        if self._witness is None or checkpoint is None:
            return
        if self._told is not None and checkpoint.size == self._told.size:
            return
        seen = Sighting(checkpoint.size, checkpoint.statement.encode(), signature_of(checkpoint))
        self._witness.keep(seen)
        self._told = seen


def _not_here(seq: int, horizon: Horizon | None) -> NotFound:
    if horizon is None or not 0 < seq <= horizon.size:
        return NotFound(f"The audit log has no record {seq}.", hint="See `falaj audit search`.")
    return NotFound(
        f"Record {seq} lies in an archive; the database begins behind record {horizon.size}.",
        hint=f"The newest archive is {horizon.archive}: `falaj audit prove-archived FILE {seq}`.",
    )


def _hashes(connection: Connection, low: int, high: int | None) -> Iterator[bytes]:
    """The hashes of records ``low + 1`` to ``high`` (or the last), in pages."""
    table = audit_records.c
    at = low
    while high is None or at < high:
        query = select(table.seq, table.hash).where(table.seq > at).order_by(table.seq)
        size = _PAGE if high is None else min(_PAGE, high - at)
        rows = connection.execute(query.limit(size)).all()
        for seq, value in rows:
            at += 1
            if seq != at:
                raise damaged(f"record {at} is missing")
            yield value
        if len(rows) < size:
            if high is not None and at < high:
                raise damaged(f"record {at + 1} is missing")
            return
