from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.ingest.checks import Between, Unique
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


def streamed(columns, *checks, tables=None, seen=None, **options):
    """As ``judged``, of rows that can be read but once."""
    rows = pa.table(columns)
    contract = Contract(name="c", table="t", checks=checks)
    tables = tables or {}

    def lookup(table, wanted):
        found = tables.get(table)
        return None if found is None else pa.table(found).select(list(wanted))

    with bench(memory="500MB", threads=1) as engine:
        stream = Stream(engine, rows)
        if seen is not None:
            seen.append(stream)
        stream.whole()
        engine.execute(f"CREATE TEMP VIEW {ROWS} AS SELECT * FROM _stream")
        return judge(engine, [contract], now=NOW, lookup=lookup, again=stream, **options)


class Stream:
    """Lays rows two at a time, as a lake would more of them."""

    def __init__(self, engine, rows):
        self.engine, self.rows, self.n_pieces = engine, rows, 0

    def whole(self):
        self.engine.register("_stream", self.rows.to_reader(max_chunksize=2))

    def pieces(self):
        n_before = 0
        for batch in self.rows.to_batches(max_chunksize=2):
            self.engine.register("_stream", pa.Table.from_batches([batch]))
            self.n_pieces += 1
            yield n_before
            n_before += batch.num_rows


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
        ({"v": ["a", "b", None]}, a_check("not_in_set", values=["b"]), [2]),
        ({"v": ["ab", "abc", "é", "", None]}, a_check("length", least=1, greatest=2), [2, 4]),
        (
            {"v": [1, 3, 2, 5]},
            {"check": "expression", "sql": "v > lag(v) OVER (ORDER BY _row)"},
            [3],
        ),
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
        ({"check": "freshness", "max_age_seconds": 9}, True, "0 s old"),
        (a_check("statistic", of="mean", least=2, greatest=2), True, "2"),
        (a_check("statistic", of="sum", greatest=3), False, "4"),
        (a_check("statistic", of="std", least=1.5), False, "1.41421"),
        (a_check("statistic", of="min", least=1), True, "1"),
        (a_check("statistic", of="max", greatest=2), False, "3"),
        (a_check("statistic", of="median", least=2), True, "2"),
        (a_check("statistic", of="quantile", share=0.75, greatest=2.5), True, "2.5"),
        (a_check("statistic", of="null_share", greatest=0.3), False, "0.333333"),
        (a_check("statistic", "never", of="max", least=0), False, "no value"),
        (a_check("distinct", least=2, greatest=2), True, "2"),
        (
            {"check": "has_columns", "columns": ["at", "v", "never"], "exact": True},
            True,
            "3 columns",
        ),
        (
            {"check": "has_columns", "columns": ["at", "w"], "exact": True},
            False,
            "missing: w; not expected: never, v",
        ),
    ],
)
def test_checks_of_all_rows_together_say_what_they_measured(check, passed, measured):
    result = judged(
        {"at": AT, "never": pa.nulls(3, pa.timestamp("us", tz="UTC")), "v": [1.0, 3.0, None]}, check
    ).results[0]
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


VALUES = st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "ab", "cc"])), max_size=12)


@settings(deadline=None, max_examples=25)
@given(VALUES, VALUES)
def test_rows_that_stream_by_are_judged_as_those_that_are_kept(first, second):
    n = min(len(first), len(second))
    columns = {"v": pa.array(first[:n], pa.string()), "w": pa.array(second[:n], pa.string())}
    checks = [
        {"check": "unique", "columns": ["v"]},
        {"check": "unique", "columns": ["v", "w"]},
        {"check": "in_set", "column": "v", "values": ["a", "b"]},
        {"check": "foreign_key", "column": "w", "table": "other", "to_column": "k"},
        {"check": "expression", "sql": "v <> w"},
        {"check": "distinct", "column": "v", "least": 2},
    ]
    other = {"other": {"k": ["a", None]}}
    kept = judged(columns, *checks, tables=other, show_values=False).results
    seen = streamed(columns, *checks, tables=other, show_values=False).results
    for one, other_one in zip(kept, seen, strict=True):
        assert one.n_violations == other_one.n_violations, one.check
        assert len(one.examples) == len(other_one.examples) or one.check.startswith("unique")
        assert all(example.values is None for example in other_one.examples)
        if not one.check.startswith("unique"):
            assert [e.row for e in one.examples] == [e.row for e in other_one.examples], one.check


def test_examples_of_rows_that_stream_by_show_the_row_or_the_repeated_values():
    columns = {"v": [1, 2, 2, None], "w": ["a", "b", "c", "d"]}
    unique, filled = streamed(
        columns, {"check": "unique", "columns": ["v"]}, {"check": "not_null", "column": "v"}
    ).results
    assert [(one.row, one.values) for one in unique.examples] == [(3, {"v": 2})]
    assert [(one.row, one.values) for one in filled.examples] == [(4, {"v": None, "w": "d"})]


