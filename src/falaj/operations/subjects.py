"""Conditions of queries for what is about some assets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sqlalchemy import ColumnElement, Select, Table, and_, false, or_, select

from falaj.kernel.call import AssetRef
from falaj.operations import tables


def about(table: Table, subjects: Sequence[AssetRef]) -> ColumnElement[bool]:
    """True of the alerts, incidents or changes (rows of ``table``) about one of these assets."""
    found = [
        and_(table.c.subject_kind == kind, table.c.subject_key.in_([one.key for one in alike]))
        for kind, alike in groupby(sorted(set(subjects), key=str), key=lambda one: one.kind)
    ]
    return or_(*found) if found else false()


def concerning(subjects: Sequence[AssetRef]) -> ColumnElement[bool]:
    """True of incidents about one of these assets, and of those to which an alert or a change
    about one belongs."""
    link = tables.links.c
    belonging: list[Select[tuple[str]]] = [
        select(link.of)
        .join(table, and_(link.to == table.c.id, link.kind == kind))
        .where(about(table, subjects))
        for kind, table in (("alert", tables.alerts), ("change", tables.changes))
    ]
    own = tables.incidents.c.id
    return or_(about(tables.incidents, subjects), *(own.in_(one) for one in belonging))
