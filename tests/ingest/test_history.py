"""What is remembered of checks stays bounded, and what is asked of it stays known."""

from __future__ import annotations

from collections import Counter

import pytest
from sqlalchemy import select

from falaj.ingest import history
from falaj.ingest.model import CheckResult
from falaj.ingest.tables import contract_results
from falaj.kernel.database import Database
from falaj.testing.calls import opened_call


def result(check: str, *, passed: bool) -> CheckResult:
    return CheckResult(
        contract="orders", check=check, severity="fail", n_rows=9, n_violations=0 if passed else 9,
        share=0.0 if passed else 1.0, passed=passed, measured="", examples=[],
    )  # fmt: skip


def test_old_results_are_forgotten_but_not_that_a_check_once_passed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "RESULTS_KEPT", 5)
    monkeypatch.setattr(history, "_SELDOM", 4)
    for n in range(40):
        told = [result("once", passed=n < 3), result("never", passed=False)]
        with opened_call(database) as call:
            history.record_results(call, f"load_{n}", "orders", told)
    with database.reading() as connection:
        rows = connection.execute(select(contract_results)).all()
    n_of = Counter(row.check for row in rows)
    assert 5 <= n_of["never"] <= 9
    assert 6 <= n_of["once"] <= 10
    passed = [row.load for row in rows if row.passed]
    assert passed == ["load_2"]
    newest = [row.load for row in sorted(rows, key=lambda row: row.id)][-2:]
    assert newest == ["load_39", "load_39"]
