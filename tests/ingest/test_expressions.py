from __future__ import annotations

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.ingest.expressions import ExpressionsOfPlans, has_window, objection
from falaj.ingest.model import Contract, Source
from falaj.kernel.errors import InvalidInput


@pytest.mark.parametrize(
    "said",
    [
        "v",
        "v < w -- said",
        "v > lag(v) OVER (ORDER BY _row)",
        "count(*) OVER () > 1",
        "'a;b)' || v",
        "CASE WHEN v IN (1, 2) THEN w END",
        "list_filter(v, lambda y: y > 1)",
        "make_timestamptz(epoch_us(begun) - 2 * 3600000000)",
        "TIMESTAMPTZ '2013-01-01 00:00:00+00'",
        "extract(hour from begun + interval 4 hour)",
        "v::DOUBLE",
    ],
)
def test_what_computes_from_the_columns_of_a_row_is_taken(said):
    assert objection(said) is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("true)) FROM _rows; UPDATE _rows SET v = 0; SELECT ((true", "syntax"),
        ("v; DROP TABLE _rows; --", "not a SELECT"),
        ("a, b", "more than one"),
        ("a), (b", "syntax"),
        ("a AS b", "syntax"),
        ("v /* never closed", "unterminated"),
        ("v FROM rows_of_it WHERE true", "syntax"),
        ("", "SELECT"),
        ("(SELECT 1)", "subquery"),
        ("v IN (SELECT k FROM other)", "other"),
        ("EXISTS (FROM read_text('/etc/x'))", "read_text"),
        ("v = ANY([1])", "subquery"),
        ("CASE WHEN v > 1 THEN error(w) END", "error()"),
        ('"ERROR"(w)', "error()"),
        ("w.error()", "error()"),
        ("getenv('HOME') = v", "getenv()"),
        ("current_setting('threads') = v", "current_setting()"),
        ("sleep_ms(10_000) IS NULL", "sleep_ms()"),
        ("unnest([1, 2])", "unnest()"),
        ("COLUMNS(*) > 1", "star"),
        ("#1 > 1", "position"),
        ("v = $1", "parameter"),
    ],
)
def test_what_is_more_than_one_expression_over_columns_is_not(said, why):
    assert why in objection(said)


@pytest.mark.parametrize(
    "given",
    [
        Source(name="s", table="t", path="x", columns={"a": "text"}, derived={"d": "a), (a"}),
        Contract(name="c", table="t", checks=[{"check": "expression", "sql": "error(a)"}]),
    ],
    ids=["source", "contract"],
)
def test_a_plan_refuses_a_definition_whose_sql_is_no_expression(sqlite_database, given):
    kinds = {"source": Source, "contract": Contract}
    definitions = Definitions(Catalog(), kinds, {}, [ExpressionsOfPlans()])
    with sqlite_database.reading() as connection, pytest.raises(InvalidInput) as caught:
        definitions.plan(connection, [given])
    assert repr(given.name) in caught.value.message


def test_only_a_window_looks_at_other_rows():
    assert has_window("v > lag(v) OVER (ORDER BY _row)")
    assert not has_window("v > 1")
