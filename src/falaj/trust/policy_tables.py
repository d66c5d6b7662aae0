"""The tables of the operator's own policies: which are in force, and since which epoch."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Table, Text

from falaj.kernel.database import Instant, metadata

operator_policies = Table(
    "operator_policies",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("text", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

policy_epoch = Table(
    "policy_epoch",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("value", BigInteger, nullable=False),
)

policy_questions = Table(
    "policy_questions",
    metadata,
    Column("day", BigInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary(16), primary_key=True),
    Column("question", Text, nullable=False),
)
