"""Metrics that are Python functions: marked by their authors, run apart and under limits.

A metric may name a function of an installed module that its author has marked with
``metric_function``, and no other: declaring a metric is no way to run what one likes. It is run
in a process of its own that may use so much memory and time, and is given the tables that the
metric names as Arrow tables by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from falaj.kernel.compute import Plain, name_of, packed, task
from falaj.kernel.limits import run_limited
from falaj.kernel.resources import GIB, Resources
from falaj.rollouts.metrics import MetricRefused
from falaj.rollouts.model import Metric

if TYPE_CHECKING:
    import pyarrow as pa

_MARK = "__falaj_metric__"
_MEMORY = 2 * GIB
_COLUMNS = ("unit", "known_at", "value")
F = TypeVar("F", bound=Callable[[dict[str, Any]], Any])


def metric_function(function: F) -> F:
    """Mark a function of a module as one that a metric may name.

    It takes a dict of Arrow tables by name and returns an Arrow table with the columns
    ``unit``, ``known_at``, ``value`` (and ``denominator`` for a ratio).
    """
    setattr(function, _MARK, True)
    return function


class LimitedFunctions:
    """Runs the functions of metrics, each in a process of its own; see ``RunFunction``.

    Args:
        seconds: that one may take.
        memory_bytes: that one may use.
    """

    def __init__(self, *, seconds: float = 60.0, memory_bytes: int = _MEMORY) -> None:
        self._resources = Resources(cpus=1, memory_bytes=memory_bytes, seconds=seconds)

    def __call__(self, metric: Metric, tables: Mapping[str, pa.Table]) -> pa.Table:
        """What the metric's function makes of the tables that it reads.

        Raises:
            MetricRefused: it is not marked, cannot be found, or gives something else.
            MemoryLimit, TimeLimit, TaskLost, TaskFailed: see ``LimitedCompute.limited``.
        """
        item = {
            "metric": metric.name,
            "function": metric.function or "",
            "tables": {name: _bytes(rows) for name, rows in tables.items()},
        }
        answered = run_limited(
            name_of(measured),
            packed(item),
            self._resources,
            heard=lambda _told: None,
            check=lambda: None,
            measured=lambda _used: None,
        )
        return _table(answered)


@task
def measured(item: Plain) -> Plain:
    """In a process apart: run the function on the tables; Arrow IPC bytes in and out."""
    import pyarrow as pa

    name, told = item["metric"], item["function"]
    module, _, attribute = told.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise MetricRefused(
            f"The metric {name!r} names {told!r}, which cannot be imported: {error}.",
            hint="Install the package that has it where Falaj's workers run.",
        ) from None
    if function is None or not getattr(function, _MARK, False):
        raise MetricRefused(
            f"The metric {name!r} names {told!r}, which is no metric function.",
            hint="Mark it with @metric_function (falaj.rollouts.metricfunctions).",
        )
    found = function({table: _table(rows) for table, rows in item["tables"].items()})
    if not isinstance(found, pa.Table) or not set(_COLUMNS) <= set(found.column_names):
        raise MetricRefused(
            f"The function {told!r} of the metric {name!r} gave no table with the columns"
            f" {', '.join(_COLUMNS)}.",
            hint="Return a pyarrow.Table.",
        )
    return _bytes(found)


def _bytes(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


def _table(data: Any) -> pa.Table:
    import pyarrow as pa

    return pa.ipc.open_stream(data).read_all()
