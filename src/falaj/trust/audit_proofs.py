"""Reading and checking signed statements and proofs, without the database that made them.

All that a third party needs: a proof, and the public key of the log.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any

import msgspec
from sqlalchemy import Row

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import Corrupt
from falaj.trust.audit import COLUMNS, canonical, chained
from falaj.trust.audit_model import Checkpoint, ConsistencyProof, RecordProof
from falaj.trust.merkle import Frontier, continues, includes, leaf_hash
from falaj.trust.ports import Signature
from falaj.trust.signatures import ED25519, verify_signature

TITLE, VERSION = "falaj audit checkpoint", 1
"""What the statement of a checkpoint begins with."""


def verify_record_proof(proof: RecordProof, *, public_key: bytes | None = None) -> None:
    """Check a proof with nothing but itself and the public key of the log.

    Args:
        public_key: raw Ed25519, had from elsewhere; without it the proof's own is believed.

    Raises:
        Corrupt: it proves nothing.
    """
    checkpoint = proof.checkpoint
    try:
        key = public_key or bytes.fromhex(proof.public_key)
        leaf = leaf_hash(chained(bytes.fromhex(proof.previous), proof.record.encode()))
        path = [bytes.fromhex(node) for node in proof.path]
        root, seq = bytes.fromhex(checkpoint.root), int(msgspec.json.decode(proof.record)[0])
    except (ValueError, TypeError, LookupError, msgspec.DecodeError):
        raise damaged("the proof is not well formed") from None
    verify_signature(key, checkpoint.statement.encode(), signature_of(checkpoint))
    if parsed(checkpoint.statement.encode(), signature_of(checkpoint)) != checkpoint:
        raise damaged("the checkpoint says other things than its signed statement")
    if not includes(leaf, seq - 1, checkpoint.size, path, root):
        raise damaged(f"record {seq} is not the one under the signed checkpoint")


def verify_consistency_proof(proof: ConsistencyProof) -> None:
    """Check that one checkpoint continues another; the signatures are the caller's to check.

    Raises:
        Corrupt: it does not.
    """
    try:
        roots = [bytes.fromhex(item.root) for item in (proof.old, proof.new)]
        path = [bytes.fromhex(node) for node in proof.path]
    except ValueError:
        raise damaged("the proof is not well formed") from None
    if not continues(proof.old.size, roots[0], proof.new.size, roots[1], path):
        raise damaged(
            f"the log of {proof.old.size} records is not the beginning of that of {proof.new.size}"
        )


def record_bytes(row: Row[Any]) -> bytes:
    """The canonical form of a record's row."""
    values = (getattr(row, name) for name in COLUMNS)
    return canonical(
        tuple(microseconds(item) if isinstance(item, datetime) else item for item in values)
    )


def parsed(statement: bytes, signature: Signature, *, log: str | None = None) -> Checkpoint:
    """The checkpoint that a statement states; raises Corrupt if it states none."""
    try:
        title, version, named, size, root, at, previous = msgspec.json.decode(
            statement, type=tuple[str, int, str, int, str, int, str]
        )
        well_formed = (title, version) == (TITLE, VERSION) and size > 0
        roots = len(bytes.fromhex(root)) == len(bytes.fromhex(previous)) == 32
        when = from_microseconds(at)
    except (msgspec.DecodeError, ValueError, OverflowError):
        well_formed = roots = False
    if not well_formed or not roots or (log is not None and named != log):
        raise damaged("a statement is not one of a checkpoint of this log")
    return Checkpoint(
        size=size,
        root=root,
        at=when,
        previous=previous,
        statement=statement.decode(),
        key_id=signature.key_id,
        algorithm=signature.algorithm,
        signature=signature.value.hex(),
    )


def signature_of(checkpoint: Checkpoint) -> Signature:
    """The checkpoint's signature; raises Corrupt if it is not hex."""
    try:
        value = bytes.fromhex(checkpoint.signature)
    except ValueError:
        raise damaged("a signature is not hex") from None
    if checkpoint.algorithm != ED25519:
        raise damaged(f"a signature of {checkpoint.algorithm[:40]!r} is not known here")
    return Signature(checkpoint.key_id, checkpoint.algorithm, value)


def fingerprint(checkpoint: Checkpoint) -> str:
    """The hash by which the next checkpoint names this one, in hex."""
    return sha256(checkpoint.statement.encode()).hexdigest()


def proven_frontier(checkpoint: Checkpoint, encoded: bytes) -> Frontier:
    """A kept frontier; raises Corrupt unless it folds to the checkpoint's signed root."""
    try:
        frontier = Frontier.parse(checkpoint.size, encoded)
    except (ValueError, TypeError):
        frontier = Frontier()
    if frontier.root().hex() != checkpoint.root:
        raise damaged(f"the tree kept at {checkpoint.size} records is not the signed one")
    return frontier


def damaged(what: str) -> Corrupt:
    """The error that says what is wrong with the log."""
    return Corrupt(
        f"The audit log cannot be trusted: {what}.",
        hint="Run `falaj audit verify`, and keep the database as it is for those who look.",
    )
