"""Whom tables and views are about: read from their definitions, and refused where they differ.

A view over a table of persons says itself whose rows it keeps; otherwise a person who was
erased from the table would live on in the online store under a key of the view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from sqlalchemy.engine import Connection

from falaj.catalog.definitions import Definition, Resulting
from falaj.catalog.planning import PlannedDefinition, Step
from falaj.features.model import Entity, FeatureView
from falaj.features.sources import Stream
from falaj.features.views import ViewPlan
from falaj.ingest.model import Source
from falaj.kernel.errors import InvalidInput


class Declared(Protocol):
    """Current definitions, or those that a plan would leave."""

    def all(self, kind: str) -> Sequence[Definition]:
        """All of a kind."""
        ...


def subject_of(definitions: Declared, table: str) -> tuple[str, str] | None:
    """The column of a table that names the person whom a row is about, and the kind of
    persons, as the stream, a source or a view of it says; None if none does."""
    for _, column, kind in _said(definitions, table):
        return column, kind
    for view in definitions.all(FeatureView.kind):
        if isinstance(view, FeatureView) and view.source == table and view.subject is not None:
            return view.entity_columns.get(view.subject, view.subject), view.subject_kind
    return None


def _said(definitions: Declared, table: str) -> Iterator[tuple[str, str, str]]:
    """(definition, column, kind) of each stream and source of a table that names a subject."""
    for kind in (Stream.kind, Source.kind):
        for one in definitions.all(kind):
            if isinstance(one, Stream | Source) and one.table == table and one.subject is not None:
                yield str(one.ref), one.subject, one.subject_kind


class SubjectsNamed:
    """Refuses views that do not say whom they are about, where their table does; a ``Review``."""

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], after: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are; raises InvalidInput."""
        changed = {(one.kind, one.name) for one in items if one.step in (Step.CREATE, Step.UPDATE)}
        tables = {
            one.table
            for kind in (Stream.kind, Source.kind)
            for one in after.all(kind)
            if isinstance(one, Stream | Source) and (kind, one.name) in changed
        }
        for table in sorted(tables):
            _refuse_two_subjects(table, list(_said(after, table)))
        for view in after.all(FeatureView.kind):
            if isinstance(view, FeatureView) and (
                (view.kind, view.name) in changed or view.source in tables
            ):
                _refuse_other_subject(view, after)
        return list(items)


def _refuse_two_subjects(table: str, said: Sequence[tuple[str, str, str]]) -> None:
    for name, column, kind in said[1:]:
        if (column, kind) != said[0][1:]:
            raise InvalidInput(
                f"{said[0][0]} and {name} name different subjects of the table {table!r}.",
                hint="Name the same column and kind in both.",
            )


def _refuse_other_subject(view: FeatureView, after: Resulting) -> None:
    entity = after.get(Entity.kind, view.entity)
    if not isinstance(entity, Entity):
        return  # refused elsewhere
    own = ViewPlan.of(view, entity).subject_column
    for name, column, kind in _said(after, view.source):
        if own is None:
            raise InvalidInput(
                f"The view {view.name!r} does not say whom it is about, but its table "
                f"{view.source!r} is about persons: {name} names them by {column!r}.",
                hint=f"Set subject to the key of {view.entity!r} that stands in {column!r}, and "
                f'subject_kind="{kind}".',
            )
        if (own, view.subject_kind) != (column, kind):
            raise InvalidInput(
                f"The view {view.name!r} is about the {view.subject_kind} in {own!r}, but {name} "
                f"about the {kind} in {column!r}.",
                hint="Name the same person in both.",
            )
