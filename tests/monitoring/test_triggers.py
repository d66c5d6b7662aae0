"""Facts that a retraining may begin for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from falaj.catalog.assets import Catalog
from falaj.declare import NewestRows, OnFinding, OnLabels, Retraining
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.triggers import Triggers
from falaj.operations import tables
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.operations.model import Severity
from falaj.testing.calls import opened_call
from falaj.testing.world import training_spec

NOW = datetime(2026, 11, 9, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[DuckLake]:
    made = DuckLake.in_folder(tmp_path, threads=1)
    made.append("outcomes", labels(["a", "b", "c"], [True, False, None]))
    yield made
    made.close()


def again(trigger: OnFinding | OnLabels) -> Retraining:
    return Retraining.model_validate(
        {
            "name": "again", "endpoint": "delays", "model": "late",
            "training": {"model": "late", "spec": training_spec()},
            "newest": NewestRows.model_validate({"test": "P1D", "validation": "P1D"}),
            "triggers": [trigger],
        }
    )  # fmt: skip


def labels(keys: list[str], late: list[bool | None]) -> pa.Table:
    return pa.table({"flight": keys, "late": pa.array(late, pa.bool_())})


def test_a_finding_is_found_among_a_thousand_newer_alerts(sqlite_database: Database) -> None:
    catalog, subject = Catalog(), AssetRef("endpoint", "delays")
    alerts = Alerts(catalog, Incidents(catalog))
    with opened_call(sqlite_database, now=NOW) as call:
        catalog.record(call, subject)
        raised = alerts.raise_alert(
            call, name="watch:drift-wind", subject=subject, severity=Severity.WARNING,
            message="wind has drifted", evidence={},
        )  # fmt: skip
        newer = {
            "name": "watch:drift-wind", "subject_kind": "endpoint", "subject_key": "elsewhere",
            "severity": "warning", "message": "m", "evidence": {}, "state": "open", "n_seen": 1,
            "raised_at": NOW + timedelta(seconds=1), "last_seen_at": NOW, "resolution": "",
        }  # fmt: skip
        rows = [{**newer, "id": f"alert_z{place}"} for place in range(1000)]
        call.connection.execute(tables.alerts.insert(), rows)
    lake: Any = None  # no trigger of this retraining reads labels
    triggers = Triggers(
        alerts, lambda _connection, _endpoint: (3, NOW - timedelta(days=1)),
        lambda _connection, _model: None, lambda _connection, _principal, _table: True, lake,
    )  # fmt: skip
    declared = again(OnFinding(monitor="watch"))
    with sqlite_database.reading() as connection:
        (cause,) = triggers.causes(connection, declared, "user:amina", NOW, NOW)
    assert cause.alerts == (raised.id,)


def test_a_correction_is_no_new_label(sqlite_database: Database, lake: DuckLake) -> None:
    before = lake.latest()
    alerts: Any = None  # no trigger of this retraining asks for one
    triggers = Triggers(
        alerts, lambda _connection, _endpoint: None, lambda _connection, _model: ("set_1", before),
        lambda _connection, _principal, _table: True, lambda: lake,
    )  # fmt: skip
    declared = again(OnLabels(table="outcomes", label="late", key="flight", n=2))

    def found() -> list[str]:
        with sqlite_database.reading() as connection:
            causes = triggers.causes(connection, declared, "user:amina", NOW, NOW)
        return [one.text for one in causes]

    for _ in range(3):
        lake.append("outcomes", labels(["a", "b"], [False, True]))
    lake.append("outcomes", labels(["c"], [True]))
    assert found() == []
    lake.append("outcomes", labels(["d", "e"], [True, None]))
    assert found() == ["2 labels came into outcomes since set_1 was made."]
