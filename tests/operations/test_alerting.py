"""From an alert to its receivers: routes, silences and deliveries over a database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, InvalidInput, NotFound, Unavailable
from falaj.kernel.outbox import Outbox
from falaj.operations.alerting_model import MOST_TOLD, GroupMessage
from falaj.operations.alerting_sending import ALERT, WAITS, AlertDeliveries, ToReceivers
from falaj.operations.alerts import Alerts
from falaj.operations.dispatcher import Dispatcher
from falaj.operations.ended_deliveries import EndedDeliveries
from falaj.operations.incidents import Incidents
from falaj.operations.model import DeliveryState, Severity
from falaj.operations.routing import AlertReceiver, AlertRoute, Matcher
from falaj.operations.sending import Sender
from falaj.operations.silences import Silences
from falaj.testing.fakes import MemoryAudit

AT = datetime(2026, 11, 30, 12, tzinfo=UTC)
MODEL = AssetRef("model", "late")
OF_MODEL = Matcher(label="subject", value="model:late")


class Channel:
    """A channel that remembers, and fails while it is down."""

    def __init__(self) -> None:
        self.told: list[GroupMessage] = []
        self.down = False

    def tell(self, message: GroupMessage) -> None:
        if self.down:
            raise Unavailable("The channel does not answer.")
        self.told.append(message)

    def check(self) -> None: ...


class Office:
    """Everything from an alert to a channel."""

    def __init__(self, database: Database) -> None:
        self.clock, self.channel = SetClock(AT), Channel()
        self.catalog, self.deliveries = Catalog(), AlertDeliveries()
        kinds: Any = {one.kind: one for one in (AlertReceiver, AlertRoute)}
        self.definitions = Definitions(self.catalog, kinds, {})
        self.calls = Calls(database, MemoryAudit(), Outbox(), self.clock)
        self.alerts = Alerts(self.catalog, Incidents(self.catalog))
        self.silences = Silences(self.catalog)
        self.dispatcher = Dispatcher(
            self.definitions, self.alerts, self.silences, self.catalog, self.calls,
            lambda: "https://falaj.example.ae",
        )  # fmt: skip
        messages = ToReceivers(self.definitions, lambda _one: self.channel, self.calls, self.alerts)
        self.sender = Sender(messages, self.calls, 3, WAITS)

    @contextmanager
    def call(self, who: str = "user:amina") -> Iterator[Call]:
        with self.calls.opened("test", who) as call:
            yield call

    def declare(self, **route: Any) -> None:
        crew = AlertReceiver(
            name="crew", channel="slack", send_resolved=route.pop("resolved", True)
        )
        given = {"name": "models", "receiver": "crew", "group_wait_seconds": 0, **route}
        with self.call() as call:
            self.catalog.record(call, MODEL)
            self.catalog.describe(call, MODEL, tags=("gold",), region="ae")
            self.definitions.apply(call, [crew, AlertRoute.model_validate(given)])

    def alarm(self, name: str = "drift", severity: Severity = Severity.WARNING) -> str:
        with self.call() as call:
            return self.alerts.raise_alert(
                call, name=name, subject=MODEL, severity=severity, message=f"{name} is bad",
                evidence={},
            ).id  # fmt: skip

    def resolve(self, alert: str) -> None:
        with self.call() as call:
            self.alerts.resolve(call, alert, "Mended")

    def turn(self, **later: float) -> None:
        self.clock.move(timedelta(**later))
        self.dispatcher.run_once()
        while self.sender.run_once():
            pass

    def states(self) -> list[str]:
        with self.calls.database.reading() as connection:
            return [one.state for one in self.deliveries.listed(connection)]


@pytest.fixture
def office(database: Database) -> Office:
    return Office(database)


def test_an_alert_reaches_the_receiver_of_its_route_and_so_does_its_end(office: Office) -> None:
    office.declare(matchers=({"label": "tag_gold", "value": "true"},), group_by=("region",))
    alert = office.alarm()
    office.turn()
    office.turn(seconds=1)
    (told,) = office.channel.told
    assert (told.status, told.labels, told.receiver) == ("firing", {"region": "ae"}, "crew")
    assert (told.alerts[0].id, told.alerts[0].message) == (alert, "drift is bad")
    assert told.address == "https://falaj.example.ae"
    office.resolve(alert)
    office.turn(minutes=6)
    assert [one.status for one in office.channel.told] == ["firing", "resolved"]
    assert office.channel.told[1].group == told.group
    assert office.channel.told[1].alerts[0].resolved_at is not None
    assert office.channel.told[1].alerts[0].message == "It is over. Before: drift is bad"


def test_an_alert_that_no_route_takes_is_told_to_nobody(office: Office) -> None:
    office.declare(matchers=({"label": "severity", "value": "critical"},))
    office.alarm()
    office.turn(minutes=10)
    assert office.channel.told == []


def test_a_receiver_that_wants_no_ends_is_told_none(office: Office) -> None:
    office.declare(resolved=False)
    alert = office.alarm()
    office.turn()
    office.resolve(alert)
    office.turn(minutes=6)
    assert [one.status for one in office.channel.told] == ["firing"]


@pytest.mark.parametrize(("resolved", "told"), [(True, ["firing", "firing"]), (False, ["firing"])])
def test_an_end_is_told_though_what_is_left_of_the_group_is_acknowledged(
    office: Office, resolved: bool, told: list[str]
) -> None:
    office.declare(resolved=resolved, group_by=("subject",))
    over, looked_after = office.alarm("drift"), office.alarm("skew")
    office.turn()
    with office.call() as call:
        office.alerts.acknowledge(call, looked_after)
    office.resolve(over)
    office.turn(minutes=6)
    assert [one.status for one in office.channel.told] == told
    ended = [one.id for one in office.channel.told[-1].alerts if one.resolved_at]
    assert ended == ([over] if resolved else [])


def test_a_silence_keeps_quiet_until_it_ends_or_is_ended(office: Office) -> None:
    office.declare()
    with office.call() as call:
        silence = office.silences.add(
            call, [OF_MODEL], starts_at=None, ends_at=AT + timedelta(hours=2), reason="Upgrade"
        )
    office.alarm()
    office.turn(hours=1)
    assert office.channel.told == []
    with office.call("user:omar") as call:
        ended = office.silences.expire(call, silence.id)
        assert (ended.expired_by, ended.active(call.now)) == ("user:omar", False)
    office.turn(seconds=1)
    assert len(office.channel.told) == 1
    with pytest.raises(Conflict, match="ended"), office.call() as call:
        office.silences.expire(call, silence.id)


@pytest.mark.parametrize(
    ("matchers", "hours", "told"),
    [
        ([], 1, "every alert"),
        ([Matcher(label="alertname", op="=~", value=".*")], 1, "every alert"),
        ([OF_MODEL], 0, "would last"),
        ([OF_MODEL], -5, "would last"),
        ([OF_MODEL], 24 * 91, "would last"),
    ],
)
def test_a_silence_of_everything_or_for_ever_is_refused(
    office: Office, matchers: list[Matcher], hours: int, told: str
) -> None:
    with pytest.raises(InvalidInput, match=told), office.call() as call:
        office.silences.add(
            call, matchers, starts_at=None, ends_at=AT + timedelta(hours=hours), reason="Quiet"
        )


def test_a_channel_that_is_down_is_tried_again_and_told_in_order(office: Office) -> None:
    office.declare(group_interval_seconds=1)
    alert = office.alarm()
    office.channel.down = True
    office.turn()
    office.resolve(alert)
    office.turn(seconds=2)
    assert office.states() == ["waiting", "waiting"]
    office.channel.down = False
    office.turn(seconds=2)
    assert office.channel.told == [], "the end does not overtake what it ends"
    office.turn(seconds=2)
    assert [one.status for one in office.channel.told] == ["firing", "resolved"]
    assert office.states() == ["delivered", "delivered"]


def test_a_message_whose_sender_died_is_sent_again_with_the_same_id(office: Office) -> None:
    class Died(BaseException):
        """What a kill looks like from inside: nothing is recorded any more."""

    office.declare()
    office.alarm()
    office.dispatcher.run_once()
    taken: list[str] = []

    def dies(message: GroupMessage) -> None:
        taken.append(message.id)
        raise Died

    office.channel.tell, well = dies, office.channel.tell  # type: ignore[method-assign]
    with pytest.raises(Died):
        office.sender.run_once()
    office.channel.tell = well  # type: ignore[method-assign]
    assert office.states() == ["waiting"]
    office.turn(minutes=5)
    assert office.channel.told == [], "for as long as the other might still be at it"
    office.turn(minutes=2)
    assert [one.id for one in office.channel.told] == taken
    assert office.states() == ["delivered"]


def test_a_receiver_that_is_given_up_raises_an_alert_which_ends_when_it_answers(
    office: Office,
) -> None:
    office.declare(matchers=({"label": "subject", "value": "model:late"},))
    office.alarm()
    office.channel.down = True
    for _ in range(5):
        office.turn(minutes=2)
    assert office.states() == ["dead"]
    dead = AssetRef("alert_receiver", "crew")
    with office.calls.database.reading() as connection:
        standing = office.alerts.standing(connection, ALERT, dead)
        (delivery,) = office.deliveries.listed(connection, state=DeliveryState.DEAD)
    assert standing is not None
    assert (delivery.attempts, delivery.error) == (3, "The channel does not answer.")
    office.channel.down = False
    with office.call() as call:
        office.deliveries.resend(call, delivery.id)
    office.turn(seconds=1)
    assert office.states() == ["delivered"]
    with office.calls.database.reading() as connection:
        assert office.alerts.standing(connection, ALERT, dead) is None
        with pytest.raises(NotFound):
            office.deliveries.get(connection, "notice_none")


def _many(office: Office, channel: str, **given: Any) -> list[str]:
    """130 warnings of one group and a critical alert after them."""
    office.declare(group_by=("subject",), group_interval_seconds=1)
    crew = AlertReceiver.model_validate({"name": "crew", "channel": channel, **given})
    with office.call() as call:
        office.definitions.apply(call, [crew])
        return [
            office.alerts.raise_alert(
                call, name=f"drift-{n}", subject=MODEL, message=f"{n} is bad", evidence={},
                severity=Severity.CRITICAL if n == 130 else Severity.WARNING,
            ).id
            for n in range(131)
        ]  # fmt: skip


def test_a_message_for_people_holds_a_hundred_alerts_and_says_how_many_more(
    office: Office,
) -> None:
    alerts = _many(office, "slack")
    office.turn()
    (told,) = office.channel.told
    assert (len(told.alerts), told.n_more_standing, told.n_more_over) == (MOST_TOLD, 31, 0)
    assert told.severity is Severity.CRITICAL, "the most severe is among them"
    assert told.title.startswith("[FIRING:131]")
    assert told.title.endswith("(and 130 more)")
    assert told.lines()[-1] == "and 31 more: `falaj alerts list` shows all"
    assert (len(told.lines(30)), told.lines(30)[-1][:11]) == (30, "and 102 mor")
    with office.call() as call:
        for alert in alerts[:60]:
            office.alerts.resolve(call, alert, "Mended")
    office.turn(seconds=2)
    news = office.channel.told[-1]
    n_over = sum(one.resolved_at is not None for one in news.alerts)
    assert (len(news.alerts), n_over) == (MOST_TOLD, MOST_TOLD // 2)
    assert (news.n_more_standing, news.n_more_over) == (21, 10)


def test_an_alertmanager_is_told_every_alert_in_several_messages(office: Office) -> None:
    alerts = _many(office, "alertmanager", url="https://alertmanager.internal")
    office.turn()
    assert [len(told.alerts) for told in office.channel.told] == [MOST_TOLD, 31]
    assert {one.id for told in office.channel.told for one in told.alerts} == set(alerts)


def test_deliveries_that_ended_are_forgotten_after_thirty_days(office: Office) -> None:
    office.declare(repeat_interval_seconds=7 * 24 * 3600, group_interval_seconds=1)
    office.alarm()
    office.turn()
    office.channel.down = True
    old = EndedDeliveries(office.calls)
    office.turn(days=29)
    assert old.run_once() == 0
    assert office.states() == ["waiting", "delivered"]
    office.clock.move(timedelta(days=2))
    assert old.run_once() == 1
    office.clock.move(timedelta(days=100))
    assert old.run_once() == 0, "what waits is never forgotten"
    assert office.states() == ["waiting"]


def test_two_processes_that_decide_at_once_tell_it_once(office: Office) -> None:
    office.declare()
    office.alarm()
    barrier, counts = threading.Barrier(4), []

    def one() -> None:
        barrier.wait()
        counts.append(office.dispatcher.run_once())

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 1
    assert office.states() == ["waiting"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("value", "(a+)+$"),
        ("value", "(a|aa)*b"),
        ("value", "("),
        ("value", "a" * 201),
        ("label", "a b"),
        ("op", ">"),
    ],
)
def test_a_matcher_that_could_not_be_matched_is_refused(field: str, value: str) -> None:
    given = {"label": "alertname", "op": "=~", "value": "a.*", field: value}
    with pytest.raises(ValidationError):
        Matcher.model_validate(given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"channel": "email", "url": "smtp://mail"}, "sender and to"),
        (
            {"channel": "email", "url": "smtp://m", "sender": "a@b", "to": ("c@d\nBcc: x@y",)},
            "addresses",
        ),
        ({"channel": "alertmanager", "url": "http://a"}, "https"),
        ({"channel": "slack", "url": "https://hooks.slack.com/services/T/B/x"}, "is a secret"),
    ],
)  # fmt: skip
def test_a_receiver_that_is_not_whole_or_holds_a_secret_is_refused(
    given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        AlertReceiver.model_validate({"name": "crew", **given})
