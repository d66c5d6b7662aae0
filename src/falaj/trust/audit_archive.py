"""Archives of audit records: files that prove what stands in them, without a database.

A gzip file of lines: the JSON object ``{"falaj audit archive": 1, "log", "after", "previous",
"frontier"}`` (how many records lie before it, the hash of the last of these, and the tree at
that size), then the canonical form of each record, then ``{"checkpoint", "public_key"}``: the
signed checkpoint that covers exactly the records up to the last.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from falaj.kernel.errors import Corrupt, NotFound, Unavailable
from falaj.trust.audit import GENESIS, chained
from falaj.trust.audit_model import Checkpoint, RecordProof
from falaj.trust.audit_proofs import signature_of, verify_record_proof
from falaj.trust.merkle import Frontier, inclusion_path, leaf_hash
from falaj.trust.signatures import verify_signature

TITLE, VERSION = "falaj audit archive", 1
_LONGEST_LINE = 64 * 2**20


class _End(msgspec.Struct):
    checkpoint: str
    public_key: str


@dataclass(frozen=True)
class Archive:
    """What an archive holds, read and checked."""

    log: str
    after: int
    """How many records lie before its first."""
    previous: bytes
    """The hash of the last of these."""
    frontier: Frontier
    """The tree at that size."""
    records: list[bytes]
    """The canonical forms, in order."""
    hashes: list[bytes]
    checkpoint: Checkpoint
    public_key: bytes

    @property
    def size(self) -> int:
        """The number of its last record."""
        return self.after + len(self.records)

    def proof(self, seq: int) -> RecordProof:
        """Proof that a record of it stands in the log; raises NotFound."""
        if not self.after < seq <= self.size:
            raise NotFound(
                f"The archive holds the records {self.after + 1} to {self.size}, not {seq}.",
                hint="Take the archive before or behind it.",
            )
        edge, at = seq - 1, seq - 1 - self.after
        grown = Frontier(self.frontier.size, self.frontier.peaks)
        grown.extend(leaf_hash(value) for value in self.hashes[:at])
        peaks = grown.ranges()

        def subtree(low: int, high: int) -> bytes:
            if (low, high) in peaks:
                return peaks[low, high]
            part = Frontier()
            held = self.hashes[low - self.after : high - self.after]
            part.extend(leaf_hash(value) for value in held)
            return part.root()

        path = inclusion_path(edge, self.checkpoint.size, subtree)
        proof = RecordProof(
            record=self.records[at].decode(),
            previous=(self.hashes[at - 1] if at else self.previous).hex(),
            path=[node.hex() for node in path],
            checkpoint=self.checkpoint,
            public_key=self.public_key.hex(),
        )
        verify_record_proof(proof)
        return proof


def write_archive(
    path: Path,
    records: Iterable[bytes],
    *,
    log: str,
    frontier: Frontier,
    previous: bytes,
    checkpoint: Checkpoint,
    public_key: bytes,
) -> str:
    """Write an archive, synced to disk, under its name only when it is whole; its SHA-256.

    Raises:
        Unavailable: it cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    head = {
        TITLE: VERSION,
        "log": log,
        "after": frontier.size,
        "previous": previous.hex(),
        "frontier": frontier.encoded().hex(),
    }
    end = _End(checkpoint.model_dump_json(), public_key.hex())
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
                file.write(msgspec.json.encode(head) + b"\n")
                for record in records:
                    file.write(record + b"\n")
                file.write(msgspec.json.encode(end) + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
        digest = digest_of(part)
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise Unavailable(
            f"The audit archive {path} cannot be written: {error.strerror}.",
            hint="Free some space or mend the folder; no record was let go.",
        ) from None
    return digest


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_archive(path: Path, *, public_key: bytes | None = None) -> Archive:
    """An archive, checked against its signed checkpoint.

    Args:
        public_key: of the log, had from elsewhere; without it the archive's own is believed.

    Raises:
        NotFound: there is no such file.
        Corrupt: it is not what was signed.
    """
    try:
        lines = list(_lines(path))
        head = msgspec.json.decode(lines[0], type=dict[str, str | int])
        end = msgspec.json.decode(lines[-1], type=_End)
        records = lines[1:-1]
        after = int(head["after"])
        frontier = Frontier.parse(after, bytes.fromhex(str(head["frontier"])))
        previous = bytes.fromhex(str(head["previous"]))
        checkpoint = Checkpoint.model_validate_json(end.checkpoint)
        key = public_key or bytes.fromhex(end.public_key)
        right = head[TITLE] == VERSION and (after > 0 or previous == GENESIS)
    except FileNotFoundError:
        raise NotFound(f"There is no file {path}.", hint="Name an archive.") from None
    except (OSError, EOFError, zlib.error, msgspec.DecodeError, ValueError, LookupError):
        raise _changed(path) from None
    hashes, last = [], previous
    for record in records:
        last = chained(last, record)
        hashes.append(last)
    grown = Frontier(frontier.size, frontier.peaks)
    grown.extend(leaf_hash(value) for value in hashes)
    verify_signature(key, checkpoint.statement.encode(), signature_of(checkpoint))
    if not right or grown.size != checkpoint.size or grown.root().hex() != checkpoint.root:
        raise _changed(path)
    return Archive(
        log=str(head["log"]),
        after=after,
        previous=previous,
        frontier=frontier,
        records=records,
        hashes=hashes,
        checkpoint=checkpoint,
        public_key=key,
    )


def _lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        while line := file.readline(_LONGEST_LINE):
            yield line.rstrip(b"\n")


def _changed(path: Path) -> Corrupt:
    return Corrupt(
        f"The audit archive {path} is not what was signed.",
        hint="Restore it from a backup; keep this one for those who look.",
    )
