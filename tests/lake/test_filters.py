"""Conditions that decide which rows are seen."""

import pyarrow as pa
import pytest

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.errors import InvalidInput
from falaj.lake.filters import check_fits, condition

AMINA = Caller(Principal("user:amina", PrincipalKind.USER, ("viewer",)), purpose="care")
SCHEMA = pa.schema([("branch", pa.string()), ("pay", pa.float64())])


def test_a_condition_tells_its_columns_and_what_it_says_of_the_caller():
    found = condition("Branch = $principal_name AND pay < 10")
    assert found.columns == {"branch", "pay"}
    assert found.bound(AMINA) == {"principal_name": "amina"}
    roles = condition("list_contains($principal_roles, branch) OR $purpose = 'audit'")
    assert roles.bound(AMINA) == {"principal_roles": ["viewer"], "purpose": "care"}


@pytest.mark.parametrize(
    "text",
    [
        "branch IN (SELECT name FROM secrets)",
        "EXISTS (SELECT 1)",
        "true) OR (true",
        "true) UNION SELECT * FROM secrets WHERE (true",
        "true) ORDER BY (branch",
        "true) LIMIT (1",
        "true); DROP TABLE people; SELECT (1",
        "getenv('HOME') = '/'",
        "branch = $nobody_knows",
        "branch = ?",
        "row_number() OVER () < 3",
        "COLUMNS(*) = 'a'",
        "rows_to_filter IS NOT NULL",
        "branch =",
    ],
)
def test_a_text_that_is_more_or_less_than_a_condition_is_refused(text):
    with pytest.raises(InvalidInput):
        condition(text)


@pytest.mark.parametrize("text", ["city = 'x'", "pay + branch > 1", "people.branch = 'x'"])
def test_a_condition_that_cannot_be_asked_of_a_table_is_refused_when_it_is_planned(text):
    with pytest.raises(InvalidInput):
        check_fits(text, "people", SCHEMA)


def test_a_condition_that_fits_a_table_passes():
    check_fits("branch = $principal_id AND pay >= 1", "people", SCHEMA)
    check_fits("list_contains($principal_roles, branch) -- theirs", "people", SCHEMA)
