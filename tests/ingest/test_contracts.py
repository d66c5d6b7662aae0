from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.ingest.contracts import judge
from falaj.ingest.model import Contract
from falaj.ingest.typing import RAW, ROWS, bench
from falaj.kernel.errors import InvalidInput

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def judged(columns, *checks, tables=None, **options):
    rows = pa.table(columns)
    rows = rows.append_column("_row", pa.array(range(1, rows.num_rows + 1), pa.int64()))
    contract = Contract(name="c", table="t", checks=checks)
    tables = tables or {}

    def lookup(table, wanted):
        found = tables.get(table)
        return None if found is None else pa.table(found).select(list(wanted))

    with bench(memory="500MB", threads=1) as engine:
        engine.register(RAW, rows)
        engine.execute(f"CREATE TEMP TABLE {ROWS} AS SELECT * FROM {RAW}")
        return judge(engine, [contract], now=NOW, lookup=lookup, **options)


AT = [NOW - timedelta(hours=1), None, NOW - timedelta(hours=3)]


def a_check(kind, column="v", **more):
    return {"check": kind, "column": column, **more}


@pytest.mark.parametrize(
    ("columns", "check", "wrong"),
    [
        ({"v": [1, None, 3]}, {"check": "not_null", "column": "v"}, [2]),
        ({"v": [1, 1, None, None, 1]}, {"check": "unique", "columns": ["v"]}, [2, 5]),
        ({"v": [1, 1], "w": [1, 2]}, {"check": "unique", "columns": ["v", "w"]}, []),
        ({"v": [0, 5, 6, None]}, a_check("between", least=1, greatest=5), [1, 3]),
        ({"v": [0.5, 2.5]}, {"check": "between", "column": "v", "greatest": 1.5}, [2]),
        ({"v": AT}, {"check": "between", "column": "v", "least": "2026-05-31 22:00:00Z"}, [3]),
        ({"v": ["a", "b'", "c", None]}, a_check("in_set", values=["a", "b'"]), [3]),
        ({"v": [True, False]}, {"check": "in_set", "column": "v", "values": [True]}, [2]),
        ({"v": ["AB1", "xAB1", None]}, a_check("matches", pattern="[A-Z]+[0-9]"), [2]),
        (
            {"v": ["x", "z", None]},
            {"check": "foreign_key", "column": "v", "table": "other", "to_column": "k"},
            [2],
        ),
        ({"v": [1, 2, None], "w": [2, 1, 1]}, {"check": "expression", "sql": "v < w -- said"}, [2]),
    ],
)
def test_each_check_finds_just_the_violating_rows(columns, check, wrong):
    other = {"other": {"k": ["x", None, "y"]}}
    (result,) = judged(columns, check, tables=other).results
    assert [example.row for example in result.examples] == wrong
    assert result.n_violations == len(wrong)
    assert result.passed == (not wrong)
    assert result.share == pytest.approx(len(wrong) / result.n_rows)


def test_rows_that_the_table_has_already_are_not_unique():
    check = {"check": "unique", "columns": ["v"]}
    rows = {"v": [1, 2, 3]}
    before = {"t": {"v": [2, 9]}}
    found = judged(rows, check, tables=before, existing="t").results[0]
    assert [example.row for example in found.examples] == [2]
    assert judged(rows, check, tables=before).results[0].passed
    assert judged(rows, check, existing="t").results[0].passed


@pytest.mark.parametrize(
    ("check", "passed", "measured"),
    [
        ({"check": "row_count"}, True, "3 rows"),
        ({"check": "row_count", "least": 4}, False, "3 rows"),
        ({"check": "row_count", "least": 0, "greatest": 2}, False, "3 rows"),
        ({"check": "freshness", "column": "at", "max_age_seconds": 3600}, True, "3600 s old"),
        ({"check": "freshness", "column": "at", "max_age_seconds": 3599}, False, "3600 s old"),
        ({"check": "freshness", "column": "never", "max_age_seconds": 9}, False, "no value"),
    ],
)
def test_checks_of_all_rows_together_say_what_they_measured(check, passed, measured):
    never = pa.nulls(3, pa.timestamp("us", tz="UTC"))
    result = judged({"at": AT, "never": never}, check).results[0]
    assert (result.passed, result.measured, result.n_violations) == (passed, measured, not passed)


def test_severity_decides_what_follows_and_tolerance_what_counts():
    found = judged(
        {"v": [None, 2, 3, 4], "w": [1, 1, 1, None]},
        {"check": "not_null", "column": "v", "severity": "quarantine"},
        {"check": "expression", "sql": "v <> 4", "severity": "quarantine"},
        {"check": "not_null", "column": "w", "tolerance": 0.25},
        {"check": "expression", "sql": "w < 0", "severity": "warn"},
        {"check": "expression", "sql": "v < 3"},
    )
    assert found.set_aside == [(1, "not_null(v)"), (4, "expression(v <> 4)")]
    assert [result.passed for result in found.results] == [False, False, True, False, False]
    assert [result.check for result in found.broken] == ["expression(v < 3)"]


def test_examples_show_values_only_where_they_may():
    columns = {"v": [None, 2.5], "who": ["Amina", "Bilal"]}
    check = {"check": "not_null", "column": "v"}
    shown = judged(columns, check).results[0].examples
    assert shown[0].values == {"v": None, "who": "Amina"}
    hidden = judged(columns, check, show_values=False).results[0].examples
    assert (hidden[0].row, hidden[0].values) == (1, None)


def test_at_most_five_examples_are_kept():
    (result,) = judged({"v": [None] * 50 + [1]}, {"check": "not_null", "column": "v"}).results
    assert [example.row for example in result.examples] == [1, 2, 3, 4, 5]
    assert result.n_violations == 50


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"check": "not_null", "column": "nope"}, "'nope'"),
        ({"check": "unique", "columns": ["v", "nope"]}, "'nope'"),
        ({"check": "expression", "sql": "nope > 1"}, "nope"),
        ({"check": "expression", "sql": "EXISTS (FROM read_text('/etc/x'))"}, "cannot be checked"),
        ({"check": "expression", "sql": "1); DROP TABLE _rows; --"}, "cannot be checked"),
        ({"check": "between", "column": "v", "least": "x"}, "cannot be checked"),
        ({"check": "matches", "column": "w", "pattern": "("}, "cannot be checked"),
        ({"check": "foreign_key", "column": "v", "table": "nope", "to_column": "k"}, "'nope'"),
    ],
)
def test_a_check_that_cannot_be_made_is_told(check, told):
    with pytest.raises(InvalidInput, match=told):
        judged({"v": [1], "w": ["x"]}, check)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=12), st.integers(-3, 3))
def test_counts_agree_with_counting_by_hand(values, least):
    found = judged(
        {"v": pa.array(values, pa.int64())},
        {"check": "not_null", "column": "v"},
        {"check": "between", "column": "v", "least": least},
        {"check": "unique", "columns": ["v"]},
    ).results
    known = [value for value in values if value is not None]
    assert [result.n_violations for result in found] == [
        len(values) - len(known),
        sum(value < least for value in known),
        len(known) - len(set(known)),
    ]
