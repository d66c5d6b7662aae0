"""Arguments and answers that are bytes: Arrow record batches or a zip archive, as they are.

Over HTTP such an argument is the body of the request and such an answer the body of the
response; in JSON and on the command line it is written in base64.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

ARROW = "application/vnd.apache.arrow.stream"
ZIP = "application/zip"
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Binary:
    """Marks bytes that travel as they are, under a media type."""

    media_type: str


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("it is neither bytes nor base64") from None


def base64_of(value: bytes) -> str:
    """Bytes as JSON writes them."""
    return base64.b64encode(value).decode("ascii")


ArrowStream = Annotated[
    bytes,
    BeforeValidator(_bytes),
    PlainSerializer(base64_of, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "byte", "contentMediaType": ARROW}),
    Binary(ARROW),
]
"""An Arrow IPC stream."""

Archive = Annotated[
    bytes,
    BeforeValidator(_bytes),
    PlainSerializer(base64_of, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "byte", "contentMediaType": ZIP}),
    Binary(ZIP),
]
"""A zip archive; as an answer only."""


def whole_of(value: Any) -> str:
    """What gives bytes (``bytes(value)``), as JSON writes them."""
    return base64_of(bytes(value))


def bytes_of(value: Any) -> Any:
    """Bytes as they are, or read from base64; raises ValueError for any other value."""
    found = _bytes(value)
    if not isinstance(found, bytes):
        raise ValueError("it is neither bytes nor base64")  # noqa: TRY004 - pydantic's way
    return found


def media_type_of(annotation: Any) -> str | None:
    """The media type under which values of an annotation travel; None if they are JSON."""
    found = [item for item in get_args(annotation)[1:] if isinstance(item, Binary)]
    return found[0].media_type if found else None
