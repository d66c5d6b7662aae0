"""The SQL tables of artifacts: where their bytes lie, and uploads that come in parts."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Table

from falaj.kernel.database import Instant, metadata

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

upload_rows = Table(
    "artifact_uploads",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("path", String(500), nullable=False),
    Column("begun_at", Instant, nullable=False, index=True),
    Column("begun_by", String(200), nullable=False),
    Column("n_parts", Integer, nullable=False),
)
"""Uploads in parts that have neither been completed nor given up."""

part_rows = Table(
    "artifact_upload_parts",
    metadata,
    Column("upload_id", ForeignKey("artifact_uploads.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("stream", String(64), nullable=False, unique=True),
    Column("digest", String(100), nullable=False),
    Column("size", BigInteger, nullable=False),
)
