"""Whether a metric's text can be one, as far as the text alone tells: judged with each plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from falaj.catalog.planning import Step
from falaj.lake.filters import parsed
from falaj.lake.queries import nodes
from falaj.rollouts.metrics import MetricRefused, checked, columns_of
from falaj.rollouts.model import Metric
from falaj.serving.names import is_log

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Resulting
    from falaj.catalog.planning import PlannedDefinition

_SPREADING = {"unnest", "unlist"}
"""Functions whose one item may become several columns."""


class MetricReview:
    """Judges each plan that changes metrics; fulfils ``catalog.definitions.Review``."""

    def __call__(
        self,
        connection: Connection,
        items: Sequence[PlannedDefinition],
        resulting: Resulting,
    ) -> list[PlannedDefinition]:
        """The items as they are.

        Raises:
            MetricRefused: a metric's text is none, whatever tables there are.
        """
        for item in items:
            if item.kind == Metric.kind and item.step in (Step.CREATE, Step.UPDATE):
                metric = resulting.get(item.kind, item.name)
                if isinstance(metric, Metric) and metric.sql is not None:
                    checked(metric, {*metric.tables, *_logs(metric.sql)})
                    check_columns(metric)
        return list(items)


def check_columns(metric: Metric, *, by_variant: bool = False) -> None:
    """Return unless a metric's text, by itself, tells that a column is missing.

    Args:
        metric: its text is one SELECT.
        by_variant: it must tell a ``variant`` as well, as those of a shadow rollout must.

    Raises:
        MetricRefused: names the columns that it does not give.
    """
    if metric.sql is None:
        return
    told = _told(parsed(metric.sql)["statements"][0]["node"])
    if told is None:
        return
    lacking = [one for one in columns_of(metric, by_variant=by_variant) if one not in told]
    if lacking:
        raise MetricRefused(
            f"The metric {metric.name!r} is refused: it does not give {_listed(lacking)}.",
            hint="Its SELECT gives the columns"
            f" {', '.join(columns_of(metric, by_variant=by_variant))}; name them with AS.",
        )


def _listed(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _logs(sql: str) -> set[str]:
    """The prediction logs that it names: whose it may read is known when a rollout starts."""
    named = {str(one.get("table_name", "")).lower() for one in nodes(parsed(sql))}
    return {name for name in named if is_log(name)}


def _told(node: Mapping[str, Any]) -> Collection[str] | None:
    """The names of a query's columns in lower case; None if its tables decide about them."""
    if node.get("type") == "SET_OPERATION_NODE":
        sides = [_told(node.get(side) or {}) for side in ("left", "right")]
        known = [one for one in sides if one is not None]
        return set().union(*known) if len(known) == len(sides) else None
    if node.get("type") != "SELECT_NODE":
        return None
    found = set()
    for item in node.get("select_list", []):
        if any(
            one.get("class") == "STAR" or str(one.get("function_name", "")).lower() in _SPREADING
            for one in nodes(item)
        ):
            return None
        name = item.get("alias")
        if not name and item.get("class") == "COLUMN_REF":
            name = item["column_names"][-1]
        found.add(str(name or "").lower())
    return found


__all__ = ["MetricReview", "check_columns"]
