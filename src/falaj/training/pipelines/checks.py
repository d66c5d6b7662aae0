"""Tests of what a step gives: the checks of contracts, held against its rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from falaj.ingest.checks import Severity
from falaj.ingest.contracts import Lookup, judge
from falaj.ingest.model import Contract
from falaj.ingest.typing import RAW, ROWS, bench, name
from falaj.kernel.errors import InvalidInput
from falaj.training.pipelines.frames import TABLE, table_of
from falaj.training.pipelines.model import StepTestFailed, TestResult

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.ingest.checks import Check
    from falaj.training.pipelines.frames import Packed


def tested(
    step: str, given: Packed, checks: Sequence[Check], *, now: datetime, lookup: Lookup
) -> list[TestResult]:
    """Hold the rows that a step gave to its tests; what each found.

    Args:
        step: for the words of an error.
        given: what it gave.
        lookup: reads the tables that foreign keys name.

    Raises:
        StepTestFailed: a test of severity ``fail`` is broken; ``details`` hold all results.
        InvalidInput: it gave no rows, or a test names a column that they do not have.
    """
    if not checks:
        return []
    if given["form"] != TABLE:
        raise InvalidInput(
            f"The step {step!r} has tests and gave no table.", hint="Return an Arrow table."
        )
    rows: pa.Table = table_of(given["data"])
    contract = Contract(name="tests", table="rows", checks=tuple(checks))
    with bench() as engine:
        engine.register("_given", rows)
        columns = ", ".join(name(one) for one in rows.column_names)
        engine.execute(
            f"CREATE TEMP TABLE {ROWS} AS"
            f" SELECT row_number() OVER () AS _row, {columns} FROM _given"
        )
        engine.execute(f"CREATE TEMP VIEW {RAW} AS SELECT * FROM {ROWS}")
        found = judge(engine, [contract], now=now, lookup=lookup, show_values=False).results
    results = [
        TestResult(
            check=one.check,
            passed=one.passed,
            severity=str(one.severity),
            n_rows=rows.num_rows,
            n_violations=one.n_violations,
            measured=None if one.measured is None else str(one.measured),
        )
        for one in found
    ]
    broken = [one for one in results if not one.passed and one.severity == Severity.FAIL.value]
    if broken:
        raise StepTestFailed(
            f"What the step {step!r} gave does not keep its tests: {_words(broken)}.",
            hint="Nothing took these rows. Mend the step or its inputs, and run it anew.",
            tests=[one.model_dump(mode="json") for one in results],
        )
    return results


def _words(broken: Sequence[TestResult]) -> str:
    return "; ".join(
        f"{one.check}: {one.measured or f'{one.n_violations} of {one.n_rows} rows'}"
        for one in broken[:5]
    )


def no_tables(_table: str, _columns: Sequence[str]) -> Any:
    """A lookup where there is no lake."""
    return None
