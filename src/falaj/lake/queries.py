"""Queries taken apart: which tables they read, and what their columns come from.

All of it is read from the syntax tree that DuckDB's parser makes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
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
    else (parts, subqueries, unions, renamed columns, ``unnest``) an output may come from any
    column of all tables that are read, and stands under ``"*"``.

    Args:
        sql: one SELECT.
        columns: of each lake table that it reads.
    """
    everything = {(table, name.lower()) for table, names in columns.items() for name in names}
    tree = parsed(sql)
    node = tree.get("statements", [{}])[0].get("node", {})
    if not _is_plain(node):
        return {"*": everything}
    aliases = _aliases(node)
    found: dict[str, set[Column]] = {}
    for item in node.get("select_list", []):
        if item.get("class") == "STAR":
            starred = _starred(item, aliases, everything)
            if starred is None:
                return {"*": everything}
            for one in starred:
                found.setdefault(one[1], set()).add(one)
            continue
        refs = [ref for ref in nodes(item) if ref.get("class") == "COLUMN_REF"]
        name = item.get("alias") or (refs[0]["column_names"][-1] if _is_ref(item) else "")
        read: set[Column] = set()
        for ref in refs:
            read |= _behind(ref["column_names"], aliases, everything)
        if any(one.get("class") in ("STAR", "POSITIONAL_REFERENCE") for one in nodes(item)):
            read = set(everything)
        if not name:
            return {"*": everything}
        if not _is_ref(item):
            read |= {(table, COMPUTED) for table, _ in read}
        found.setdefault(str(name).lower(), set()).update(read)
    return found


def tells_rows_apart(sql: str) -> bool:
    """True if a column of the answer holds one row's value for each table that is read: no
    table stands there twice, and rows are joined on nothing but equal values (``USING``)."""
    found = list(nodes(parsed(sql)))
    tables = [str(one["table_name"]).lower() for one in found if one.get("type") == "BASE_TABLE"]
    return len(set(tables)) == len(tables) and all(one.get("ref_type") != "ASOF" for one in found)


def _aliases(node: Mapping[str, Any]) -> dict[str, str]:
    """By the name that it has in a plain SELECT, each table; all in lower case."""
    return {
        str(one.get("alias") or one["table_name"]).lower(): str(one["table_name"]).lower()
        for one in nodes(node)
        if one.get("type") == "BASE_TABLE"
    }


def _starred(
    item: Mapping[str, Any], aliases: Mapping[str, str], everything: set[Column]
) -> set[Column] | None:
    """The columns that ``*`` or ``table.*`` stands for; None if that cannot be told."""
    said = set(item) - {"class", "type", "query_location"}
    if not said:
        return everything
    table = aliases.get(str(item.get("relation_name")).lower())
    if said != {"relation_name"} or table is None:
        return None
    return {one for one in everything if one[0] == table}


def _behind(
    path: Sequence[str], aliases: Mapping[str, str], everything: set[Column]
) -> set[Column]:
    """The columns that a reference may mean; a whole row is all of them."""
    said = [str(part).lower() for part in path]
    if len(said) > 1 and not {name for _, name in everything} & set(said[:-1]):
        one = (aliases.get(said[-2], ""), said[-1])
        if one in everything:
            return {one}
    return {one for one in everything if one[1] in said} or everything


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
        if str(one.get("function_name", "")).lower() in _SPREADING:
            return False
        if one.get("type") == "BASE_TABLE" and one.get("column_name_alias"):
            return False
    return True


_OPAQUE = {"SUBQUERY", "TABLE_FUNCTION", "EXPRESSION_LIST", "PIVOT", "SET_OPERATION_NODE",
           "RECURSIVE_CTE_NODE", "CTE_NODE", "COLUMN_DATA", "DELIM_GET", "SHOW_REF"}  # fmt: skip
_SPREADING = {"unnest", "unlist"}
"""Functions whose one item may become several columns, with names of their own."""


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
    "tells_rows_apart",
    "through_expressions",
    "with_inputs",
]
