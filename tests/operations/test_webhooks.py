"""Webhooks: signed, delivered at least once, tried again, given up with an alert, never inside."""

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from sqlalchemy import select

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock, SystemClock
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.outbox import Outbox, Subscription
from falaj.kernel.outgoing import Outgoing, OutgoingRefused
from falaj.kernel.settings_people import OutgoingSettings
from falaj.operations.alerts import Alerts
from falaj.operations.ended_deliveries import EndedDeliveries
from falaj.operations.incidents import Incidents
from falaj.operations.model import DeliveryState
from falaj.operations.sending import Sender
from falaj.operations.webhooks import SUBSCRIBER, Webhooks
from falaj.operations.webhooks_model import Topic
from falaj.operations.webhooks_sending import ALERT, ToWebhooks
from falaj.operations.webhooks_tables import webhooks as rows
from falaj.testing.pages import blocks
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.audit import SqlAuditLog
from falaj.trust.certificates import CertificateAuthority

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "ci.md"
(RECEIVER,) = [block.text for block in blocks(PAGE) if block.mark == "receiver"]
NAMES: dict = {}
exec(RECEIVER, NAMES)
is_ours = NAMES["is_ours"]


class Receiver:
    """A program that is told: real TLS, answers with the status that it is set to."""

    def __init__(self, folder):
        self.told, self.status = [], 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.told.append((dict(self.headers.items()), body))
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                if receiver.status == 302:
                    self.send_header("location", "https://127.0.0.1/inside")
                self.end_headers()

            def log_message(self, *_told): ...

        authority = CertificateAuthority(folder, clock=SystemClock())
        self.context = authority.server_certificate(("localhost",)).server_context()
        self.ca = folder / "ca.pem"
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}/falaj"


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    made = Receiver(tmp_path_factory.mktemp("receiver"))
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


class Post:
    """Webhooks over a database, whose receiver may be reached."""

    def __init__(self, database, folder, receiver, *, attempts=3, allowed=("localhost",)):
        import ssl

        receiver.told.clear()
        receiver.status = 200
        self.clock = SetClock(datetime.now(UTC))
        seal = MachineSeal.create(folder / "seal")
        keys = FileKeyring.create(folder / "ring", seal, clock=SystemClock())
        settings = OutgoingSettings(allowed=allowed)
        outgoing = Outgoing(settings, verify=ssl.create_default_context(cafile=str(receiver.ca)))
        self.database, catalog = database, Catalog()
        self.calls = Calls(database, SqlAuditLog(), Outbox(), self.clock)
        self.webhooks = Webhooks(catalog, keys, outgoing)
        self.alerts = Alerts(catalog, Incidents(catalog))
        self.events = Subscription(database, SUBSCRIBER, self.webhooks.handle, begin="now")
        self.events.deliver()
        deliveries = ToWebhooks(self.webhooks, self.calls, outgoing, self.alerts)
        self.sender = Sender(deliveries, self.calls, attempts)

    @contextmanager
    def call(self):
        with self.calls.opened("test", "user:amina") as call:
            yield call

    def add(self, url, *topics):
        with self.call() as call:
            made = self.webhooks.add(call, "ci", url, topics or [Topic.GATES_FAILED])
        return made.secret.get_secret_value()

    def happen(self, event="gates.run", **facts):
        with self.call() as call:
            call.emit(event, **(facts or {"model": "late", "version": 3, "passed": False}))
        self.events.deliver()

    def deliveries(self):
        with self.database.reading() as connection:
            return self.webhooks.deliveries(connection)


@pytest.fixture
def post(sqlite_database, tmp_path, receiver):
    return Post(sqlite_database, tmp_path, receiver)


def lowered(headers):
    return {name.lower(): value for name, value in headers.items()}


def test_an_event_comes_signed_so_that_the_receiver_of_the_guide_believes_it(post, receiver):
    secret = post.add(receiver.url)
    post.happen()
    assert post.sender.run_once() == 1
    ((headers, body),) = receiver.told
    headers = lowered(headers)
    assert is_ours(secret, headers, body)
    told = json.loads(body)
    assert (told["type"], told["id"]) == ("gates.failed", headers["webhook-id"])
    assert told["data"] == {"model": "late", "version": 3, "passed": False}
    (delivery,) = post.deliveries()
    assert (delivery.state, delivery.status, delivery.attempts) == ("delivered", 200, 1)
    assert post.sender.run_once() == 0


@pytest.mark.parametrize("wrong", ["secret", "body", "id", "timestamp", "old"])
def test_what_was_changed_on_the_way_or_is_old_is_not_believed(post, receiver, wrong):
    secret = post.add(receiver.url)
    post.happen()
    post.sender.run_once()
    ((headers, body),) = receiver.told
    headers = lowered(headers)
    if wrong == "secret":
        with post.call() as call:
            secret = post.webhooks.replace_secret(call, "ci").secret.get_secret_value()
    elif wrong == "body":
        body += b" "
    elif wrong == "old":
        assert not is_ours(secret, headers, body, -1)
        return
    else:
        headers[f"webhook-{wrong}"] = "1"
    assert not is_ours(secret, headers, body)


