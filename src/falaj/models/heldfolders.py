"""Folders of artifacts that versions were registered from: while one stands, they stay as they are.

Gates and approval judge a version once; clients load its folder for years.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.catalog import tables
from falaj.catalog.model import Relation
from falaj.models.mlflowsources import Folder, source_of
from falaj.models.tables import version_rows
from falaj.training.artifacts import Hold

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import AssetRef


class HeldFolders:
    """Tells which folders of an owner the registry holds."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __call__(self, connection: Connection, owner: AssetRef) -> list[Hold]:
        """The folders of a run or a logged model that present versions are made of.

        Until the caller's transaction ends, no version is registered from this owner.
        """
        lock_owner(connection, owner, registering=False)
        found = []
        for edge in self._catalog.downstream(connection, owner):
            if edge.relation is not Relation.PACKAGED or edge.target.kind != "model_version":
                continue
            model, _, version = edge.target.key.rpartition("/")
            source = connection.execute(
                select(version_rows.c.source).where(
                    version_rows.c.model == model,
                    version_rows.c.version == int(version),
                    version_rows.c.deleted_at.is_(None),
                )
            ).scalar()
            if not source:
                continue
            folder = source_of(source)
            if isinstance(folder, Folder) and folder.ref == owner:
                found.append(Hold(folder.path, f"version {version} of {model}"))
        return found


def lock_owner(connection: Connection, owner: AssetRef, *, registering: bool) -> None:
    """Let no version be registered from an owner while its files change, and the reverse."""
    assets = tables.assets
    connection.execute(
        select(assets.c.key)
        .where(assets.c.kind == owner.kind, assets.c.key == owner.key)
        .with_for_update(read=not registering)
    )
