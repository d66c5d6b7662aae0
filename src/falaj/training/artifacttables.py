"""The SQL tables of artifacts: where their bytes lie."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, String, Table

from falaj.kernel.database import metadata

stream_rows = Table(
    "artifact_streams",
    metadata,
    Column("digest", String(100), primary_key=True),
    Column("stream", String(64), nullable=False, unique=True),
    Column("size", BigInteger, nullable=False),
)
"""Which sealed stream holds the bytes of a digest: the same bytes are kept once."""

dropped_rows = Table(
    "artifact_dropped_streams",
    metadata,
    Column("stream", String(64), primary_key=True),
)
"""Streams that lost their last path: deleted after the commit that put them here."""
