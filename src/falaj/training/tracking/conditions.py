"""From clauses to SQL: conditions with bound values, the same on SQLite and PostgreSQL.

Texts are compared letter by letter. ``LIKE`` tells large letters from small ones; ``ILIKE``
does not, for the letters of ASCII. In both ``%`` is any text and ``_`` any letter; nothing
escapes them.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Any

from falaj.kernel.errors import InvalidInput
from falaj.kernel.statements import marks
from falaj.training.tracking.filters import Clause, Kind, Order
from falaj.training.tracking.values import COLUMN_TAGS

LONGEST_PATTERN = 1_000
MOST_WILDCARDS = 30
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_GLOB = str.maketrans({"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"})
_CHILDREN = {Kind.PARAM: "run_params", Kind.TAG: "run_tags"}
RUN_ATTRIBUTES = {
    "run_id": "r.id",
    "run_name": "r.name",
    "status": "upper(r.state)",
    "user_id": "coalesce(r.said_user, r.started_by)",
    "artifact_uri": "('mlflow-artifacts:/' || r.experiment_id || '/' || r.id || '/artifacts')",
    "start_time": "(r.started_at / 1000)",
    "end_time": "(r.ended_at / 1000)",
}
EXPERIMENT_ATTRIBUTES = {
    "experiment_id": "e.id",
    "name": "e.name",
    "creation_time": "(e.created_at / 1000)",
    "last_update_time": "(coalesce(e.updated_at, e.created_at) / 1000)",
}
_TEXTS = frozenset({"run_id", "run_name", "status", "user_id", "artifact_uri", "experiment_id",
                    "name"})  # fmt: skip


@dataclass
class Sql:
    """A piece of SQL and the values that it binds."""

    text: str
    values: list[Any] = field(default_factory=list)


class Conditions:
    """Writes conditions for one kind of database."""

    def __init__(self, *, postgresql: bool) -> None:
        self.postgresql = postgresql

    def of_run(self, clause: Clause) -> Sql:
        """The condition of a clause on ``runs r``."""
        if clause.kind is Kind.ATTRIBUTE:
            return self._attribute(RUN_ATTRIBUTES[clause.key], clause)
        if clause.kind is Kind.METRIC:
            held = self.of_metric(clause, "m")
            return Sql(
                "EXISTS (SELECT 1 FROM run_latest_metrics m WHERE m.run_id = r.id AND m.key = ?"
                f" AND {held.text})",
                [clause.key, *held.values],
            )
        if clause.kind is Kind.DATASET:
            held = self.text(f"i.{clause.key}", clause)
            return Sql(
                f"EXISTS (SELECT 1 FROM run_inputs i WHERE i.run_id = r.id AND {held.text})",
                held.values,
            )
        if clause.kind is Kind.TAG and clause.key in COLUMN_TAGS:
            return self._nullable(f"r.{COLUMN_TAGS[clause.key]}", clause)
        return self._child(_CHILDREN[clause.kind], "run_id = r.id", clause)

    def of_experiment(self, clause: Clause) -> Sql:
        """The condition of a clause on ``experiments e``."""
        if clause.kind is Kind.ATTRIBUTE:
            return self._attribute(EXPERIMENT_ATTRIBUTES[clause.key], clause)
        return self._child("experiment_tags", "experiment_id = e.id", clause)

    @staticmethod
    def of_metric(clause: Clause, alias: str) -> Sql:
        """The condition of a clause on the value of ``run_latest_metrics``.

        As IEEE 754 has it, NaN differs from every number, and compares in no other way.
        """
        if clause.operator == "!=":
            return Sql(f"({alias}.value <> ? OR {alias}.is_nan = TRUE)", [clause.value])
        return Sql(
            f"({alias}.is_nan = FALSE AND {alias}.value {clause.operator} ?)", [clause.value]
        )

    def order_of_run(self, order: Order) -> Sql:
        """What orders ``runs r`` by a key: what lacks it comes last, either way."""
        way = "ASC" if order.ascending else "DESC"
        if order.kind is Kind.METRIC:
            where = "FROM run_latest_metrics o WHERE o.run_id = r.id AND o.key = ?"
            return Sql(
                f"coalesce((SELECT CASE WHEN o.is_nan = TRUE THEN 1 ELSE 0 END {where}), 2),"
                f" (SELECT o.value {where}) {way}",
                [order.key, order.key],
            )
        if order.kind is Kind.ATTRIBUTE:
            return self._ordered(RUN_ATTRIBUTES[order.key], [], way, text=order.key in _TEXTS)
        if order.kind is Kind.TAG and order.key in COLUMN_TAGS:
            return self._ordered(f"r.{COLUMN_TAGS[order.key]}", [], way, text=True)
        table = _CHILDREN[order.kind]
        value = f"(SELECT o.value FROM {table} o WHERE o.run_id = r.id AND o.key = ?)"
        return self._ordered(value, [order.key], way, text=True)

    def order_of_experiment(self, order: Order) -> Sql:
        """What orders ``experiments e`` by a key."""
        way = "ASC" if order.ascending else "DESC"
        if order.kind is Kind.ATTRIBUTE:
            value = EXPERIMENT_ATTRIBUTES[order.key]
            return self._ordered(value, [], way, text=order.key in _TEXTS)
        value = "(SELECT o.value FROM experiment_tags o WHERE o.experiment_id = e.id AND o.key = ?)"
        return self._ordered(value, [order.key], way, text=True)

    def text(self, value: str, clause: Clause) -> Sql:
        """The comparison of a text by a clause."""
        given: Any = clause.value
        if clause.operator in ("IN", "NOT IN"):
            return Sql(f"{value} {clause.operator} ({marks(len(given))})", list(given))
        if clause.operator in ("LIKE", "ILIKE"):
            return self._like(value, given, lower=clause.operator == "ILIKE")
        return Sql(f"{value} {'<>' if clause.operator == '!=' else '='} ?", [given])

    def _like(self, value: str, pattern: str, *, lower: bool) -> Sql:
        if len(pattern) > LONGEST_PATTERN or pattern.count("%") > MOST_WILDCARDS:
            raise InvalidInput(
                f"The pattern {pattern[:50]!r}… has {len(pattern)} characters,"
                f" {pattern.count('%')} of them '%'.",
                hint=f"Use {LONGEST_PATTERN} characters with {MOST_WILDCARDS} '%' at most.",
            )
        if lower:
            pattern = pattern.translate(_LOWER)
            value = (
                f"translate({value}, '{string.ascii_uppercase}', '{string.ascii_lowercase}')"
                if self.postgresql
                else f"lower({value})"
            )
        if self.postgresql:
            return Sql(f"{value} LIKE ? ESCAPE ''", [pattern])
        return Sql(f"{value} GLOB ?", [pattern.translate(_GLOB)])

    def _attribute(self, value: str, clause: Clause) -> Sql:
        if isinstance(clause.value, int | float):
            operator = "<>" if clause.operator == "!=" else clause.operator
            return Sql(f"{value} {operator} ?", [clause.value])
        if value == RUN_ATTRIBUTES["status"] and clause.operator not in ("LIKE", "ILIKE"):
            told: Any = clause.value
            big = told.upper() if isinstance(told, str) else tuple(one.upper() for one in told)
            clause = Clause(clause.kind, clause.key, clause.operator, big)
        return self.text(value, clause)

    def _nullable(self, value: str, clause: Clause) -> Sql:
        if clause.value is None:
            return Sql(f"{value} {clause.operator}")
        return self.text(value, clause)

    def _child(self, table: str, owner: str, clause: Clause) -> Sql:
        begin = f"EXISTS (SELECT 1 FROM {table} c WHERE c.{owner} AND c.key = ?"
        if clause.operator == "IS NULL":
            return Sql(f"NOT {begin})", [clause.key])
        if clause.operator == "IS NOT NULL":
            return Sql(f"{begin})", [clause.key])
        held = self.text("c.value", clause)
        return Sql(f"{begin} AND {held.text})", [clause.key, *held.values])

    def _ordered(self, value: str, values: list[Any], way: str, *, text: bool) -> Sql:
        collated = f'{value} COLLATE "C"' if text and self.postgresql else value
        return Sql(
            f"CASE WHEN {value} IS NULL THEN 1 ELSE 0 END, {collated} {way}", [*values, *values]
        )