def test_rows_that_stream_by_are_read_again_until_there_are_enough_examples():
    columns = {"v": [0, -1, -2, 3, -4, -5, 6, -7, -8, -9, -10] + [1] * 50}
    seen = []
    (one,) = streamed(columns, {"check": "between", "column": "v", "least": 0}, seen=seen).results
    assert (one.n_violations, [example.row for example in one.examples]) == (8, [2, 3, 5, 6, 8])
    assert seen[0].n_pieces == 4


def usual(past, n_rows, now=NOW, **more):
    """The result of ``usual(rows)`` with these earlier numbers of rows."""
    check = {"check": "usual", "of": "rows", **more}
    rows = pa.table({"v": range(n_rows)})
    rows = rows.append_column("_row", pa.array(range(1, n_rows + 1), pa.int64()))
    with bench(memory="500MB", threads=1) as engine:
        engine.register(RAW, rows)
        engine.execute(f"CREATE TEMP VIEW {ROWS} AS SELECT * FROM {RAW}")
        contract = Contract(name="c", table="t", checks=[check])
        return judge(
            engine, [contract], now=now, lookup=lambda *_: None, earlier=lambda *_: past
        ).results[0]


def days(counts, until=NOW):
    return [(until - timedelta(days=len(counts) - at), float(n)) for at, n in enumerate(counts)]


def test_a_load_that_is_far_smaller_than_the_earlier_ones_is_not_usual():
    past = days([1000, 980, 1010, 1030, 990, 1000, 1005, 995])
    assert usual(past, 1000).passed
    fallen = usual(past, 200)
    assert not fallen.passed
    assert fallen.severity == "warn"
    assert "usual is 1000 (8 earlier ones)" in fallen.measured
    assert (fallen.value, fallen.low < 1000 < fallen.high) == (200.0, True)


def test_a_quiet_day_of_the_week_is_usual_on_that_day_only():
    weekly = [1000, 1010, 990, 1000, 1005, 100, 995]  # NOW is a Monday, and so is the first
    past = days(weekly * 8)
    sunday = NOW - timedelta(days=2)
    assert sunday.weekday() == past[5][0].weekday()
    assert usual(past, 100, now=sunday).passed
    assert not usual(past, 100).passed
    assert not usual(past, 1000, now=sunday).passed


def test_with_too_little_history_nothing_is_expected_and_that_is_said():
    result = usual(days([1000] * 6), 1)
    assert result.passed
    assert "too few" in result.measured


def test_a_declared_bound_takes_the_place_of_what_was_learned():
    past = days([1000] * 10)
    assert not usual(past, 500).passed
    assert usual(past, 500, least=400).passed
    assert not usual(past, 500, least=400, greatest=450).passed
    assert not usual([], 500, least=600).passed


def test_the_last_whole_day_is_held_against_the_days_before_it():
    def on(counts):
        noon = NOW - timedelta(hours=12)
        at = [noon - timedelta(days=day) for day, n in enumerate(counts) for _ in range(n)]
        at.append(NOW + timedelta(hours=1))  # of the day that has just begun
        check = {"check": "usual", "of": "daily_rows", "column": "at"}
        return judged({"at": pa.array(at, pa.timestamp("us", tz="UTC"))}, check).results[0]

    assert on([50, 50, 51, 49, 50, 50, 52, 50, 48]).passed
    assert not on([0, 50, 51, 49, 50, 50, 52, 50, 48]).passed
    assert on([0, 50]).passed


def test_data_that_grow_older_than_usual_are_told_and_young_ones_never_are():
    past = days([60.0, 65.0, 58.0, 61.0, 60.0, 63.0, 59.0])
    check = {"check": "usual", "of": "age", "column": "at"}

    def aged(seconds):
        at = pa.array([NOW - timedelta(seconds=seconds)], pa.timestamp("us", tz="UTC"))
        return judged({"at": at}, check, earlier=lambda *_: past).results[0]

    assert aged(61).passed
    assert aged(1).passed
    assert not aged(3600).passed


@pytest.mark.parametrize(
    "check",
    [
        {"check": "statistic", "column": "v", "of": "mean"},
        {"check": "statistic", "column": "v", "of": "quantile", "least": 1},
        {"check": "statistic", "column": "v", "of": "mean", "least": 1, "share": 0.5},
        {"check": "distinct", "column": "v"},
        {"check": "usual", "of": "daily_rows"},
        {"check": "usual", "of": "rows", "column": "v"},
        {"check": "usual", "of": "rows", "least_history": 1},
        {"check": "usual", "of": "rows", "severity": "quarantine"},
    ],
)
def test_a_check_that_says_too_little_or_too_much_is_refused(check):
    with pytest.raises(ValueError, match=r"share|least|column|warn or fail|greater"):
        Contract(name="c", table="t", checks=[check])


