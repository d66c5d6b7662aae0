"""The catalogue's SQL tables."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

assets = Table(
    "catalog_assets",
    metadata,
    Column("kind", String(40), primary_key=True),
    Column("key", String(300), primary_key=True),
    Column("description", Text, nullable=False),
    Column("owner", String(200), nullable=False, index=True),
    Column("classification", String(20)),
    Column("region", String(64)),
    Column("tags", Json, nullable=False),
    Column("attributes", Json, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("updated_at", Instant, nullable=False),
    Column("searched", Text, nullable=False),
)
asset_versions = Table(
    "catalog_asset_versions",
    metadata,
    Column("kind", String(40), primary_key=True),
    Column("key", String(300), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("action", String(100), nullable=False),
    Column("call_id", String(64), nullable=False),
    Column("state", Json, nullable=False),
)
edges = Table(
    "catalog_edges",
    metadata,
    Column("source_kind", String(40), primary_key=True),
    Column("source_key", String(300), primary_key=True),
    Column("target_kind", String(40), primary_key=True),
    Column("target_key", String(300), primary_key=True),
    Column("relation", String(20), primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("call_id", String(64), nullable=False),
    Index("ix_catalog_edges_target", "target_kind", "target_key"),
)
definitions = Table(
    "catalog_definitions",
    metadata,
    Column("kind", String(40), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
)
definition_versions = Table(
    "catalog_definition_versions",
    metadata,
    Column("kind", String(40), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("document", Json, nullable=False),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("call_id", String(64), nullable=False),
)
locks = Table(
    "catalog_locks",
    metadata,
    Column("name", String(40), primary_key=True),
)
"""Rows that a transaction locks to be the only one of its kind (one ``apply`` at a time)."""
