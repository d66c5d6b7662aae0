"""The SQL tables of ``operations``."""

from __future__ import annotations

from sqlalchemy import Column, Integer, String, Table, Text

from falaj.kernel.database import Instant, Json, metadata

changes = Table(
    "operations_changes",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(64), nullable=False),
    Column("subject_kind", String(40), nullable=False),
    Column("subject_key", String(300), nullable=False),
    Column("title", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("payload", Json, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("requested_by", String(200), nullable=False),
    Column("requested_at", Instant, nullable=False),
    Column("decided_by", String(200)),
    Column("decided_at", Instant),
    Column("decision", Text, nullable=False),
    Column("waiting_key", String(64), unique=True),
    Column("type", String(20), nullable=False, server_default="normal"),
    Column("template", String(100), index=True),
    Column("review_due_at", Instant),
    Column("verdict", String(20)),
)
"""``waiting_key`` is a hash of what is asked for while it waits, so that it waits once."""
alerts = Table(
    "operations_alerts",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("subject_kind", String(40), nullable=False),
    Column("subject_key", String(300), nullable=False),
    Column("severity", String(20), nullable=False),
    Column("message", Text, nullable=False),
    Column("evidence", Json, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("raised_at", Instant, nullable=False),
    Column("last_seen_at", Instant, nullable=False),
    Column("n_seen", Integer, nullable=False),
    Column("acknowledged_by", String(200)),
    Column("acknowledged_at", Instant),
    Column("resolved_by", String(200)),
    Column("resolved_at", Instant),
    Column("resolution", Text, nullable=False),
    Column("open_key", String(64), unique=True),
)
"""``open_key`` is a hash of (name, subject) while the alert is open."""
incidents = Table(
    "operations_incidents",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("title", Text, nullable=False),
    Column("subject_kind", String(40), nullable=False),
    Column("subject_key", String(300), nullable=False),
    Column("impact", String(20), nullable=False),
    Column("urgency", String(20), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("opened_at", Instant, nullable=False),
    Column("opened_by", String(200), nullable=False),
    Column("resolved_at", Instant),
    Column("resolved_by", String(200)),
    Column("resolution", Text, nullable=False),
    Column("open_key", String(64), unique=True),
    Column("began_at", Instant),
    Column("assigned_to", String(200)),
    Column("acknowledged_at", Instant),
    Column("acknowledged_by", String(200)),
    Column("n_escalations", Integer, nullable=False, server_default="0"),
)
"""``open_key`` is a hash of the subject while the incident is open."""
problems = Table(
    "operations_problems",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("title", Text, nullable=False),
    Column("subject_kind", String(40), nullable=False),
    Column("subject_key", String(300), nullable=False),
    Column("state", String(20), nullable=False, index=True),
    Column("root_cause", Text, nullable=False),
    Column("workaround", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("opened_by", String(200), nullable=False),
    Column("resolved_at", Instant),
    Column("resolved_by", String(200)),
    Column("resolution", Text, nullable=False),
)
links = Table(
    "operations_links",
    metadata,
    Column("of", String(64), primary_key=True),
    Column("to", String(64), primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("at", Instant, nullable=False),
)
"""What belongs to an incident or a problem: alerts, problems, incidents, changes, by ids."""
histories = Table(
    "operations_histories",
    metadata,
    Column("of", String(64), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
    Column("what", String(40), nullable=False),
    Column("text", Text, nullable=False),
)
"""The history of a change and the timeline of an incident, by their id."""
