"""Finds models and versions by a filter, in an order, page by page: what a caller may see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from sqlalchemy import ColumnElement, Row, and_, exists, false, func, select, true

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput
from falaj.models.model import Model, ModelVersion
from falaj.models.reading import assembled_models, assembled_versions
from falaj.models.registry import version_ref
from falaj.models.searching import (
    Searched,
    after,
    compared,
    language,
    ordered,
    read_token,
    token_of,
)
from falaj.models.tables import model_rows, tag_rows, version_rows, version_tag_rows
from falaj.training.tracking.filters import PRESENCE, Clause, Kind, read_filter

if TYPE_CHECKING:
    from sqlalchemy import Table

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call
    from falaj.kernel.ports import Resource

MOST_LISTED = 10_000
PROMPT_TAG = "mlflow.prompt.is_prompt"
"""MLflow's client asks of each search that no prompt be found. There are none here."""
WORKSPACE_MARK = ".."
"""Stands between the workspace and the name of a model of MLflow's workspaces."""
_INSTANTS = frozenset({"creation_timestamp", "last_updated_timestamp"})
_MODEL_UPDATED = func.coalesce(model_rows.c.updated_at, model_rows.c.created_at)
_VERSION_UPDATED = func.coalesce(version_rows.c.updated_at, version_rows.c.created_at)


@dataclass(frozen=True)
class Question:
    """What is searched for.

    ``workspace`` names one of MLflow's workspaces, in which names stand without its mark;
    the empty text is the one that all models without a mark are in; None is everything.
    """

    filter: str = ""
    order_by: tuple[str, ...] = ()
    limit: int = 100
    page: str | None = None
    workspace: str | None = None

    @property
    def text(self) -> str:
        """The same for the same question, whatever the page."""
        return "\n".join([self.filter, *self.order_by, f"in {self.workspace}"])


def searched_models(workspace: str | None = None) -> Searched:
    """What may be asked of models."""
    return Searched(
        columns={
            "name": _own_name(model_rows.c.name, workspace),
            "creation_timestamp": model_rows.c.created_at,
            "last_updated_timestamp": _MODEL_UPDATED,
        },
        asked=language(["name"]),
        orders=language(["name", *_INSTANTS], tags=False),
        instants=_INSTANTS,
        tie=(("name", True),),
    )


def searched_versions(workspace: str | None = None) -> Searched:
    """What may be asked of versions."""
    return Searched(
        columns={
            "name": _own_name(version_rows.c.model, workspace),
            "version_number": version_rows.c.version,
            "run_id": func.coalesce(version_rows.c.source_run, version_rows.c.run),
            "source_path": func.coalesce(version_rows.c.source, ""),
            "stage": version_rows.c.stage,
            "creation_timestamp": version_rows.c.created_at,
            "last_updated_timestamp": _VERSION_UPDATED,
        },
        asked=language(["name", "run_id", "source_path", "stage"], ["version_number"]),
        orders=language(["name", *_INSTANTS], ["version_number"], tags=False),
        instants=_INSTANTS,
        tie=(("last_updated_timestamp", False), ("name", True), ("version_number", False)),
    )


class ModelPage(BaseModel):
    """Models that were found."""

    models: list[Model]
    next_page: str | None = None
    """Ask with it for the following ones; None: there are no more."""


class VersionPage(BaseModel):
    """Versions that were found."""

    versions: list[ModelVersion]
    next_page: str | None = None
    """Ask with it for the following ones; None: there are no more."""


