"""Workspaces, tags and the end of experiments; points of metrics packed; what went into runs."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import sqlalchemy as sa
from alembic import op

from falaj.kernel.database import Instant, Json

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_SEQ = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_POINTS_A_CHUNK = 4_096


def upgrade() -> None:
    """Make the tables, and move what stands in the old ones."""
    _experiments()
    op.add_column(
        "runs", sa.Column("workspace", sa.String(63), nullable=False, server_default="default")
    )
    op.add_column(
        "runs", sa.Column("open_ended", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column("runs", sa.Column("said_user", sa.String(256)))
    op.add_column("runs", sa.Column("deleted_at", Instant()))
    _metrics()
    _inputs()
    _assets()


def _experiments() -> None:
    """Names are unique in a workspace, no longer on the whole platform."""
    added: tuple[sa.Column[Any], ...] = (
        sa.Column("workspace", sa.String(63), nullable=False, server_default="default"),
        sa.Column("updated_at", Instant()),
        sa.Column("deleted_at", Instant()),
    )
    if op.get_bind().dialect.name == "sqlite":
        # SQLite changes no constraint of a table. Runs point to these rows, so that they are put
        # back under the same name before the transaction ends.
        op.execute("PRAGMA defer_foreign_keys = ON")
        op.execute("CREATE TABLE experiments_before AS SELECT * FROM experiments")
        op.drop_table("experiments")
        op.create_table(
            "experiments",
            sa.Column("id", sa.String(64), nullable=False),
            added[0],
            sa.Column("name", sa.String(500), nullable=False),
            sa.Column("created_at", Instant(), nullable=False),
            sa.Column("created_by", sa.String(200), nullable=False),
            *added[1:],
            sa.PrimaryKeyConstraint("id", name=op.f("pk_experiments")),
            sa.UniqueConstraint("workspace", "name", name=op.f("uq_experiments_workspace_name")),
        )
        op.execute(
            "INSERT INTO experiments (id, name, created_at, created_by)"
            " SELECT id, name, created_at, created_by FROM experiments_before"
        )
        op.drop_table("experiments_before")
    else:
        for column in added:
            op.add_column("experiments", column)
        op.alter_column("experiments", "name", type_=sa.String(500))
        op.drop_constraint(op.f("uq_experiments_name"), "experiments")
        op.create_unique_constraint(
            op.f("uq_experiments_workspace_name"), "experiments", ["workspace", "name"]
        )
    op.create_table(
        "experiment_tags",
        sa.Column("experiment_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(250), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_experiment_tags_experiment_id")
        ),
        sa.PrimaryKeyConstraint("experiment_id", "key", name=op.f("pk_experiment_tags")),
    )


def _metrics() -> None:
    """Points of metrics: from a row for each to a row for thousands."""
    op.create_table(
        "run_metric_tail",
        sa.Column("seq", _SEQ, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("keys", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_metric_tail_run_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_run_metric_tail")),
    )
    op.create_index("ix_run_metric_tail_run_id", "run_metric_tail", ["run_id"])
    op.create_table(
        "run_metric_chunks",
        sa.Column("seq", _SEQ, autoincrement=True, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(250), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_metric_chunks_run_id")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_run_metric_chunks")),
    )
    op.create_index("ix_run_metric_chunks_run_key", "run_metric_chunks", ["run_id", "key", "seq"])
    _pack()
    op.drop_table("run_metrics")
    op.drop_index("ix_run_latest_metrics_key_value", "run_latest_metrics")
    op.create_index(
        "ix_run_latest_metrics_key_value",
        "run_latest_metrics",
        ["key", "is_nan", "value", "run_id"],
    )
    op.create_table(
        "logged_model_metrics",
        sa.Column("model_id", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("key", sa.String(250), nullable=False),
        sa.Column("dataset_name", sa.String(500), nullable=False),
        sa.Column("dataset_digest", sa.String(64), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("value", sa.Float(53), nullable=False),
        sa.Column("is_nan", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_logged_model_metrics_run_id")
        ),
        sa.PrimaryKeyConstraint(
            "model_id", "run_id", "key", "dataset_name", "dataset_digest",
            name=op.f("pk_logged_model_metrics"),
        ),
    )  # fmt: skip


def _pack() -> None:
    connection = op.get_bind()
    of_one = sa.text(
        "SELECT step, at, value, is_nan FROM run_metrics"
        " WHERE run_id = :run_id AND key = :key ORDER BY seq"
    )
    add = sa.text(
        "INSERT INTO run_metric_chunks (run_id, key, n, first_step, last_step, data)"
        " VALUES (:run_id, :key, :n, :first_step, :last_step, :data)"
    )
    metrics = connection.execute(sa.text("SELECT DISTINCT run_id, key FROM run_metrics")).all()
    for run_id, key in metrics:
        points = connection.execute(of_one, {"run_id": run_id, "key": key}).all()
        for start in range(0, len(points), _POINTS_A_CHUNK):
            part = points[start : start + _POINTS_A_CHUNK]
            steps, n = [row.step for row in part], len(part)
            values = [math.nan if row.is_nan else row.value for row in part]
            data = struct.pack(f"<{2 * n}q{n}d", *steps, *(row.at for row in part), *values)
            connection.execute(
                add,
                {"run_id": run_id, "key": key, "n": n, "first_step": min(steps),
                 "last_step": max(steps), "data": data},
            )  # fmt: skip


def _inputs() -> None:
    """Datasets and logged models that went into runs, and models that came out."""
    op.create_table(
        "run_datasets",
        sa.Column("experiment_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("source_type", sa.String(64), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("schema", sa.Text()),
        sa.Column("profile", sa.Text()),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name=op.f("fk_run_datasets_experiment_id")
        ),
        sa.PrimaryKeyConstraint("experiment_id", "name", "digest", name=op.f("pk_run_datasets")),
    )
    op.create_table(
        "run_inputs",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("context", sa.Text()),
        sa.Column("tags", Json(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_inputs_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", "digest", name=op.f("pk_run_inputs")),
    )
    op.create_table(
        "run_models",
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("direction", sa.String(6), nullable=False),
        sa.Column("model_id", sa.String(64), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_models_run_id")),
        sa.PrimaryKeyConstraint("run_id", "direction", "model_id", name=op.f("pk_run_models")),
    )


def _assets() -> None:
    """Experiments become assets, so that policies can speak of them."""
    connection = op.get_bind()
    add = sa.text(
        "INSERT INTO catalog_assets (kind, key, description, owner, tags, attributes, version,"
        " created_at, created_by, updated_at, searched) VALUES ('experiment', :id, :name, :by,"
        " '[]', :attributes, 1, :at, :by, :at, :searched)"
    )
    keep = sa.text(
        "INSERT INTO catalog_asset_versions (kind, key, version, at, by, action, call_id, state)"
        " VALUES ('experiment', :id, 1, :at, :by, 'migration', 'migration', :state)"
    )
    for row in connection.execute(
        sa.text("SELECT id, name, created_at, created_by FROM experiments")
    ).all():
        attributes = {"name": row.name, "workspace": "default"}
        state = {"description": row.name, "owner": row.created_by, "classification": None,
                 "region": None, "tags": [], "attributes": attributes}  # fmt: skip
        given = {"id": row.id, "at": row.created_at, "by": row.created_by}
        searched = f"experiment {row.id}\n{row.name}\n".lower()
        connection.execute(
            add,
            {**given, "name": row.name, "attributes": json.dumps(attributes), "searched": searched},
        )
        connection.execute(keep, {**given, "state": json.dumps(state)})
