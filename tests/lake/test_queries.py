"""Queries taken apart: what their columns come from, and other tables in their place."""

import pytest

from falaj.catalog.model import Classification
from falaj.lake.model import QueryRefused
from falaj.lake.queries import (
    origins_of_query,
    table_names,
    through_expressions,
    with_inputs,
)

COLUMNS = {"people": ["name", "pay", "city"], "cities": ["city", "land"]}


def test_a_plain_select_tells_what_each_column_comes_from():
    sql = 'SELECT name AS who, pay * 2 AS y, p.city FROM people p WHERE pay > 1 ORDER BY "name"'
    assert origins_of_query(sql, {"people": COLUMNS["people"]}) == {
        "who": {("people", "name")},
        "y": {("people", "pay"), ("people", "*")},
        "city": {("people", "city")},
    }


def test_a_column_that_two_tables_have_may_come_from_both():
    found = origins_of_query("SELECT city FROM people JOIN cities USING (city)", COLUMNS)
    assert found == {"city": {("people", "city"), ("cities", "city")}}
    assert origins_of_query("SELECT * FROM people", {"people": ["a"]}) == {"a": {("people", "a")}}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a AS x FROM people AS p(a, b, c)",
        "SELECT * FROM (SELECT pay AS city FROM people)",
        "WITH w AS (SELECT pay AS city FROM people) SELECT city FROM w",
        "SELECT city FROM people UNION ALL SELECT name FROM people",
        "SELECT (SELECT max(pay) FROM people) AS city",
        "SELECT * EXCLUDE (pay) FROM people",
        "SELECT COLUMNS('pa.*') FROM people",
        "SELECT city FROM people UNPIVOT (city FOR what IN (name))",
        "SELECT unnest(people) FROM people",
        "SELECT city, unnest(p) AS city FROM people p",
    ],
)
def test_where_names_may_mean_something_else_a_column_may_come_from_anything(sql):
    everything = {("people", name) for name in COLUMNS["people"]}
    found = origins_of_query(sql, {"people": COLUMNS["people"]})
    assert found == {"*": everything}


def test_a_column_of_a_named_table_comes_from_that_table_alone():
    sql = "SELECT p.city, c.*, main.c.land AS l FROM people p JOIN cities c ON p.city = c.city"
    assert origins_of_query(sql.replace("c.*, ", ""), COLUMNS) == {
        "city": {("people", "city")},
        "l": {("cities", "land")},
    }
    assert origins_of_query("SELECT c.* FROM people, cities c", COLUMNS) == {
        "city": {("cities", "city")},
        "land": {("cities", "land")},
    }


@pytest.mark.parametrize("item", ["people", "#2", "p.pay.x", "pay.city", "struct_pack(people)"])
def test_a_whole_row_or_a_numbered_column_may_be_anything(item):
    found = origins_of_query(f"SELECT {item} AS x FROM people p", {"people": COLUMNS["people"]})
    assert found["x"] >= {("people", "pay")}


def test_another_table_stands_in_place_of_one_and_keeps_its_name_as_an_alias():
    sql = "SELECT people.name, c.land FROM People JOIN cities c ON people.city = c.city"
    found = with_inputs(sql, {"people": "seen_part_0", "cities": "seen_part_1"})
    assert table_names(found, ["seen_part_0", "seen_part_1"]) == {"seen_part_0", "seen_part_1"}
    assert "People" in found


@pytest.mark.parametrize(
    "sql",
    [
        "WITH people AS (SELECT * FROM people) SELECT * FROM people",
        "WITH RECURSIVE people AS (SELECT 1 UNION SELECT 2) SELECT * FROM people",
        "SELECT * FROM (WITH PEOPLE AS (SELECT * FROM people) SELECT * FROM people)",
    ],
)
def test_a_part_of_a_query_with_the_name_of_such_a_table_is_refused(sql):
    with pytest.raises(QueryRefused):
        with_inputs(sql, {"people": "seen_part_0"})


@pytest.mark.parametrize(
    ("expression", "level"),
    [
        ("left(NAME, 1)", "personal"),
        ("city || '!'", None),
        ("pay * 2 + length(name)", "sensitive"),
        ("earlier + 1", "sensitive"),
        ("concat_ws(',', COLUMNS(*))", "sensitive"),
        ("(SELECT 1)", "sensitive"),
        ("typed", "sensitive"),
        ("'name'", None),
        ("declared_harmless", None),
    ],
)
def test_a_derived_column_is_as_secret_as_what_its_expression_may_read(expression, level):
    declared = {"name": Classification.PERSONAL, "pay": Classification.SENSITIVE,
                "harmless": Classification.INTERNAL}  # fmt: skip
    derived = {"earlier": "pay", "x": expression, "harmless": "name"}
    known = ["name", "pay", "city", "declared_harmless", *derived]
    found = through_expressions(declared, derived, known)
    assert found.get("x") == level
    assert found["harmless"] == "internal", "declared itself"
