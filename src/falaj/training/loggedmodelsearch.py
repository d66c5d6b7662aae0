"""Search for logged models: MLflow's filters over attributes, parameters, tags and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select

from falaj.kernel.errors import InvalidInput
from falaj.kernel.statements import Statement, marks
from falaj.training.loggedmodels import LoggedModel, LoggedModels
from falaj.training.loggedmodeltables import logged_model_rows
from falaj.training.model import DEFAULT_WORKSPACE
from falaj.training.tracking import pagetokens
from falaj.training.tracking.conditions import Conditions, Sql
from falaj.training.tracking.filters import Clause, Kind, Language, Order, read_filter, read_order
from falaj.training.tracking.searching import Apart, Sight, Visible
from falaj.training.tracking.texts import plain

if TYPE_CHECKING:
    from falaj.kernel.call import Call

LANGUAGE = Language(
    frozenset({"name", "model_id", "model_type", "status", "source_run_id"}),
    frozenset({"creation_timestamp", "last_updated_timestamp"}),
    {"creation_time": "creation_timestamp", "last_updated_time": "last_updated_timestamp"},
    frozenset({Kind.ATTRIBUTE, Kind.METRIC, Kind.PARAM, Kind.TAG}),
)
_ATTRIBUTES = {
    "name": "l.name",
    "model_id": "l.id",
    "model_type": "l.model_type",
    "status": "upper(l.status)",
    "source_run_id": "l.source_run",
    "creation_timestamp": "(l.created_at / 1000)",
    "last_updated_timestamp": "(l.updated_at / 1000)",
}
_CHILDREN = {Kind.PARAM: "logged_model_params", Kind.TAG: "logged_model_tags"}
_PAGE = 200
_ASSETS = ", ".join(f"a.{name}" for name in ("owner", "classification", "region", "attributes"))

Name = Annotated[str, Field(min_length=1, max_length=500)]


class OnDataset(BaseModel):
    """The dataset of which metrics are asked; any digest if none is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    digest: Name | None = None


class ModelOrder(BaseModel):
    """One key of an order: an attribute, or ``metrics.<name>``, perhaps of one dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Annotated[str, Field(min_length=1, max_length=1_000)]
    ascending: bool = True
    dataset: OnDataset | None = None


class LoggedModelQuestion(BaseModel):
    """A search, as it was asked; ``experiments`` are ids, all if there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    filter: Annotated[str, Field(max_length=20_000)] = ""
    order_by: Annotated[tuple[ModelOrder, ...], Field(max_length=10)] = ()
    experiments: Annotated[tuple[Name, ...], Field(max_length=10_000)] = ()
    datasets: Annotated[tuple[OnDataset, ...], Field(max_length=50)] = ()
    workspace: str = DEFAULT_WORKSPACE


class LoggedModelPage(BaseModel):
    """Some of the logged models that fit, and where the next ones are."""

    models: tuple[LoggedModel, ...]
    next_page: str | None = None


class LoggedModelSearch:
    """Finds logged models; the arguments as of ``tracking.searching.RunSearch``."""

    def __init__(self, models: LoggedModels, visible: Visible, apart: Apart) -> None:
        self._models = models
        self._visible = visible
        self._apart = apart

    def page(
        self, call: Call, question: LoggedModelQuestion, *, limit: int, page: str | None = None
    ) -> LoggedModelPage:
        """At most ``limit`` logged models that may be seen, the newest first if nothing is said.

        Raises:
            InvalidInput: the filter or the order cannot be read, or the token is not good.
        """
        asked = (question, call.principal.id)
        (offset,), begun = ([0], call.now)
        if page:
            (offset,), begun = pagetokens.read(page, asked, call.now)
        if offset < 0:
            raise InvalidInput("Invalid page token: it names no place.")
        text, values = _query(question, postgresql=call.connection.dialect.name == "postgresql")
        statement = Statement(text + " LIMIT ? OFFSET ?")
        sight = Sight(self._visible, self._apart, call, "logged_model")
        found: list[str] = []
        following: list[int] | None = None
        while following is None:
            rows = statement.all(call.connection, [*values, _PAGE, offset])
            for row in rows:
                if len(found) == limit:
                    following = [offset]
                    break
                offset += 1
                if sight.sees(row[0], row[1:]):
                    found.append(row[0])
            if len(rows) < _PAGE:
                break
        token = pagetokens.written(asked, following, begun) if following else None
        return LoggedModelPage(models=tuple(self._assembled(call, found)), next_page=token)

    def _assembled(self, call: Call, ids: Sequence[str]) -> list[LoggedModel]:
        rows = call.connection.execute(
            select(logged_model_rows).where(logged_model_rows.c.id.in_(ids))
        )
        by_id = {row.id: row for row in rows}
        return self._models.assembled(call.connection, [by_id[one] for one in ids])


