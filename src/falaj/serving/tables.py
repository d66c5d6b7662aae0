"""The tables of serving: endpoints, their releases and every switch between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    String,
    Table,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.engine import Connection

from falaj.kernel.database import Instant, Json, metadata
from falaj.kernel.insertion import insert_if_absent, upsert
from falaj.serving.splits import Split

endpoints = Table(
    "serving_endpoints",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("lake_table", String(64), nullable=False, unique=True),
    Column("document", Json, nullable=False),
    Column("active", String(64)),
    Column("updated_at", Instant, nullable=False),
)
releases = Table(
    "serving_releases",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("endpoint", String(64), nullable=False, index=True),
    Column("document", Json, nullable=False),
    Column("state", String(20), nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("activated_at", Instant),
    Column("activated_by", String(200)),
)
activations = Table(
    "serving_activations",
    metadata,
    Column(
        "seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("endpoint", String(64), nullable=False, index=True),
    Column("release", String(64)),
    Column("previous", String(64)),
    Column("at", Instant, nullable=False),
    Column("by", String(200), nullable=False),
)

splits = Table(
    "serving_splits",
    metadata,
    Column("endpoint", String(64), primary_key=True),
    Column("release", String(64), nullable=False),
    Column("shares", Json, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("changed_by", String(200), nullable=False),
)
"""The present shares of the challengers of each endpoint's rollout."""
layers = Table("serving_layers", metadata, Column("name", String(64), primary_key=True))
"""A row for each layer that a rollout was ever in: who gives stretches of it away locks it."""


def endpoint_row(connection: Connection, name: str, *, locked: bool = False) -> Any:
    """The row of an endpoint, or None; locked until the transaction ends if asked."""
    query = select(endpoints).where(endpoints.c.name == name)
    return connection.execute(query.with_for_update() if locked else query).first()


def endpoint_rows(connection: Connection, *, locked: bool = False) -> list[Any]:
    """The rows of all endpoints by name."""
    query = select(endpoints).order_by(endpoints.c.name)
    return list(connection.execute(query.with_for_update() if locked else query))


def release_row(connection: Connection, release: str) -> Any:
    """The row of a release, or None."""
    return connection.execute(select(releases).where(releases.c.id == release)).first()


def release_rows(connection: Connection, endpoint: str) -> list[Any]:
    """The releases of an endpoint, the newest first."""
    query = select(releases).where(releases.c.endpoint == endpoint)
    return list(connection.execute(query.order_by(releases.c.created_at.desc(), releases.c.id)))


def activation_rows(connection: Connection, endpoint: str) -> list[Any]:
    """The switches of an endpoint, the newest first."""
    query = select(activations).where(activations.c.endpoint == endpoint)
    return list(connection.execute(query.order_by(activations.c.seq.desc())))


def keep_release(connection: Connection, **values: Any) -> None:
    """Insert a release."""
    connection.execute(insert(releases).values(**values))


def switch(
    connection: Connection,
    endpoint: str,
    release: str | None,
    previous: str | None,
    *,
    at: Any,
    by: str,
) -> None:
    """Write that an endpoint serves another release from now on."""
    connection.execute(
        update(endpoints).where(endpoints.c.name == endpoint).values(active=release, updated_at=at)
    )
    if previous is not None:
        connection.execute(
            update(releases).where(releases.c.id == previous).values(state="replaced")
        )
    if release is not None:
        connection.execute(
            update(releases)
            .where(releases.c.id == release)
            .values(state="active", activated_at=at, activated_by=by)
        )
    connection.execute(
        insert(activations).values(
            endpoint=endpoint, release=release, previous=previous, at=at, by=by
        )
    )


def retire(connection: Connection, release: str) -> None:
    """Write that a release serves never again."""
    connection.execute(update(releases).where(releases.c.id == release).values(state="retired"))


def wanted_splits(connection: Connection) -> dict[str, Split]:
    """The split of each endpoint whose active release it is about."""
    active = (endpoints.c.name == splits.c.endpoint) & (endpoints.c.active == splits.c.release)
    rows = connection.execute(select(splits).join(endpoints, active))
    return {row.endpoint: split_of(row) for row in rows}


def split_row(connection: Connection, endpoint: str) -> Any:
    """The last split of an endpoint, about whichever release, or None."""
    return connection.execute(select(splits).where(splits.c.endpoint == endpoint)).first()


def split_of(row: Any) -> Split:
    """The split that a row says."""
    return Split(
        endpoint=row.endpoint, release=row.release, shares=row.shares, revision=row.revision
    )


def keep_split(connection: Connection, split: Split, *, at: Any, by: str) -> None:
    """Write how the units of an endpoint are divided from now on."""
    row = {**split.model_dump(), "changed_at": at, "changed_by": by}
    upsert(connection, splits, [row])


def lock_layer(connection: Connection, layer: str) -> None:
    """Return when nobody else gives away stretches of a layer until this transaction ends."""
    insert_if_absent(connection, layers, {"name": layer})
    connection.execute(select(layers).where(layers.c.name == layer).with_for_update())


def at_commit(connection: Connection, work: Callable[[], object]) -> None:
    """Do something in the moment in which this transaction commits; if it raises, nothing
    is committed. After a rollback it is not done."""
    done = False

    def committed(_connection: Connection) -> None:
        nonlocal done
        if not done:
            done = True
            work()

    def rolled_back(_connection: Connection) -> None:
        nonlocal done
        done = True

    event.listen(connection, "commit", committed, once=True)
    event.listen(connection, "rollback", rolled_back, once=True)
