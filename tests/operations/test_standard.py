"""Templates of standard changes: what is inside of their bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from falaj.kernel.call import AssetRef
from falaj.operations.standard import Bound, ChangeTemplate

MODEL = AssetRef("model", "flight-delay")
NOW = datetime(2026, 11, 30, tzinfo=UTC)


def _template(**given: Any) -> ChangeTemplate:
    fields = {
        "name": "retraining",
        "change": "retraining",
        "subjects": ("model:flight-*",),
        **given,
    }
    return ChangeTemplate.model_validate(fields)


def _broken(template: ChangeTemplate, facts: Any = None, **given: Any) -> list[str]:
    asked: dict[str, Any] = {"kind": "retraining", "subject": MODEL, "now": NOW, "n_today": 0}
    asked |= given
    return template.broken(asked.pop("kind"), asked.pop("subject"), facts or {}, **asked)


@pytest.mark.parametrize(
    ("template", "asked", "told"),
    [
        ({"enabled": False}, {}, "not enabled"),
        ({"ends_at": NOW}, {}, "it ended"),
        ({}, {"kind": "policy"}, "permits changes of the kind 'retraining', not 'policy'"),
        ({}, {"subject": AssetRef("model", "salary")}, "not for model:salary"),
        ({"most_per_day": 2}, {"n_today": 2}, "used 2 times"),
    ],
)
def test_a_template_says_why_a_change_is_outside(
    template: dict[str, Any], asked: dict[str, Any], told: str
) -> None:
    (why,) = _broken(_template(**template), **asked)
    assert told in why


def test_a_change_inside_all_bounds_is_inside() -> None:
    template = _template(
        ends_at=NOW + timedelta(days=1),
        most_per_day=2,
        bounds=(Bound(fact="evidence.auc", at_least=0.7), Bound(fact="payload.to", one_of=("b",))),
    )
    assert _broken(template, {"evidence": {"auc": 0.7}, "payload": {"to": "b"}}, n_today=1) == []


@pytest.mark.parametrize("value", [None, "0.9", True, float("nan"), [1], {}])
def test_what_is_no_number_is_outside_of_a_numeric_bound(value: object) -> None:
    assert Bound(fact="evidence.auc", at_most=10.0).broken({"evidence": {"auc": value}})


def test_a_fact_that_is_not_told_is_outside() -> None:
    bound = Bound(fact="evidence.test.auc", at_least=0)
    for facts in ({}, {"evidence": {}}, {"evidence": {"test": 3}}, {"evidence": {"test": {}}}):
        assert bound.broken(facts) == "evidence.test.auc is not told"


def test_true_is_not_one() -> None:
    assert Bound(fact="payload.n", one_of=(1,)).broken({"payload": {"n": True}})


@given(st.floats(), st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_a_number_is_inside_exactly_between_its_bounds(x: float, a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    told = Bound(fact="evidence.x", at_least=low, at_most=high).broken({"evidence": {"x": x}})
    assert (told == "") is (low <= x <= high)


@pytest.mark.parametrize(
    "malformed",
    [
        {"fact": "evidence.x"},
        {"fact": "x", "at_most": 1},
        {"fact": "evidence.x", "at_least": 2, "at_most": 1},
    ],
)
def test_a_bound_that_bounds_nothing_is_refused(malformed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Bound.model_validate(malformed)
