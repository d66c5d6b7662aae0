"""Functions that metrics of tests name."""

import time

import pyarrow as pa

from falaj.rollouts.metricfunctions import metric_function


@metric_function
def doubled(tables):
    """Twice the value of each outcome."""
    [rows] = tables.values()
    return rows.set_column(
        rows.schema.get_field_index("value"),
        "value",
        pa.array([2 * v for v in rows["value"].to_pylist()]),
    )


@metric_function
def endless(tables):
    """Never ends."""
    time.sleep(600)


@metric_function
def wrong(tables):
    """Gives no table."""
    return 7


def unmarked(tables):
    """Not a metric."""
    return next(iter(tables.values()))