def _query(question: LoggedModelQuestion, *, postgresql: bool) -> tuple[str, list[Any]]:
    conditions = Conditions(postgresql=postgresql)
    clauses = read_filter(question.filter, LANGUAGE)
    where = [Sql("l.deleted_at IS NULL"), Sql("e.workspace = ?", [question.workspace])]
    if question.experiments:
        if not all(map(plain, question.experiments)):
            raise InvalidInput("The id of an experiment holds a NUL.")
        ids = list(question.experiments)
        where.append(Sql(f"l.experiment_id IN ({marks(len(ids))})", ids))
    where += [_condition(conditions, clause, question.datasets) for clause in clauses]
    if question.datasets and not any(clause.kind is Kind.METRIC for clause in clauses):
        held = _on(question.datasets, "m")
        where.append(
            Sql(
                f"EXISTS (SELECT 1 FROM logged_model_metrics m WHERE m.model_id = l.id{held.text})",
                held.values,
            )
        )
    order = [part for one in question.order_by for part in _order(one, postgresql=postgresql)]
    order += [Sql("l.created_at DESC"), Sql("l.id")]
    text = (
        f"SELECT l.id, {_ASSETS} FROM logged_models l JOIN experiments e ON e.id = l.experiment_id"
        " LEFT JOIN catalog_assets a ON a.kind = 'logged_model' AND a.key = l.id"
        f" WHERE {' AND '.join(one.text for one in where)}"
        f" ORDER BY {', '.join(one.text for one in order)}"
    )
    return text, [value for one in (*where, *order) for value in one.values]


def _condition(conditions: Conditions, clause: Clause, datasets: Sequence[OnDataset]) -> Sql:
    if clause.kind is Kind.METRIC:
        held, of = conditions.of_metric(clause, "m"), _on(datasets, "m")
        return Sql(
            "EXISTS (SELECT 1 FROM logged_model_metrics m WHERE m.model_id = l.id AND m.key = ?"
            f" AND {held.text}{of.text})",
            [clause.key, *held.values, *of.values],
        )
    if clause.kind is Kind.ATTRIBUTE:
        value = _ATTRIBUTES[clause.key]
        if clause.key in LANGUAGE.numbers:
            operator = "<>" if clause.operator == "!=" else clause.operator
            return Sql(f"{value} {operator} ?", [clause.value])
        if clause.key == "status":
            clause = _with_own_status(clause)
        return conditions.text(value, clause)
    begin = (
        f"EXISTS (SELECT 1 FROM {_CHILDREN[clause.kind]} c WHERE c.model_id = l.id AND c.key = ?"
    )
    if clause.value is None:
        return Sql(f"{'NOT ' if clause.operator == 'IS NULL' else ''}{begin})", [clause.key])
    text = conditions.text("c.value", clause)
    return Sql(f"{begin} AND {text.text})", [clause.key, *text.values])


def _with_own_status(clause: Clause) -> Clause:
    """``READY``, or MLflow's name for it, in the letters that are compared."""

    def own(text: str) -> str:
        return text.upper().removeprefix("LOGGED_MODEL_").removeprefix("UPLOAD_")

    value = clause.value
    changed = tuple(map(own, value)) if isinstance(value, tuple) else own(str(value))
    return Clause(clause.kind, clause.key, clause.operator, changed)


def _on(datasets: Sequence[OnDataset], alias: str) -> Sql:
    """That a metric is of one of some datasets; of any if none is named."""
    if not datasets:
        return Sql("")
    texts, values = [], []
    for one in datasets:
        texts.append(
            f"{alias}.dataset_name = ?"
            + (f" AND {alias}.dataset_digest = ?" if one.digest is not None else "")
        )
        values += [one.name] if one.digest is None else [one.name, one.digest]
    return Sql(f" AND ({' OR '.join(f'({text})' for text in texts)})", values)


def _order(asked: ModelOrder, *, postgresql: bool) -> list[Sql]:
    """What orders by one key: what lacks it comes last, either way, and NaN before that."""
    order: Order = read_order((asked.by,), LANGUAGE)[0]
    way = "ASC" if asked.ascending else "DESC"
    if order.kind is Kind.METRIC:
        of = _on([asked.dataset] if asked.dataset else [], "o")
        where = (
            "FROM logged_model_metrics o WHERE o.model_id = l.id AND o.key = ?"
            f"{of.text} ORDER BY o.at DESC, o.step DESC, o.run_id LIMIT 1"
        )
        values = [order.key, *of.values]
        return [
            Sql(
                f"coalesce((SELECT CASE WHEN o.is_nan = TRUE THEN 1 ELSE 0 END {where}), 2)",
                values,
            ),
            Sql(f"(SELECT o.value {where}) {way}", values),
        ]
    if order.kind is not Kind.ATTRIBUTE or asked.dataset is not None:
        raise InvalidInput(
            f"Logged models cannot be ordered by {asked.by[:100]!r}.",
            hint="Order by an attribute, or by metrics.<name>, which may be of a dataset.",
        )
    value = _ATTRIBUTES[order.key]
    text = order.key in LANGUAGE.texts and postgresql
    return [
        Sql(f"CASE WHEN {value} IS NULL THEN 1 ELSE 0 END"),
        Sql(f'{value} COLLATE "C" {way}' if text else f"{value} {way}"),
    ]
