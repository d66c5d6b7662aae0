"""What a definition says in SQL: one expression over the columns of a row, and nothing else.

The text stands inside statements of ours, and the engine runs several statements in a row: a
text that closed the parenthesis around it could change the rows that are loaded. It is taken
apart by the engine's own parser, so there is no second grammar to fool.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from falaj.catalog.planning import Step
from falaj.ingest.checks import Expression
from falaj.ingest.model import Contract, Source
from falaj.kernel.errors import InvalidInput
from falaj.lake.filters import parsed
from falaj.lake.model import QueryRefused
from falaj.lake.queries import nodes
from falaj.lake.readonly import tables_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Resulting
    from falaj.catalog.planning import PlannedDefinition

HINT = "Write one SQL expression over the columns, without a subquery."
_PROBE = "rows_of_it"
_KINDS = {Source.kind, Contract.kind}
_PARTS = {"type", "select_list", "from_table", "aggregate_handling"}
"""What the tree of ``SELECT expression FROM table`` holds, and no more."""
_STRANGE = {
    "SUBQUERY": "a subquery (ANY counts as one: use IN)",
    "STAR": "a star or COLUMNS",
    "POSITIONAL_REFERENCE": "a column by its position",
    "PARAMETER": "a parameter",
    "DEFAULT": "DEFAULT",
}
_FUNCTIONS = {"error", "sleep_ms", "pg_sleep", "current_query", "unnest", "unlist"}
"""Beside those that no query may call: they raise a text of one's choice, wait, or give
several rows for one."""


@lru_cache(maxsize=4096)
def objection(said: str) -> str | None:
    """Why a text is not one expression that computes from columns alone, in words; None if it is.

    It must parse, alone and in parentheses, and hold no subquery, star, position or parameter,
    nor call a function that reads anything but its arguments, raises a text of one's choice,
    waits, or makes several rows of one.
    """
    trees = []
    # With its parentheses alone, "a), (b" would be two expressions; without, "a AS b" is one.
    for sql in (_alone(said), f"SELECT ({said}\n) FROM {_PROBE}"):
        tree = parsed(sql)
        try:
            tables_of(tree, [_PROBE])
        except QueryRefused as refused:
            return refused.message.removeprefix("The query was refused: ").rstrip(".")
        trees.append(tree)
    return next((why for tree in trees if (why := _strange(tree)) is not None), None)


def has_window(said: str) -> bool:
    """True if an expression looks at other rows than its own."""
    return any(one.get("class") == "WINDOW" for one in nodes(parsed(_alone(said))))


class ExpressionsOfPlans:
    """Judges each plan that changes sources or contracts; fulfils ``definitions.Review``.

    It is asked again where rows are read, for what was applied before it was asked here.
    """

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are.

        Raises:
            InvalidInput: a derived column or a check is more than an expression.
        """
        for item in items:
            if item.kind in _KINDS and item.step in (Step.CREATE, Step.UPDATE):
                _judge(resulting.get(item.kind, item.name))
        return list(items)


def _judge(definition: object) -> None:
    texts: list[tuple[str, str]] = []
    if isinstance(definition, Source):
        texts = [
            (f"The derived column {column!r} of the source {definition.name!r}", said)
            for column, said in definition.derived.items()
        ]
    if isinstance(definition, Contract):
        texts = [
            (f"The condition {check.sql!r} of the contract {definition.name!r}", check.sql)
            for check in definition.checks
            if isinstance(check, Expression)
        ]
    for about, said in texts:
        why = objection(said)
        if why is not None:
            raise InvalidInput(f"{about} is refused: {why}.", hint=HINT)


def _alone(said: str) -> str:
    return f"SELECT {said}\n FROM {_PROBE}"


def _strange(tree: Mapping[str, Any]) -> str | None:
    """What a SELECT holds beside one expression over columns, in words."""
    statement = tree["statements"][0]
    node: Mapping[str, Any] = statement["node"]
    selected = node.get("select_list", [])
    one = node.get("type") == "SELECT_NODE" and len(selected) == 1
    if not one or set(node) - _PARTS or selected[0].get("alias"):
        return "it is more than one expression"
    for item in nodes(statement):
        told = _STRANGE.get(str(item.get("class")))
        if told is not None:
            return f"it holds {told}"
        called = str(item.get("function_name", "")).lower()
        if called in _FUNCTIONS or called.startswith("pg_"):
            return f"it calls the function {called}()"
    return None


__all__ = ["HINT", "ExpressionsOfPlans", "has_window", "objection"]
