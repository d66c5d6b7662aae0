from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.serving.logalarm import UnloggedAlarm
from falaj.testing.calls import opened_call


class Calls:
    """Opens plain transactions on a test's database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @contextmanager
    def opened(self, action: str, principal_id: str, *, resource: str) -> Any:
        with opened_call(self.database, principal_id) as call:
            yield call


@pytest.fixture
def world(database: Database) -> tuple[Alerts, Calls, dict[str, int]]:
    catalog = Catalog()
    with opened_call(database) as call:
        for name in ("delays", "fraud"):
            catalog.record(call, AssetRef("endpoint", name))
    return Alerts(catalog, Incidents(catalog)), Calls(database), {"delays": 5, "fraud": 0}


def test_rows_that_the_full_log_did_not_take_raise_an_alert_about_their_endpoint(
    world: tuple[Alerts, Calls, dict[str, int]],
) -> None:
    alerts, calls, unlogged = world
    alarm = UnloggedAlarm(lambda: list(unlogged), lambda name: unlogged[name], alerts, calls)  # type: ignore[arg-type]
    assert alarm.run_once() == []  # what was lost before it looked was told by another
    unlogged["delays"] += 37
    assert alarm.run_once() == ["delays"]
    assert alarm.run_once() == []
    with calls.database.reading() as connection:
        (alert,) = alerts.listed(connection)
    assert "37 predictions of delays" in alert.message
