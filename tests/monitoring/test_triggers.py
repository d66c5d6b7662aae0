"""Facts that a retraining may begin for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from falaj.declare import NewestRows, OnLabels, Retraining
from falaj.kernel.database import Database
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.monitoring.triggers import Triggers
from falaj.testing.world import training_spec

NOW = datetime(2026, 11, 9, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[DuckLake]:
    made = DuckLake.in_folder(tmp_path, threads=1)
    made.append("outcomes", labels(["a", "b", "c"], [True, False, None]))
    yield made
    made.close()


def labels(keys: list[str], late: list[bool | None]) -> pa.Table:
    return pa.table({"flight": keys, "late": pa.array(late, pa.bool_())})


def test_a_correction_is_no_new_label(sqlite_database: Database, lake: DuckLake) -> None:
    before = lake.latest()
    alerts: Any = None  # no trigger of this retraining asks for one
    triggers = Triggers(
        alerts, lambda _connection, _endpoint: None, lambda _connection, _model: ("set_1", before),
        lambda _connection, _principal, _table: True, lambda: lake,
    )  # fmt: skip
    declared = Retraining.model_validate(
        {
            "name": "again", "endpoint": "delays", "model": "late",
            "training": {"model": "late", "spec": training_spec()},
            "newest": NewestRows.model_validate({"test": "P1D", "validation": "P1D"}),
            "triggers": [OnLabels(table="outcomes", label="late", key="flight", n=2)],
        }
    )  # fmt: skip

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
