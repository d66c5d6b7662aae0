from __future__ import annotations

import pytest
from pydantic import ValidationError

from falaj.ingest.model import Contract, Source

GOOD = {"name": "s", "table": "t", "path": "x.csv", "columns": {"a": "text", "b": "decimal(9, 2)"}}


def test_a_source_says_which_columns_it_stores():
    source = Source(**GOOD, derived={"c": "1"}, exclude=("a",), recorded_at="known")
    assert source.stored == ["b", "c", "known"]
    assert source.quarantine == "t_quarantine"
    assert Source(**GOOD).shape() == Source(**GOOD, description="told", owner="user:x").shape()
    assert Source(**GOOD).shape() != Source(**GOOD, zone="UTC").shape()


@pytest.mark.parametrize(
    "change",
    [
        {"columns": {}},
        {"columns": {"a": "varchar"}},
        {"columns": {"a b": "text"}},
        {"columns": {"a": "text", "A": "text"}},
        {"derived": {"a": "1"}},
        {"exclude": ("z",)},
        {"key": ("z",)},
        {"key": ("a",), "exclude": ("a",)},
        {"event_time": "z"},
        {"table": "Bad"},
        {"delimiter": "::"},
        {"surprise": 1},
    ],
)
def test_a_source_that_contradicts_itself_is_refused(change):
    with pytest.raises(ValidationError):
        Source(**{**GOOD, **change})


@pytest.mark.parametrize(
    "check",
    [
        {"check": "between", "column": "a"},
        {"check": "row_count", "severity": "quarantine"},
        {"check": "freshness", "column": "a", "max_age_seconds": 1, "tolerance": 0.1},
        {"check": "in_set", "column": "a", "values": []},
        {"check": "unique", "columns": []},
        {"check": "not_null", "column": "a", "tolerance": 2},
        {"check": "nope"},
    ],
)
def test_a_check_that_makes_no_sense_is_refused(check):
    with pytest.raises(ValidationError):
        Contract(name="c", table="t", checks=[check])


def test_a_contract_survives_its_document():
    contract = Contract(
        name="c",
        table="t",
        checks=[{"check": "between", "column": "a", "least": 1}, {"check": "row_count"}],
    )
    document = contract.document()
    document.pop("kind")
    assert Contract.model_validate(document) == contract