def test_of_persons_no_single_value_stands_in_a_figure():
    checks = [
        {"check": "statistic", "column": "v", "of": "max", "greatest": 9},
        {"check": "statistic", "column": "v", "of": "mean", "greatest": 9},
    ]
    largest, mean = judged({"v": [1.0, 7.0]}, *checks, show_values=False).results
    assert (largest.measured, largest.value) == ("kept", None)
    assert mean.value == 4.0


@pytest.mark.parametrize("held", [judged, streamed])
def test_of_persons_an_error_names_the_check_and_no_value(held):
    checks = [a_check("not_null"), {"check": "expression", "sql": "CAST(v AS INTEGER) > 0"}]
    rows = {"v": ["1", "amina@example.org"]}
    with pytest.raises(InvalidInput, match=r"ConversionException in expression\(CAST") as caught:
        held(rows, *checks, show_values=False)
    assert "amina" not in str(caught.value)
    with pytest.raises(InvalidInput, match="amina"):
        held(rows, *checks)


def test_of_rows_that_stream_by_a_window_looks_beyond_its_piece():
    """Pieces are of two rows: within each, no value is below the one before."""
    rows = {"n": [1, 2, 3, 4, 5, 6], "v": [1, 3, 2, 5, 4, 6]}
    check = {"check": "expression", "sql": "v >= lag(v) OVER (ORDER BY n)"}
    (result,) = streamed(rows, check).results
    assert result.n_violations == 2
    assert [one.row for one in result.examples] == [3, 5]
    only_once = {"check": "expression", "sql": "row_number() OVER (ORDER BY n) > 1"}
    (result,) = streamed(rows, only_once).results
    assert [one.row for one in result.examples] == [1]


def test_a_lake_table_may_have_a_column_by_the_name_of_the_rows_number():
    rows = {"_row": [7, 8, 8], "v": [1, None, 3]}
    filled, unique, there = streamed(
        rows,
        a_check("not_null"),
        {"check": "unique", "columns": ["_row"]},
        {"check": "has_columns", "columns": ["_row", "v"], "exact": True},
    ).results
    assert [(one.row, one.values) for one in filled.examples] == [(2, {"_row": 8, "v": None})]
    assert [(one.row, one.values) for one in unique.examples] == [(3, {"_row": 8})]
    assert there.passed


NUMBERS = {
    "int8": pa.int8(), "int16": pa.int16(), "int32": pa.int32(), "int64": pa.int64(),
    "uint32": pa.uint32(), "uint64": pa.uint64(),
}  # fmt: skip


@given(
    kind=st.sampled_from(sorted(NUMBERS)),
    values=st.lists(
        st.one_of(st.none(), st.integers(0, 100), st.integers(0, 20), st.just(127)), max_size=60
    ),
    shift=st.sampled_from([0, 0, -(2**7), -(2**31), -(2**63), 2**62, 2**63]),
    far=st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_whole_numbers_are_unique_as_the_plain_definition_says(kind, values, shift, far):
    column = [None if one is None else one + shift for one in values]
    if far:
        column += [2**62, -(2**62)]
    try:
        array = pa.array(column, NUMBERS[kind])
    except (pa.ArrowInvalid, OverflowError):
        return  # they do not fit the type
    found = judged({"k": array}, Unique(columns=("k",))).results[0]
    known = [one for one in column if one is not None]
    assert found.n_violations == len(known) - len(set(known))
    assert found.passed == (len(known) == len(set(known)))


@pytest.mark.parametrize("form", ["VIEW", "TABLE"])
def test_examples_are_the_first_rows_however_many_threads_look(form):
    random = np.random.default_rng(3)
    n = 400_000
    values = random.normal(size=n)
    rows = pa.table({"a": values, "b": -values, "_row": np.arange(1, n + 1)})
    batches = pa.Table.from_batches(rows.to_batches(max_chunksize=20_000))
    checks = (Between(column="a", least=-3.5), Between(column="b", least=-3.0, greatest=3.0))
    contract = Contract(name="c", table="t", checks=checks)
    wanted = [(values < -3.5).nonzero()[0][:5] + 1, (abs(values) > 3.0).nonzero()[0][:5] + 1]
    for _ in range(5):
        with bench(memory="2GB", threads=2) as engine:
            engine.register(RAW, batches)
            engine.execute(f"CREATE TEMP {form} {ROWS} AS SELECT * FROM {RAW}")
            found = judge(engine, [contract], now=NOW, lookup=lambda *_: None).results
        shown = [[example.row for example in one.examples] for one in found]
        assert shown == [one.tolist() for one in wanted]
        assert [one.n_violations for one in found] == [
            int((values < -3.5).sum()), int((abs(values) > 3.0).sum())
        ]  # fmt: skip
