from __future__ import annotations

import json
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.errors import Unavailable
from falaj.kernel.outbox import Subscription
from falaj.operations.adapters.notifier_log import LogNotifier
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incidents import Incidents
from falaj.operations.model import Notification, Severity
from falaj.operations.notifications import SUBSCRIBER, Notifications
from falaj.testing.fakes import MemoryNotifier

ENDPOINT = AssetRef("endpoint", "flight-delay")
catalog = Catalog()
alerts = Alerts(catalog, Incidents(catalog))
changes = Changes(catalog, {"promotion": lambda call, change: None})


@pytest.fixture
def told(database: Database, make_call: Any) -> Database:
    """A database in which a critical alert was raised and a change asked for."""
    with make_call(database, "user:omar") as call:
        catalog.record(call, ENDPOINT, owner="team:delays")
        alerts.raise_alert(call, name="drift", subject=ENDPOINT, severity=Severity.CRITICAL,
                           message="PSI 0.4", evidence={})  # fmt: skip
        changes.open(call, kind="promotion", subject=ENDPOINT, title="Promote", reason="Better",
                     evidence={}, payload={})  # fmt: skip
    return database


def _subscription(database: Database, *notifiers: Any) -> Subscription:
    return Subscription(database, SUBSCRIBER, Notifications(catalog, notifiers).handle)


def test_people_hear_of_it_after_the_commit_and_once(told: Database) -> None:
    notifier = MemoryNotifier()
    subscription = _subscription(told, notifier)
    assert subscription.deliver() > 0
    assert subscription.deliver() == 0
    sent: list[Notification] = notifier.sent
    assert [message.topic for message in sent] == [
        "alert.raised", "incident.opened", "change.opened",
    ]  # fmt: skip
    assert [message.severity for message in sent] == [
        Severity.CRITICAL, Severity.CRITICAL, Severity.INFO,
    ]  # fmt: skip
    assert sent[0].recipients == ("team:delays",)
    assert sent[2].recipients == ("user:omar", "team:delays")
    assert (sent[0].title, sent[0].subject) == ("PSI 0.4", ENDPOINT)


class _Flaky(MemoryNotifier):
    def __init__(self) -> None:
        super().__init__()
        self.down = True

    def notify(self, message: Notification) -> None:
        if self.down:
            raise Unavailable("The channel does not answer.")
        super().notify(message)


def test_a_channel_that_fails_hears_of_it_later(told: Database) -> None:
    flaky, steady = _Flaky(), MemoryNotifier()
    subscription = _subscription(told, steady, flaky)
    with pytest.raises(Unavailable):
        subscription.deliver()
    flaky.down = False
    subscription.deliver()
    assert [message.topic for message in flaky.sent] == [
        "alert.raised", "incident.opened", "change.opened",
    ]  # fmt: skip
    repeated, again, *_ = steady.sent
    assert repeated.id == again.id


def test_a_less_pressing_incident_is_a_warning(database: Database, make_call: Any) -> None:
    lonely = AssetRef("table", "lonely")
    with make_call(database) as call:
        catalog.record(call, lonely)
        alerts.raise_alert(call, name="empty", subject=lonely, severity=Severity.CRITICAL,
                           message="No rows", evidence={})  # fmt: skip
    notifier = MemoryNotifier()
    _subscription(database, notifier).deliver()
    (incident,) = (one for one in notifier.sent if one.topic == "incident.opened")
    assert incident.severity is Severity.WARNING


@pytest.mark.parametrize(
    ("severity", "level"),
    [(Severity.INFO, "info"), (Severity.WARNING, "warning"), (Severity.CRITICAL, "error")],
)
def test_the_log_has_a_line_for_each_notification(
    told: Database, severity: Severity, level: str
) -> None:
    structlog.reset_defaults()
    notifier = MemoryNotifier()
    _subscription(told, notifier).deliver()
    message = notifier.sent[0].model_copy(update={"severity": severity})
    with capture_logs() as lines:
        LogNotifier().notify(message)
    (line,) = lines
    assert line["log_level"] == level
    assert line["event"] == "PSI 0.4"
    assert line["subject"] == "endpoint:flight-delay"
    json.dumps(line)
