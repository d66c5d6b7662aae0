"""Sightings of checkpoints as one line of JSON, the same in a file, a bucket and a request."""

from __future__ import annotations

import msgspec

from falaj.kernel.errors import Conflict, Corrupt
from falaj.trust.ports import Sighting, Signature

LONGEST = 65_536
"""No sighting is longer, in bytes; a witness that says more is not believed."""


class _Line(msgspec.Struct):
    size: int
    statement: str
    key_id: str
    algorithm: str
    signature: bytes


def line(sighting: Sighting) -> bytes:
    """The sighting as one line of JSON, without its end."""
    return msgspec.json.encode(
        _Line(
            sighting.size,
            sighting.statement.decode(),
            sighting.signature.key_id,
            sighting.signature.algorithm,
            sighting.signature.value,
        )
    )


def sighting(text: bytes, *, holder: str) -> Sighting:
    """Read ``line`` back.

    Args:
        holder: which witness holds it, for the error.

    Raises:
        Corrupt: it is no sighting.
    """
    try:
        if len(text) > LONGEST:
            raise ValueError("too long")
        read = msgspec.json.decode(text, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        raise Corrupt(
            f"What {holder} holds is no sighting of an audit checkpoint.",
            hint="See who writes there; keep it as evidence.",
        ) from None
    return Sighting(
        read.size,
        read.statement.encode(),
        Signature(read.key_id, read.algorithm, read.signature),
    )


def put_back(holder: str, latest: int, now: int) -> Conflict:
    """The error of a log that shows less than, or something else than, was seen before."""
    return Conflict(
        f"{holder} has seen {latest} audit records; the log now shows a checkpoint of {now}.",
        hint="The log was put back to an earlier state: run `falaj audit verify`.",
    )
