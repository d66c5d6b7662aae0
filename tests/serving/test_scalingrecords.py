from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from falaj.kernel.calls import Calls
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.outbox import Outbox
from falaj.serving import scalingtable
from falaj.serving.scalingrecords import ScalingRecord, ScalingRecords
from falaj.testing.fakes import MemoryAudit


def record(after: int = 2) -> ScalingRecord:
    return ScalingRecord(
        pool="local", at=datetime.now(UTC), before=1, after=after, reason="70 % busy",
        utilisation=[0.7], queue_p90_ms=3.5, queue_p99_ms=9.0, inside=4, shed=0,
    )  # fmt: skip


@pytest.fixture
def records(tmp_path: Path) -> ScalingRecords:
    return ScalingRecords(tmp_path / "scaling")


def test_a_decision_reaches_the_database_once_with_an_audit_record(
    records: ScalingRecords, sqlite_database: Database
) -> None:
    audit = MemoryAudit()
    calls = Calls(sqlite_database, audit, Outbox(), SystemClock())
    first, second = record(2), record(3)
    records.keep(first)
    records.keep(second)
    assert scalingtable.bring_in(records, calls) == 2
    records.keep(first)  # its file outlived the commit: a crash came in between
    assert scalingtable.bring_in(records, calls) == 1
    assert scalingtable.bring_in(records, calls) == 0
    with sqlite_database.reading() as connection:
        assert scalingtable.history(connection, limit=10) == [second, first]
        assert scalingtable.history(connection, limit=1) == [second]
    assert [entry.action for entry in audit.entries][:2] == ["endpoints.scale"] * 2
    afters = [entry.arguments["after"] for entry in audit.entries[:2]]
    assert sorted(afters) == [2, 3]  # records of one millisecond are told in any order


def test_a_record_that_cannot_be_read_is_put_aside_and_holds_up_no_other(
    records: ScalingRecords, tmp_path: Path
) -> None:
    (tmp_path / "scaling" / "scaling_0.json").write_text('{"pool"')
    kept = record()
    records.keep(kept)
    assert list(records.waiting()) == [kept]
    assert (tmp_path / "scaling" / "scaling_0.unreadable").exists()
    records.done(kept)
    assert list(records.waiting()) == []