class Finder:
    """Searches the registry.

    Args:
        visible: answers whether a caller may know of a resource.
    """

    def __init__(self, catalog: Catalog, visible: Callable[[Call, Resource], bool]) -> None:
        self._catalog = catalog
        self._visible = visible

    def models(self, call: Call, asked: Question) -> ModelPage:
        """Models whose name and tags fit; raises InvalidInput."""
        rows, following = self._found(
            call,
            asked,
            searched_models(asked.workspace),
            model_rows,
            _model_tag,
            lambda row: [AssetRef("model", row.name)],
        )
        return ModelPage(models=assembled_models(call.connection, rows), next_page=following)

    def versions(self, call: Call, asked: Question) -> VersionPage:
        """Versions whose model, number, run, source, stage and tags fit; raises InvalidInput."""
        rows, following = self._found(
            call,
            asked,
            searched_versions(asked.workspace),
            version_rows,
            _version_tag,
            lambda row: [AssetRef("model", row.model), version_ref(row.model, row.version)],
        )
        return VersionPage(versions=assembled_versions(call.connection, rows), next_page=following)

    def _found(
        self,
        call: Call,
        asked: Question,
        searched: Searched,
        table: Table,
        tag: Callable[[Clause, str], ColumnElement[bool]],
        refs: Callable[[Row[Any]], list[AssetRef]],
    ) -> tuple[list[Row[Any]], str | None]:
        """The rows of a page, and the token of the next one."""
        limit, dialect = asked.limit, call.connection.dialect.name
        query = select(table).where(table.c.deleted_at.is_(None))
        name = table.c.name if table is model_rows else table.c.model
        for condition in read_filter(asked.filter, searched.asked):
            query = query.where(_clause(condition, searched, tag, dialect))
        if asked.workspace is not None:
            query = query.where(_in_workspace(name, asked.workspace, dialect))
        order = ordered(asked.order_by, searched)
        columns = [searched.columns[name] for name, _ in order]
        query = query.add_columns(
            *(column.label(f"order_{place}") for place, column in enumerate(columns))
        ).order_by(*(c.asc() if a else c.desc() for c, (_, a) in zip(columns, order, strict=True)))
        last = None if not asked.page else read_token(asked.page, asked.text, order, searched)
        kept: list[Row[Any]] = []
        while len(kept) <= limit:
            further = query if last is None else query.where(after(order, last, searched))
            rows = call.connection.execute(further.limit(limit + 1)).all()
            kept += self._seen(call, rows, refs)
            if len(rows) <= limit:
                break
            last = _values(rows[-1], len(order))
        if len(kept) <= limit:
            return kept, None
        return kept[:limit], token_of(asked.text, _values(kept[limit - 1], len(order)))

    def _seen(
        self, call: Call, rows: Sequence[Row[Any]], refs: Callable[[Row[Any]], list[AssetRef]]
    ) -> list[Row[Any]]:
        about = [(row, refs(row)) for row in rows]
        every = [ref for _, found in about for ref in found]
        hidden = self._catalog.hidden(
            call.connection, every, lambda resource: self._visible(call, resource)
        )
        return [row for row, found in about if hidden.isdisjoint(found)]


def _values(row: Row[Any], n: int) -> list[Any]:
    return [getattr(row, f"order_{place}") for place in range(n)]


def _clause(
    condition: Clause,
    searched: Searched,
    tag: Callable[[Clause, str], ColumnElement[bool]],
    dialect: str,
) -> ColumnElement[bool]:
    if condition.kind is Kind.ATTRIBUTE:
        column = searched.columns[condition.key]
        return compared(column, condition.operator, condition.value, dialect)
    if condition.key == PROMPT_TAG:
        is_false = condition.value == "false"
        if condition.operator not in ("=", "!="):
            raise InvalidInput(f"The tag {PROMPT_TAG} is compared by = or != alone.")
        return true() if is_false == (condition.operator == "=") else false()
    return tag(condition, dialect)


def _model_tag(condition: Clause, dialect: str) -> ColumnElement[bool]:
    own = and_(tag_rows.c.model == model_rows.c.name, tag_rows.c.key == condition.key)
    return _held(tag_rows, own, condition, dialect)


def _version_tag(condition: Clause, dialect: str) -> ColumnElement[bool]:
    table = version_tag_rows
    own = and_(
        table.c.model == version_rows.c.model,
        table.c.version == version_rows.c.version,
        table.c.key == condition.key,
    )
    return _held(table, own, condition, dialect)


def _held(
    table: Table, own: ColumnElement[bool], condition: Clause, dialect: str
) -> ColumnElement[bool]:
    """True for things with such a tag; without it no comparison holds."""
    if condition.operator in PRESENCE:
        there = exists().where(own)
        return ~there if condition.operator == "IS NULL" else there
    return exists().where(
        own, compared(table.c.value, condition.operator, condition.value, dialect)
    )


def _own_name(name: ColumnElement[Any], workspace: str | None) -> ColumnElement[Any]:
    """The name as the workspace's own people say it."""
    return func.substr(name, len(workspace + WORKSPACE_MARK) + 1) if workspace else name


def _in_workspace(name: ColumnElement[Any], workspace: str, dialect: str) -> ColumnElement[bool]:
    """Names of a workspace; of none for the empty text."""
    if not workspace:
        return name.not_like(f"%{WORKSPACE_MARK}%")
    return compared(name, "LIKE", f"{workspace}{WORKSPACE_MARK}%", dialect)