def test_a_receiver_that_fails_is_asked_again_with_the_same_id_and_growing_waits(post, receiver):
    post.add(receiver.url)
    post.happen()
    receiver.status = 503
    assert post.sender.run_once() == 1
    assert post.sender.run_once() == 0, "it waits"
    post.clock.move(timedelta(seconds=5))
    assert post.sender.run_once() == 1
    post.clock.move(timedelta(seconds=5))
    assert post.sender.run_once() == 0, "the wait grows"
    receiver.status = 204
    post.clock.move(timedelta(seconds=15))
    assert post.sender.run_once() == 1
    assert len({lowered(headers)["webhook-id"] for headers, _ in receiver.told}) == 1
    (delivery,) = post.deliveries()
    assert (delivery.state, delivery.attempts) == ("delivered", 3)


def test_after_so_many_tries_it_is_dead_with_an_alert_and_can_be_sent_by_hand(post, receiver):
    post.add(receiver.url)
    post.happen()
    receiver.status = 302
    for _ in range(4):
        post.sender.run_once()
        post.clock.move(timedelta(hours=1))
    (delivery,) = post.deliveries()
    assert (delivery.state, delivery.attempts, delivery.status) == ("dead", 3, 302)
    assert len(receiver.told) == 3, "a redirect is not followed"
    with post.database.reading() as connection:
        (alert,) = post.alerts.listed(connection)
    assert (alert.name, alert.subject) == (ALERT, AssetRef("webhook", "ci"))
    receiver.status = 200
    with post.call() as call:
        post.webhooks.resend(call, delivery.id)
    assert post.sender.run_once() == 1
    assert post.deliveries()[0].state is DeliveryState.DELIVERED
    ids = {lowered(headers)["webhook-id"] for headers, _ in receiver.told}
    assert ids == {delivery.event}


def test_only_the_topics_that_were_asked_for_are_told(post, receiver):
    post.add(receiver.url, Topic.PROMOTION_ASKED, Topic.DRIFT_FOUND)
    post.happen("change.opened", kind="policy", id="change_1")
    post.happen("gates.run", passed=False)
    post.happen("change.opened", kind="model_promotion", id="change_2")
    post.happen("change.approved", kind="model_promotion", id="change_2")
    post.happen("monitor.drifted", monitor="late", features=["delay"])
    assert [one.topic for one in reversed(post.deliveries())] == ["promotion.asked", "drift.found"]


def test_a_sender_that_dies_after_it_sent_sends_again(post, receiver, monkeypatch):
    post.add(receiver.url)
    post.happen()

    class Killed(BaseException):
        pass

    def killed(*_values):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(post.sender, "_record", killed)
        with pytest.raises(Killed):
            post.sender.run_once()
    assert post.sender.run_once() == 0, "another one may still be sending it"
    post.clock.move(timedelta(minutes=7))
    assert post.sender.run_once() == 1
    assert len(receiver.told) == 2
    assert post.deliveries()[0].state is DeliveryState.DELIVERED


@pytest.mark.parametrize(
    "url",
    ["http://hooks.corp.ae/x", "https://127.0.0.1/x", "https://[::1]/x", "https://169.254.169.254/",
     "https://10.0.0.1/", "https://user:word@hooks.corp.ae/", "file:///etc/passwd", "nothing"],
)  # fmt: skip
def test_an_address_that_leads_inside_is_refused(sqlite_database, tmp_path, receiver, url):
    post = Post(sqlite_database, tmp_path, receiver, allowed=())
    with pytest.raises((OutgoingRefused, InvalidInput)):
        post.add(url)
    with post.database.reading() as connection:
        assert post.webhooks.listed(connection) == []


def test_the_secret_is_kept_sealed_and_a_removed_webhook_is_told_nothing(post, receiver):
    secret = post.add(receiver.url)
    with post.database.reading() as connection:
        (row,) = connection.execute(select(rows)).all()
    assert secret.encode() not in row.secret_sealed
    with pytest.raises(Conflict):
        post.add(receiver.url)
    post.happen()
    with post.call() as call:
        post.webhooks.remove(call, "ci")
    post.happen()
    assert post.sender.run_once() == 0
    (delivery,) = post.deliveries()
    assert delivery.state is DeliveryState.DEAD
    assert delivery.ended_at is not None
    with post.call() as call:
        with pytest.raises(NotFound):
            post.webhooks.test(call, "ci")
        with pytest.raises(Conflict):
            post.webhooks.resend(call, delivery.id)
    assert post.add(receiver.url) != secret


def test_deliveries_that_ended_are_forgotten_after_thirty_days(post, receiver):
    post.add(receiver.url)
    post.happen()
    post.sender.run_once()
    old = EndedDeliveries(post.calls)
    post.clock.move(timedelta(days=29))
    post.happen()
    assert old.run_once() == 0
    post.clock.move(timedelta(days=2))
    assert old.run_once() == 1
    (waiting,) = post.deliveries()
    assert waiting.state is DeliveryState.WAITING


def test_a_test_is_delivered_like_any_event(post, receiver):
    secret = post.add(receiver.url)
    with post.call() as call:
        post.webhooks.test(call, "ci")
    assert post.sender.run_once() == 1
    ((headers, body),) = receiver.told
    assert is_ours(secret, lowered(headers), body)
    assert json.loads(body)["type"] == "webhook.test"
