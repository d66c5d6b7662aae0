"""A process that tells receivers of alerts is killed (SIGKILL) at each point where it matters."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.outbox import Outbox
from falaj.operations.alerting_sending import AlertDeliveries
from falaj.operations.alerts import Alerts
from falaj.operations.incidents import Incidents
from falaj.operations.model import Severity
from falaj.operations.routing import AlertReceiver, AlertRoute
from falaj.testing.fakes import MemoryAudit

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
_PROCESS = """
import os, signal, sys
from datetime import datetime

from sqlalchemy import make_url

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.outbox import Outbox
from falaj.operations.alerting_sending import ToReceivers
from falaj.operations.alerts import Alerts
from falaj.operations.dispatcher import Dispatcher
from falaj.operations.incidents import Incidents
from falaj.operations.routing import AlertReceiver, AlertRoute
from falaj.operations.sending import Sender
from falaj.operations.silences import Silences
from falaj.testing.fakes import MemoryAudit

url, at, out, dies = sys.argv[1:]

def die_at(point):
    if point == dies:
        os.kill(os.getpid(), signal.SIGKILL)

class Channel:
    def tell(self, message):
        die_at("claimed")
        with open(out, "a") as told:
            told.write(message.id + "\\n")
        die_at("sent")

def address():
    die_at("deciding")
    return ""

database, catalog = Database(make_url(url)), Catalog()
definitions = Definitions(catalog, {one.kind: one for one in (AlertReceiver, AlertRoute)}, {})
calls = Calls(database, MemoryAudit(), Outbox(), SetClock(datetime.fromisoformat(at)))
alerts = Alerts(catalog, Incidents(catalog))
Dispatcher(definitions, alerts, Silences(catalog), catalog, calls, address).run_once()
die_at("decided")
messages = ToReceivers(definitions, lambda _one: Channel(), calls, alerts)
Sender(messages, calls, 3).run_once()
"""


def _raise_an_alert(database: Database) -> None:
    catalog = Catalog()
    kinds = {one.kind: one for one in (AlertReceiver, AlertRoute)}
    calls = Calls(database, MemoryAudit(), Outbox(), SetClock(AT))
    alerts, subject = Alerts(catalog, Incidents(catalog)), AssetRef("model", "late")
    with calls.opened("test", "user:amina") as call:
        catalog.record(call, subject)
        crew = AlertReceiver(name="crew", channel="slack")
        route = AlertRoute(name="all", receiver="crew", group_wait_seconds=0)
        Definitions(catalog, kinds, {}).apply(call, [crew, route])
        alerts.raise_alert(
            call, name="drift", subject=subject, severity=Severity.WARNING,
            message="It drifts", evidence={},
        )  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("point", "at_once", "n_told"),
    [("deciding", 1, 1), ("decided", 1, 1), ("claimed", 0, 1), ("sent", 1, 2)],
)
def test_whoever_is_killed_is_followed_by_another_that_tells_it(
    database: Database, tmp_path: Path, point: str, at_once: int, n_told: int
) -> None:
    """Twice at most, under one id, and only if it had been told when the process was killed.

    ``at_once`` is how often it was told once a second process has looked, ``n_told`` after the
    time for which the first one's claim holds.
    """
    _raise_an_alert(database)
    out = tmp_path / "told"
    out.touch()

    def process(later: timedelta, dies: str = "") -> int:
        url = database.url.render_as_string(hide_password=False)
        at = (AT + later).isoformat()
        command = [sys.executable, "-c", _PROCESS, url, at, str(out), dies]
        return subprocess.run(command, timeout=60).returncode

    assert process(timedelta(seconds=1), point) == -signal.SIGKILL
    assert process(timedelta(seconds=2)) == 0
    assert len(out.read_text().split()) == at_once
    assert process(timedelta(minutes=7)) == 0
    told = out.read_text().split()
    assert (len(told), len(set(told))) == (n_told, 1)
    with database.reading() as connection:
        (delivery,) = AlertDeliveries().listed(connection)
    assert (delivery.id, delivery.state) == (told[0], "delivered")
    assert process(timedelta(minutes=8)) == 0
    assert out.read_text().split() == told
