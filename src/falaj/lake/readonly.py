"""Which SQL may be asked of the lake: one SELECT, over named tables, and nothing else.

The check walks the syntax tree that DuckDB's own parser makes of the very text that is
then run, so there is no second grammar to fool. What a tree may hold is a short list;
the engine below has files and network switched off and its configuration locked as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from falaj.lake.model import KEPT_PREFIXES, QueryRefused

TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest"})
REFUSED_FUNCTIONS = frozenset(
    {
        "current_setting",
        "getenv",
        "getvariable",
        "nextval",
        "currval",
        "write_log",
        "parse_duckdb_log_message",
        "current_database",
        "current_schemas",
        "current_user",
        "query",
        "query_table",
        "sql_auto_complete",
        "json_execute_serialized_sql",
        "pg_get_viewdef",
        "finalize",
    }
)


def tables_of(tree: Mapping[str, Any], known: Collection[str]) -> set[str]:
    """The known tables that a query reads.

    Args:
        tree: what ``json_serialize_sql`` made of the query.
        known: the names that it may read.

    Raises:
        QueryRefused: the text is no single SELECT, or reads anything that is not known.
    """
    if tree.get("error"):
        told = str(tree.get("error_message", "it cannot be parsed"))
        if tree.get("error_type") == "not implemented":
            told = "it is not a SELECT"
        raise QueryRefused(
            f"The query was refused: {told}.", hint="Ask with one SELECT (or WITH … SELECT)."
        )
    statements = tree.get("statements", [])
    if len(statements) != 1:
        raise QueryRefused(
            f"The query was refused: it has {len(statements)} statements.", hint="Give exactly one."
        )
    nodes = list(_nodes(statements[0]))
    named = {entry for node in nodes for entry in _cte_names(node)}
    return {found for node in nodes if (found := _checked(node, known, named)) is not None}


def _nodes(root: Mapping[str, Any]) -> Any:
    stack: list[Any] = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _cte_names(node: Mapping[str, Any]) -> list[str]:
    names = []
    entries = node.get("cte_map", {})
    for entry in entries.get("map", []) if isinstance(entries, Mapping) else []:
        name = str(entry.get("key", "")).lower()
        if name.startswith(KEPT_PREFIXES):
            raise QueryRefused(
                f"The query was refused: {name!r} cannot name a part of it.",
                hint="Choose another name after WITH.",
            )
        names.append(name)
    if node.get("type") == "RECURSIVE_CTE_NODE":
        names.append(str(node.get("cte_name", "")).lower())
    return names


def _checked(node: Mapping[str, Any], known: Collection[str], named: set[str]) -> str | None:
    kind = node.get("type")
    if kind == "BASE_TABLE":
        return _table(node, known, named)
    if kind == "SHOW_REF":
        raise QueryRefused(
            "The query was refused: SHOW, DESCRIBE and SUMMARIZE are not SELECTs.",
            hint="Read the schema with `falaj tables get`.",
        )
    if kind == "TABLE_FUNCTION":
        name = str(node.get("function", {}).get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS:
            raise QueryRefused(
                f"The query was refused: it reads from the function {name}().",
                hint="Only tables of the lake can be read, and range, generate_series, unnest.",
            )
    if node.get("class") == "FUNCTION":
        name = str(node.get("function_name", "")).lower()
        if name in REFUSED_FUNCTIONS or name.startswith((*KEPT_PREFIXES, "read_")):
            raise QueryRefused(
                f"The query was refused: it calls the function {name}().",
                hint="Use functions that compute from their arguments alone.",
            )
    return None


def _table(node: Mapping[str, Any], known: Collection[str], named: set[str]) -> str | None:
    name = str(node.get("table_name", ""))
    qualified = node.get("catalog_name") or node.get("schema_name")
    if not qualified:
        if name.lower() in named:
            return name.lower() if name.lower() in known else None
        if name.lower() in known:
            return name.lower()
    told = ".".join(
        str(part) for part in (node.get("catalog_name"), node.get("schema_name"), name) if part
    )
    raise QueryRefused(
        f"The query was refused: there is no lake table {told!r}.",
        hint="Name tables of the lake as they are, without a catalogue or schema before them.",
    )
