"""Artifacts as arguments and answers of actions: bytes, or a stream that has arrived."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from falaj.kernel.binary import OCTETS, Binary, base64_of, bytes_of, whole_of
from falaj.lake.streams import Kept, SealedStreams
from falaj.training.artifacts import ArtifactContent

_SCHEMA = {"type": "string", "format": "byte", "contentMediaType": OCTETS}


def _given(value: Any) -> Any:
    # A ``Kept`` is made by this process only: no text or document of a caller becomes one.
    return value if isinstance(value, Kept) else bytes_of(value)


def _told(value: bytes | Kept) -> str:
    return value.digest if isinstance(value, Kept) else base64_of(value)


FileGiven = Annotated[
    bytes | Kept,
    PlainValidator(_given),
    PlainSerializer(_told, return_type=str, when_used="json"),
    WithJsonSchema(_SCHEMA),
    Binary(OCTETS),
]
"""A file as an argument; inside the process also a stream that has arrived."""

FileAnswer = Annotated[
    ArtifactContent,
    PlainSerializer(whole_of, return_type=str, when_used="json"),
    WithJsonSchema(_SCHEMA),
    Binary(OCTETS),
]
"""A file as an answer; ``bytes(answer)`` gives what it holds, near and far."""


def arrived(streams: SealedStreams, content: bytes | Kept) -> Kept:
    """The stream of what was given; bytes are made one.

    Raises:
        LimitExceeded: the disk is full. Unavailable: the store does not answer.
    """
    if isinstance(content, Kept):
        return content
    incoming = streams.begin()
    try:
        incoming.write(content)
        return incoming.finish()
    finally:
        incoming.abandon()
