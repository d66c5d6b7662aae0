"""The contract of ``benchmarks/monitoring/contracts.py`` in the words of other libraries.

``contract_peers.py NAME FILE``: reads the rows, then times the validation alone (the median
of three); prints seconds, how many checks are broken, and the library's version.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

SET = ["a", "b", "c", "d", "e"]
FILLED = ["id", "customer", "x0", "x1", "x2", "n0", "n1", "c0", "code"]
KEYS = 200_000
BETWEEN = {f"x{i}": (-4.0, 4.0) for i in range(8)} | {f"n{i}": (0, 99) for i in range(3)}
PATTERNS = {"code": "^[A-Z]{2}[0-9]{4}$", "mail": "^[^@]+@[^@]+$"}


def great_expectations(file: str) -> Callable[[], int]:
    """Great Expectations on pandas; the foreign key as a set, as its guide has it."""
    import great_expectations as gx
    import great_expectations.expectations as e
    import pandas as pd

    frame = pd.read_parquet(file)
    context = gx.get_context(mode="ephemeral")
    asset = context.data_sources.add_pandas("p").add_dataframe_asset("a")
    batch = asset.add_batch_definition_whole_dataframe("b").get_batch(
        batch_parameters={"dataframe": frame}
    )
    of: list[Any] = [
        e.ExpectColumnValuesToBeUnique(column="id"),
        e.ExpectColumnValuesToBeInSet(column="customer", value_set=list(range(KEYS))),
        e.ExpectTableRowCountToBeBetween(min_value=1),
        e.ExpectColumnMaxToBeBetween(column="at", min_value=pd.Timestamp("2020-01-01", tz="UTC")),
        e.ExpectColumnPairValuesAToBeGreaterThanB(column_A="id", column_B="id", or_equal=True),
    ]
    of += [e.ExpectColumnValuesToMatchRegex(column=c, regex=p) for c, p in PATTERNS.items()]
    of += [e.ExpectColumnValuesToNotBeNull(column=c) for c in FILLED]
    of += [
        e.ExpectColumnValuesToBeBetween(column=c, min_value=a, max_value=b)
        for c, (a, b) in BETWEEN.items()
    ]
    of += [e.ExpectColumnValuesToBeInSet(column=f"c{i}", value_set=SET) for i in range(3)]
    suite = gx.ExpectationSuite(name="s", expectations=of)

    def run() -> int:
        found = batch.validate(suite)
        return sum(not one.success for one in found.results)

    return run


def pandera(file: str) -> Callable[[], int]:
    """Pandera on Polars, lazily: all errors at once."""
    import pandera.polars as pa
    import polars as pl

    frame = pl.read_parquet(file)
    known = pl.Series(range(KEYS))
    checks: dict[str, list[Any]] = {name: [] for name in frame.columns}
    checks["customer"].append(pa.Check(lambda d: d.lazyframe.select(pl.col(d.key).is_in(known))))
    checks["at"].append(
        pa.Check(lambda d: d.lazyframe.select(pl.col(d.key).max().dt.year() >= 2020))
    )
    checks["n0"].append(
        pa.Check(lambda d: d.lazyframe.select(pl.col("n0") + pl.col("n1") >= pl.col("n0")))
    )
    for name, (least, greatest) in BETWEEN.items():
        checks[name].append(pa.Check.in_range(least, greatest))
    for name, pattern in PATTERNS.items():
        checks[name].append(pa.Check.str_matches(pattern))
    for name in ("c0", "c1", "c2"):
        checks[name].append(pa.Check.isin(SET))
    schema = pa.DataFrameSchema(
        {
            name: pa.Column(checks=checks[name], nullable=name not in FILLED, unique=name == "id")
            for name in frame.columns
        }
    )

    def run() -> int:
        try:
            schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as error:
            return len(error.schema_errors)
        return 0

    return run


def pointblank(file: str) -> Callable[[], int]:
    """Pointblank on Polars."""
    import pointblank as pb
    import polars as pl

    frame = pl.read_parquet(file)
    known = list(range(KEYS))

    def run() -> int:
        plan = pb.Validate(frame).rows_distinct(columns_subset="id")
        plan = plan.col_vals_in_set("customer", known).row_count_match(frame.height)
        plan = plan.col_vals_gt("at", pl.datetime(2020, 1, 1, time_zone="UTC"))
        plan = plan.col_vals_expr(pl.col("n0") + pl.col("n1") >= pl.col("n0"))
        for name, pattern in PATTERNS.items():
            plan = plan.col_vals_regex(name, pattern)
        for name in FILLED:
            plan = plan.col_vals_not_null(name)
        for name, (least, greatest) in BETWEEN.items():
            plan = plan.col_vals_between(name, least, greatest)
        for name in ("c0", "c1", "c2"):
            plan = plan.col_vals_in_set(name, SET)
        done = plan.interrogate(collect_extracts=False)
        return sum(n > 0 for n in done.n_failed().values())

    return run


def dataframely(file: str) -> Callable[[], int]:
    """Dataframely on Polars; the foreign key as a rule."""
    import dataframely as dy
    import polars as pl

    frame = pl.read_parquet(file)
    known = pl.Series(range(KEYS))
    fields: dict[str, Any] = {}
    for name, kind in frame.schema.items():
        filled = {"nullable": name not in FILLED}
        if name in BETWEEN:
            least, greatest = BETWEEN[name]
            of = dy.Float64 if kind.is_float() else dy.Int64
            fields[name] = of(min=least, max=greatest, **filled)
        elif name in PATTERNS:
            fields[name] = dy.String(regex=PATTERNS[name], **filled)
        elif name in ("c0", "c1", "c2"):
            fields[name] = dy.String(check=lambda c: c.is_in(SET), **filled)
        elif kind == pl.String:
            fields[name] = dy.String(**filled)
        elif kind.is_integer():
            fields[name] = dy.Int64(**filled)
        else:
            fields[name] = dy.Any(**filled)
    fields["id"] = dy.Int64(nullable=False, unique=True)
    fields["customer"] = dy.Int64(nullable=False, check=lambda c: c.is_in(known))
    fields["sums"] = dy.rule()(lambda cls: pl.col("n0") + pl.col("n1") >= pl.col("n0"))
    schema = type("Orders", (dy.Schema,), fields)

    def run() -> int:
        _, failure = schema.filter(frame)
        return len(failure.counts())

    return run


def main() -> None:
    """Measure one peer."""
    name, file = sys.argv[1:3]
    run = {
        "great_expectations": great_expectations,
        "pandera": pandera,
        "pointblank": pointblank,
        "dataframely": dataframely,
    }[name](file)
    seconds, broken = [], 0
    for _ in range(3):
        started = time.perf_counter()
        broken = run()
        seconds.append(time.perf_counter() - started)
    told = {"seconds": statistics.median(seconds), "broken": broken}
    print(json.dumps({**told, "version": version(name)}))


if __name__ == "__main__":
    main()
