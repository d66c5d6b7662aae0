"""Queries taken apart: which tables they read, and what their columns come from.

All of it is read from the syntax tree that DuckDB's parser makes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from falaj.catalog.columns import most_secret
from falaj.catalog.model import Classification
from falaj.lake.filters import engine, parsed
from falaj.lake.model import QueryRefused
from falaj.lake.readonly import tables_of

COMPUTED = "*"
"""Stands beside the columns that an output was computed from: it holds none of them as it is."""
Column = tuple[str, str]
"""A table and a column of it, both in lower case."""


def table_names(sql: str, known: Collection[str]) -> set[str]:
    """The lake tables that a query reads.

    Raises:
        QueryRefused: it is not one SELECT over these tables.
    """
    return tables_of(parsed(sql), known)


def with_inputs(sql: str, names: Mapping[str, str]) -> str:
    """The query with other names for some of its tables, which keep theirs as aliases.

    Args:
        sql: one SELECT.
        names: the new name of each table, by its name in lower case.

    Raises:
        QueryRefused: a part of the query (``WITH``) has the name of such a table.
    """
    with engine() as opened:
        found = opened.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone()
        tree = json.loads(found[0] if found else "{}")
        for node in nodes(tree):
            for entry in _ctes(node):
                if entry in names:
                    raise QueryRefused(
                        f"The query was refused: {entry!r} names a table and a part of it.",
                        hint="Choose another name after WITH.",
                    )
            if node.get("type") == "BASE_TABLE":
                name = str(node.get("table_name", ""))
                if name.lower() in names:
                    node["table_name"] = names[name.lower()]
                    node["alias"] = node.get("alias") or name
        back = opened.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    return str(back[0]) if back else sql


def origins_of_query(sql: str, columns: Mapping[str, Collection[str]]) -> dict[str, set[Column]]:
    """By output column, in lower case, the columns of tables that it may come from.

    Exact for a plain SELECT of columns, ``*`` and expressions over tables; for everything
    else (parts, subqueries, unions, renamed columns) an output may come from any column of
    all tables that are read, and stands under ``"*"``.

    Args:
        sql: one SELECT.
        columns: of each lake table that it reads.
    """
    everything = {(table, name.lower()) for table, names in columns.items() for name in names}
    tree = parsed(sql)
    node = tree.get("statements", [{}])[0].get("node", {})
    if not _is_plain(node):
        return {"*": everything}
    found: dict[str, set[Column]] = {}
    for item in node.get("select_list", []):
        if item.get("class") == "STAR":
            if set(item) - {"class", "type", "query_location"}:
                return {"*": everything}
            for table, name in everything:
                found.setdefault(name, set()).add((table, name))
            continue
        refs = [ref for ref in nodes(item) if ref.get("class") == "COLUMN_REF"]
        name = item.get("alias") or (refs[0]["column_names"][-1] if _is_ref(item) else "")
        read: set[Column] = set()
        for ref in refs:
            path = {str(part).lower() for part in ref["column_names"]}
            fitting = {one for one in everything if one[1] in path}
            read |= fitting or everything  # a whole row
        if any(one.get("class") in ("STAR", "POSITIONAL_REFERENCE") for one in nodes(item)):
            read = everything
        if not name:
            return {"*": everything}
        if not _is_ref(item):
            read |= {(table, COMPUTED) for table, _ in read}
        found.setdefault(str(name).lower(), set()).update(read)
    return found


@lru_cache(maxsize=4096)
def columns_of_expression(expression: str) -> frozenset[str] | None:
    """The columns, in lower case, that an SQL expression over a table names; None if it may
    read others as well, or does not parse."""
    tree = parsed(f"SELECT ({expression}\n) FROM rows_of_it")
    statements = tree.get("statements", [])
    if tree.get("error") or len(statements) != 1:
        return None
    found = set()
    for one in nodes(statements[0]["node"]):
        if one.get("class") in ("STAR", "SUBQUERY", "POSITIONAL_REFERENCE"):
            return None
        if one.get("class") == "COLUMN_REF":
            found.add(str(one["column_names"][0]).lower())
    return frozenset(found)


def through_expressions(
    declared: Mapping[str, Classification], derived: Mapping[str, str], known: Collection[str]
) -> dict[str, Classification]:
    """Classifications of declared columns, and of those that are computed from them.

    A derived column is as secret as the most secret column that its expression names, unless
    it is declared itself; one that may read anything is as secret as the most secret of all.

    Args:
        declared: by column.
        derived: by column, an SQL expression over columns and those derived before it.
        known: the names of all columns.
    """
    names = {name.lower() for name in known}
    found = {name.lower(): level for name, level in declared.items()}
    result = dict(declared)
    for column, expression in derived.items():
        read = columns_of_expression(expression) if found else frozenset[str]()
        if read is None or not read <= names:
            read = frozenset(found)
        level = most_secret(found.get(name) for name in read)
        if column.lower() not in found and level is not None:
            result[column] = found[column.lower()] = level
    return result


def nodes(root: Any) -> Iterator[dict[str, Any]]:
    """Every object of a syntax tree."""
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _is_ref(item: Mapping[str, Any]) -> bool:
    return item.get("class") == "COLUMN_REF"


def _is_plain(node: Mapping[str, Any]) -> bool:
    """True for a SELECT over tables, whose columns have the names that they have there."""
    if node.get("type") != "SELECT_NODE":
        return False
    for one in nodes(node):
        if one.get("class") == "SUBQUERY" or str(one.get("type")) in _OPAQUE or _ctes(one):
            return False
        if one.get("type") == "BASE_TABLE" and one.get("column_name_alias"):
            return False
    return True


_OPAQUE = {"SUBQUERY", "TABLE_FUNCTION", "EXPRESSION_LIST", "PIVOT", "SET_OPERATION_NODE",
           "RECURSIVE_CTE_NODE", "CTE_NODE", "COLUMN_DATA", "DELIM_GET"}  # fmt: skip


def _ctes(node: Mapping[str, Any]) -> list[str]:
    entries = node.get("cte_map", {})
    found = entries.get("map", []) if isinstance(entries, Mapping) else []
    names = [str(entry.get("key", "")).lower() for entry in found]
    if node.get("type") in ("RECURSIVE_CTE_NODE", "CTE_NODE"):
        names.append(str(node.get("cte_name") or node.get("ctename") or "").lower())
    return [name for name in names if name]


__all__ = [
    "columns_of_expression",
    "nodes",
    "origins_of_query",
    "table_names",
    "through_expressions",
    "with_inputs",
]
