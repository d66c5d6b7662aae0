"""Alembic's entry: runs the steps on the connection that it is handed."""

from __future__ import annotations

from alembic import context

from falaj.kernel.database import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
    transaction_per_migration=False,
)
context.run_migrations()
