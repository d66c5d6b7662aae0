"""The words of the audit log."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from falaj.kernel.ports import Outcome


class _Word(BaseModel):
    model_config = ConfigDict(frozen=True)


class AuditRecord(_Word):
    """One kept record: who did what to which asset, when, and how it ended."""

    seq: int
    """Its place in the log; counts from 1 without gaps."""
    at: datetime
    call_id: str
    parent: str | None
    """The call inside which this one was made, if any."""
    principal: str
    via: str
    address: str | None
    action: str
    resource: str
    outcome: Outcome
    reasons: list[str]
    """The ids of the policies that decided."""
    arguments: dict[str, Any]
    details: dict[str, Any]
    hash: str
    """SHA-256 over the record and the hash of the one before it, in hex."""


class AuditPage(_Word):
    """Found records, newest first."""

    records: list[AuditRecord]
    next: int | None
    """Give it as ``before`` to get the next page; None at the end."""


class AuditLines(_Word):
    """Records as lines of a format, oldest first."""

    lines: list[str]
    next: int
    """Give it as ``after`` for the lines behind these."""


class Checkpoint(_Word):
    """A signed statement of what the whole log was at a size."""

    size: int
    root: str
    """The Merkle root over the first ``size`` records, in hex."""
    at: datetime
    previous: str
    """The hash of the checkpoint before it, in hex; zeros for the first."""
    statement: str
    """The signed text."""
    key_id: str
    algorithm: str
    signature: str
    """In hex."""


class RecordProof(_Word):
    """Proof to a third party that a record stands in the log that a checkpoint signs.

    ``verify_record_proof`` checks it with the public key alone.
    """

    record: str
    """The canonical JSON of the record."""
    previous: str
    """The hash of the record before it, in hex."""
    path: list[str]
    """The Merkle path from the record's leaf to the root, in hex."""
    checkpoint: Checkpoint
    public_key: str
    """The key that signed it, raw Ed25519 in hex; to be compared with one had otherwise."""


class ConsistencyProof(_Word):
    """Proof that the log at an earlier checkpoint is the beginning of a later one."""

    old: Checkpoint
    new: Checkpoint
    path: list[str]


class FindingKind(StrEnum):
    """What is wrong with a log."""

    ALTERED = "altered"  # a record, or the hash before it, is not what was written there
    MISSING = "missing"  # a record is not there, and later ones are
    CUT = "cut"  # the end that a checkpoint vouches for is not there
    RECHAINED = "rechained"  # the chain holds, but is not the one that was signed
    CHECKPOINT = "checkpoint"  # a checkpoint is forged, damaged or missing
    ROLLED_BACK = "rolled-back"  # the witness has seen what the log does not show


class Finding(_Word):
    """One thing that is wrong."""

    kind: FindingKind
    seq: int
    """The first record that it concerns."""
    until: int
    """The last record that it concerns."""
    message: str


class Verification(_Word):
    """What a check of the whole log found."""

    sound: bool
    n_records: int
    """In the database."""
    archived: int = 0
    """Records 1 to here lie in archives; a signed horizon says so."""
    n_checkpoints: int
    signed: int
    """Records 1 to here stand under a good signed checkpoint; later ones only on the chain."""
    witnessed: int | None
    """What the outside witness has seen; None without a witness."""
    findings: list[Finding]
    """The first ones."""
    n_findings: int
    seconds: float
