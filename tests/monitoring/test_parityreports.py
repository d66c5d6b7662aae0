"""Parity stands among the reports of the endpoints that a service feeds."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from falaj.features import parity_records
from falaj.features.answers import Mismatch, ParityReport
from falaj.kernel.database import Database
from falaj.monitoring import tables
from falaj.monitoring.parityreports import ParityReports
from falaj.monitoring.tables import reports
from falaj.testing.calls import opened_call

FEEDS = {"late": "delays", "early": "delays", "other": "others", "idle": None}


class Releases:
    """Tells what each endpoint serves from."""

    def listed(self, _connection: Any) -> list[Any]:
        return [SimpleNamespace(name=name) for name in FEEDS]

    def active(self, _connection: Any, name: str) -> Any:
        return FEEDS[name] and SimpleNamespace(feature_service=FEEDS[name])


def report(n_mismatches: int = 0) -> ParityReport:
    row = Mismatch(row=0, feature="delay", online=1.0, offline=2.0, keys={"person": "amina"})
    return ParityReport(
        service="delays", snapshot=1, n_rows=10, n_values=100, n_mismatches=n_mismatches,
        by_feature={"delay": n_mismatches} if n_mismatches else {}, examples=[row],
    )  # fmt: skip


def checked(database: Database, found: ParityReport) -> list[str]:
    with opened_call(database) as call:
        parity = parity_records.keep(call, found)
        return ParityReports(Releases()).keep(call, found, parity)  # type: ignore[arg-type]


def kept(database: Database) -> Iterator[Any]:
    with database.reading() as connection:
        yield from connection.execute(reports.select().order_by(reports.c.id)).all()


def test_each_endpoint_that_a_service_feeds_gets_a_report_without_values_of_rows(
    sqlite_database: Database,
) -> None:
    checked(sqlite_database, report(3))
    rows = list(kept(sqlite_database))
    assert [(row.endpoint, row.kind) for row in rows] == [("late", "parity"), ("early", "parity")]
    assert rows[0].document["share"] == 0.03
    assert "amina" not in str(rows[0].document)


def test_a_report_tells_the_trend_up_to_itself(sqlite_database: Database) -> None:
    for n in (0, 5, 10):
        checked(sqlite_database, report(n))
    last = list(kept(sqlite_database))[-1]
    assert [one["share"] for one in last.document["trend"]] == [0.0, 0.05, 0.1]


def test_the_oldest_reports_go_and_those_of_other_kinds_stay(
    sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "REPORTS_KEPT", 2)
    checked(sqlite_database, report())
    with sqlite_database.transaction() as connection:
        connection.execute(reports.update().values(kind="drift"))
    ids = [checked(sqlite_database, report())[0] for _ in range(4)]
    late = [row for row in kept(sqlite_database) if row.endpoint == "late"]
    assert [row.id for row in late if row.kind == "parity"] == ids[-2:]
    assert [row.kind for row in late].count("drift") == 1
