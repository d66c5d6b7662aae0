"""Row filters: conditions over a table's columns that decide which rows a caller sees.

A condition is SQL without a subquery. What it says of the caller it says by parameters
(``$principal_id``), which are bound when rows are read: nothing that a caller can choose
is ever part of the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import InvalidInput
from falaj.lake.readonly import tables_of

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection

    from falaj.kernel.call import Caller

PARAMETERS = (
    "principal_id",
    "principal_name",
    "principal_kind",
    "principal_roles",
    "purpose",
    "via",
)
"""What a condition may say of the caller; the roles are a list."""
_PROBE = "rows_to_filter"


@dataclass(frozen=True)
class Condition:
    """A condition that is allowed, taken apart."""

    text: str
    columns: frozenset[str]
    """The names that it reads, in lower case."""
    parameters: frozenset[str]

    def bound(self, caller: Caller) -> dict[str, Any]:
        """What its parameters stand for when this caller reads."""
        known = {
            "principal_id": caller.principal.id,
            "principal_name": caller.principal.name,
            "principal_kind": str(caller.principal.kind),
            "principal_roles": list(caller.principal.roles),
            "purpose": caller.purpose,
            "via": caller.via,
        }
        return {name: known[name] for name in self.parameters}


@lru_cache(maxsize=1024)
def condition(text: str) -> Condition:
    """Take a condition apart.

    Raises:
        InvalidInput: it does not parse, reads more than columns, or names a parameter that
            there is not.
    """
    tree = parsed(f"SELECT 1 FROM {_PROBE} WHERE ({text}\n)")
    tables_of(tree, [_PROBE])
    # With its parentheses alone, "a) OR (b" would be a condition, and weaken what stands beside it.
    tables_of(parsed(f"SELECT 1 FROM {_PROBE} WHERE {text}\n"), [_PROBE])
    node = tree["statements"][0]["node"]
    where = node.get("where_clause")
    # A text that closes the parenthesis would add clauses of its own.
    if where is None or set(node) - _PARTS or node.get("modifiers"):
        raise _refused(text, "it is more than one condition")
    columns, parameters = set(), set()
    for item in _walked(where):
        if item.get("class") == "SUBQUERY":
            raise _refused(text, "it holds a subquery")
        if item.get("class") in ("WINDOW", "LAMBDA_REF", "STAR", "POSITIONAL_REFERENCE"):
            raise _refused(text, f"it holds a {str(item['class']).lower().replace('_', ' ')}")
        if item.get("class") == "COLUMN_REF":
            columns.add(str(item["column_names"][0]).lower())
        if item.get("class") == "PARAMETER":
            parameters.add(str(item.get("identifier", "")))
    strange = sorted(parameters - set(PARAMETERS))
    if strange:
        raise _refused(text, f"there is no parameter ${strange[0]}")
    if _PROBE in columns:
        raise _refused(text, f"it names {_PROBE!r}")
    return Condition(text, frozenset(columns), frozenset(parameters))


def check_fits(text: str, table: str, schema: pa.Schema) -> None:
    """Return if a condition can be asked of rows of these columns.

    Raises:
        InvalidInput: it cannot, and why.
    """
    import duckdb

    found = condition(text)
    there = {name.lower() for name in schema.names}
    lacking = sorted(found.columns - there)
    if lacking:
        raise InvalidInput(
            f"The condition {text!r} names the column {lacking[0]!r}, which {table!r} has not.",
            hint=f"It has: {', '.join(schema.names)}.",
        )
    example: dict[str, Any] = dict.fromkeys(found.parameters, "")
    if "principal_roles" in example:
        example["principal_roles"] = [""]
    with engine() as opened:
        opened.register(_PROBE, schema.empty_table())
        sql = f"SELECT 1 FROM {_PROBE} WHERE ({text}\n)"
        try:
            opened.execute(sql, example) if example else opened.execute(sql)
        except duckdb.Error as error:
            why = str(error).strip().splitlines()[0]
            raise InvalidInput(
                f"The condition {text!r} cannot be asked of {table!r}: {why}.",
                hint="Mend it; nothing was changed.",
            ) from None


def parsed(sql: str) -> dict[str, Any]:
    """The syntax tree of a statement, as DuckDB's parser makes it, or what is wrong with it."""
    with engine() as opened:
        found = opened.execute(
            "SELECT json_serialize_sql(?::VARCHAR, skip_default := true,"
            " skip_empty := true, skip_null := true)",
            [sql],
        ).fetchone()
    tree: dict[str, Any] = json.loads(found[0] if found else "{}")
    return tree


def engine() -> DuckDBPyConnection:
    """A cursor of this process's DuckDB that holds no rows: it takes statements apart."""
    return _engine().cursor()


@lru_cache(maxsize=1)
def _engine() -> DuckDBPyConnection:
    import duckdb

    return duckdb.connect(config={"enable_external_access": "false", "threads": "1"})


_PARTS = {"type", "select_list", "from_table", "where_clause", "modifiers", "cte_map",
          "aggregate_handling", "group_expressions", "group_sets"}  # fmt: skip


def _walked(root: Any) -> Any:
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _refused(text: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{text!r} cannot decide which rows are seen: {why}.",
        hint="Write one condition over the table's columns, with "
        f"{', '.join('$' + name for name in PARAMETERS)} for the caller.",
    )


__all__ = ["PARAMETERS", "Condition", "check_fits", "condition", "parsed"]
