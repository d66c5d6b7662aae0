"""Whom tables and views are about: read from their definitions, and refused where they differ.

A view over a table of persons says itself whose rows it keeps; otherwise a person who was
erased from the table would live on in the online store under a key of the view.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from sqlalchemy.engine import Connection

from falaj.catalog.definitions import Definition, Resulting
from falaj.catalog.model import Classification
from falaj.catalog.planning import PlannedDefinition, Step
from falaj.features.model import Entity, FeatureView, Function
from falaj.features.sources import Stream
from falaj.features.views import ViewPlan
from falaj.ingest.model import Source
from falaj.kernel.errors import InvalidInput

_OF_PERSONS = (Classification.PERSONAL, Classification.SENSITIVE)
_ADDED_UP = (Function.COUNT, Function.SUM, Function.MEAN, Function.STD)
"""Aggregates that keep no value of a single row."""


class Declared(Protocol):
    """Current definitions, or those that a plan would leave."""

    def all(self, kind: str) -> Sequence[Definition]:
        """All of a kind."""
        ...


def subject_of(definitions: Declared, table: str) -> tuple[str, str] | None:
    """The column of a table that names the person whom a row is about, and the kind of
    persons, as the stream, a source or a view of it says; None if none does."""
    for one in _about_persons(definitions, table):
        return str(one.subject), one.subject_kind
    for view in definitions.all(FeatureView.kind):
        if isinstance(view, FeatureView) and view.source == table and view.subject is not None:
            return view.entity_columns.get(view.subject, view.subject), view.subject_kind
    return None


def _about_persons(definitions: Declared, table: str) -> Iterator[Stream | Source]:
    """Each stream and source of a table that names a subject."""
    for kind in (Stream.kind, Source.kind):
        for one in definitions.all(kind):
            if isinstance(one, Stream | Source) and one.table == table and one.subject is not None:
                yield one


class SubjectsNamed:
    """Refuses views that do not say whom they are about, where their table does; a ``Review``.

    A view of something else (a city) over a table of persons is none about persons, and may
    count and add up; it may not keep the values of single persons under its own key.
    """

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
            _refuse_two_subjects(table, list(_about_persons(after, table)))
        for view in after.all(FeatureView.kind):
            if isinstance(view, FeatureView) and (
                (view.kind, view.name) in changed or view.source in tables
            ):
                _refuse_other_subject(view, after)
        return list(items)


def _refuse_two_subjects(table: str, said: Sequence[Stream | Source]) -> None:
    for one in said[1:]:
        if (one.subject, one.subject_kind) != (said[0].subject, said[0].subject_kind):
            raise InvalidInput(
                f"{said[0].ref} and {one.ref} name different subjects of the table {table!r}.",
                hint="Name the same column and kind in both.",
            )


def _refuse_other_subject(view: FeatureView, after: Resulting) -> None:
    entity = after.get(Entity.kind, view.entity)
    if not isinstance(entity, Entity):
        return  # refused elsewhere
    plan = ViewPlan.of(view, entity)
    keys = {view.entity_columns.get(key, key): key for key in plan.keys}
    for one in _about_persons(after, view.source):
        own = plan.subject_column
        if own is None and one.subject in keys:
            raise InvalidInput(
                f"The view {view.name!r} does not say whom it is about, but {one.ref} does: its "
                f"rows are about the {one.subject_kind} in {one.subject!r}.",
                hint=f'Set subject="{keys[one.subject]}", subject_kind="{one.subject_kind}".',
            )
        if own is not None and (own, view.subject_kind) != (one.subject, one.subject_kind):
            raise InvalidInput(
                f"The view {view.name!r} is about the {view.subject_kind} in {own!r}, but "
                f"{one.ref} about the {one.subject_kind} in {one.subject!r}.",
                hint="Name the same person in both.",
            )
        if own is None and (kept := _kept_values(view) & _personal(one)):
            raise InvalidInput(
                f"The view {view.name!r} would keep values of single persons ({min(kept)!r}) under "
                f"the key of {view.entity!r}, though {one.ref} says that they are personal.",
                hint="Count or add them up, or let the view be about the person.",
            )


def _kept_values(view: FeatureView) -> set[str]:
    """The source columns of which a view keeps values as they are."""
    found = {feature.column for feature in view.features}
    return found | {
        one.column for one in view.aggregates if one.column and one.function not in _ADDED_UP
    }


def _personal(one: Stream | Source) -> set[str]:
    """The columns that a stream or source says are personal, the subject's among them."""
    columns = one.columns if isinstance(one, Stream) else one.stored
    instants = {one.event_time, one.recorded_at}
    return {str(one.subject)} | {
        name
        for name in columns
        if one.classifications.get(name, None if name in instants else one.classification)
        in _OF_PERSONS
    }
