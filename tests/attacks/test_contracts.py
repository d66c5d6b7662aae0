"""Contracts as a way to rows: their SQL, and what a foreign key tells of another table."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from falaj.kernel.errors import Forbidden, InvalidInput
from falaj.lake.sight import SeenInPart
from falaj.trust.audit_tables import audit_records

COLUMNS = {"id": "integer", "name": "text", "seen_at": "instant"}
ROW = "{},{},2026-01-01T00:00:00Z\n"


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": "source", "name": name, "table": name, "path": f"{name}.csv",
            "columns": COLUMNS, "mode": "replace", **more}  # fmt: skip


def contract(name: str, table: str, *checks: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "contract", "name": name, "table": table, "checks": list(checks)}


def known_in(table: str) -> dict[str, Any]:
    return {"check": "foreign_key", "column": "name", "table": table, "to_column": "name",
            "severity": "warn"}  # fmt: skip


@pytest.fixture(scope="module")
def wards(site: Any) -> Any:
    """Tables that everybody may read, but for the names in one; and one that is personal."""
    engineer = site.caller("ml_engineer", name="ida")
    said: dict[str, dict[str, Any]] = {
        "guesses": {},
        "wards": {},
        "nurses": {"classifications": {"name": "personal"}},
        "patients": {"classification": "personal"},
    }
    for name, more in said.items():
        text = "id,name,seen_at\n" + ROW.format(1, "zaynab") + ROW.format(2, "yusuf")
        (site.folder / f"{name}.csv").write_text(text, encoding="utf-8")
        site.ask(engineer, "definitions.apply", documents=[source(name, **more)])
        site.ask(engineer, "sources.load", source=name)
    site.run_jobs()
    return site


def refusals(site: Any, action: str) -> int:
    query = select(func.count()).where(
        audit_records.c.action == action, audit_records.c.outcome != "ok"
    )
    with site.premises.database.reading() as connection:
        return int(connection.execute(query).scalar_one())


def engineer(site: Any, **more: Any) -> Any:
    return site.caller("ml_engineer", name="ida", **more)


def cleared(site: Any) -> Any:
    return engineer(site, factor=True, purpose="care")


@pytest.mark.parametrize(
    "sql",
    [
        "true), true)) FROM _rows; UPDATE _rows SET id = 0; SELECT ((true",
        "name IN (SELECT name FROM patients)",
        "CASE WHEN id > 0 THEN error(name) END",
    ],
)
def test_a_condition_that_is_more_than_one_is_not_even_planned(wards: Any, sql: str) -> None:
    document = contract("own-sql", "wards", {"check": "expression", "sql": sql})
    before = refusals(wards, "definitions.apply")
    for action in ("definitions.plan", "definitions.apply"):
        with pytest.raises(InvalidInput, match="condition"):
            wards.ask(cleared(wards), action, documents=[document])
    assert refusals(wards, "definitions.apply") == before + 1


def test_a_derived_column_that_is_more_than_one_is_not_even_planned(wards: Any) -> None:
    document = source("wards", derived={"d": "1) AS d FROM _typed; SELECT (1"})
    with pytest.raises(InvalidInput, match="derived column 'd'"):
        wards.ask(cleared(wards), "definitions.plan", documents=[document])


@pytest.mark.parametrize(
    ("table", "refused"), [("patients", Forbidden), ("nurses", SeenInPart)], ids=["table", "column"]
)
def test_names_are_not_guessed_by_a_foreign_key(wards: Any, table: str, refused: type) -> None:
    """Neither by who writes the contract, nor by who has it asked once another has."""
    document = contract(f"guess-{table}", "guesses", known_in(table))
    before = refusals(wards, "definitions.apply")
    with pytest.raises(refused):
        wards.ask(engineer(wards), "definitions.apply", documents=[document])
    assert refusals(wards, "definitions.apply") == before + 1
    wards.ask(cleared(wards), "definitions.apply", documents=[document])
    with pytest.raises(refused):
        wards.ask(engineer(wards), "contracts.check", contract=f"guess-{table}")
    for action in ("sources.load", "sources.check"):
        with pytest.raises(refused):
            wards.ask(engineer(wards), action, source="guesses")
    job = wards.ask(cleared(wards), "contracts.check", contract=f"guess-{table}")
    wards.run_jobs()
    done = wards.ask(cleared(wards), "jobs.get", job_id=job.id)
    assert done.result["passed"]
    harmless = contract(f"guess-{table}", "guesses", {"check": "not_null", "column": "name"})
    wards.ask(engineer(wards), "definitions.apply", documents=[harmless])


def test_a_foreign_key_to_what_everybody_may_read_asks_for_nothing_more(wards: Any) -> None:
    document = contract("in-wards", "guesses", known_in("wards"))
    wards.ask(engineer(wards), "definitions.apply", documents=[document])
    wards.ask(engineer(wards), "contracts.check", contract="in-wards")
    wards.run_jobs()


@pytest.mark.parametrize(
    ("table", "refused"), [("patients", Forbidden), ("nurses", SeenInPart)], ids=["table", "column"]
)
@pytest.mark.parametrize(
    "check",
    [
        {"check": "in_set", "column": "name", "values": ["zaynab"]},
        {"check": "expression", "sql": "name <> 'zaynab'"},
        {"check": "expression", "sql": "CAST(r AS VARCHAR) NOT LIKE '%zaynab%'"},
    ],
    ids=["set", "condition", "whole row"],
)
def test_values_of_persons_are_bounded_by_those_only_who_may_read_them(
    wards: Any, table: str, refused: type, check: dict[str, Any]
) -> None:
    """How many rows break a bound tells whether somebody is there."""
    with pytest.raises(refused):
        wards.ask(
            engineer(wards), "definitions.apply", documents=[contract("is-there", table, check)]
        )


def test_a_personal_table_is_held_to_its_contract_without_a_purpose(wards: Any) -> None:
    """As by a schedule: numbers of rows are told, and no value."""
    names = {"check": "in_set", "column": "name", "values": ["nobody"]}
    document = contract("of-patients", "patients", names)
    wards.ask(cleared(wards), "definitions.apply", documents=[document])
    job = wards.ask(engineer(wards), "contracts.check", contract="of-patients")
    wards.run_jobs()
    (result,) = wards.ask(engineer(wards), "jobs.get", job_id=job.id).result["results"]
    assert result["n_violations"] == 2
    assert all(example["values"] is None for example in result["examples"])


def test_checks_that_bound_no_value_of_a_person_are_applied_without_a_purpose(wards: Any) -> None:
    checks = {"check": "not_null", "column": "name"}, {"check": "unique", "columns": ["id"]}
    wards.ask(
        engineer(wards), "definitions.apply", documents=[contract("whole", "patients", *checks)]
    )
