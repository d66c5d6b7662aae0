"""Receivers of alerts: each adapter on a server that holds it to its service's documentation."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import FalajError, InvalidInput, Unavailable
from falaj.kernel.outgoing import Guard, OutgoingRefused
from falaj.kernel.settings_people import OutgoingSettings
from falaj.operations.adapters.receiver_alertmanager import AlertmanagerNotifier
from falaj.operations.adapters.receiver_apprise import AppriseNotifier
from falaj.operations.adapters.receiver_email import EmailNotifier
from falaj.operations.adapters.receiver_pagerduty import PagerDutyNotifier
from falaj.operations.adapters.receiver_slack import SlackNotifier
from falaj.operations.adapters.receiver_teams import TeamsNotifier
from falaj.testing.guarded import free_ports
from falaj.testing.receivers import (
    HOSTILE,
    AlertmanagerServer,
    AlertNotifierConformance,
    Complain,
    HttpsReceiver,
    message,
)
from falaj.trust.certificates import CertificateAuthority

KEY = "R0123456789abcdef0123456789abcdef"
SECRET_PATH = "/services/T000/B000/seeeeecret"


def _pagerduty(headers: dict[str, str], path: str, event: Any) -> str:
    """Of https://developer.pagerduty.com/docs/events-api-v2-overview."""
    if path != "/v2/enqueue" or headers["content-type"] != "application/json":
        return "wrong path or type"
    if event["routing_key"] != KEY or event["event_action"] not in (
        "trigger", "acknowledge", "resolve",
    ):  # fmt: skip
        return "wrong key or action"
    if not 0 < len(event["dedup_key"]) <= 255:
        return "wrong dedup_key"
    if event["event_action"] != "trigger":
        return "" if set(event) == {"routing_key", "event_action", "dedup_key"} else "too much"
    payload = event["payload"]
    good = (
        0 < len(payload["summary"]) <= 1024
        and payload["source"]
        and payload["severity"] in ("critical", "error", "warning", "info")
        and datetime.fromisoformat(payload["timestamp"]).tzinfo is not None
        and isinstance(payload["custom_details"], dict)
    )
    return "" if good else "wrong payload"


def _slack(headers: dict[str, str], path: str, told: Any) -> str:
    """Of https://docs.slack.dev/reference/block-kit/blocks: the lengths and types of blocks."""
    if path != SECRET_PATH:
        return "no_service"
    for block in told["blocks"]:
        if block["type"] == "header":
            good = block["text"]["type"] == "plain_text" and len(block["text"]["text"]) <= 150
        elif block["type"] == "section":
            good = block["text"]["type"] == "mrkdwn" and 0 < len(block["text"]["text"]) <= 3000
        else:
            good = block["type"] == "context" and len(block["elements"]) <= 10
        if not good:
            return "invalid_blocks"
    mrkdwn = [b["text"]["text"] for b in told["blocks"] if b["type"] == "section"]
    return "" if not re.search(r"<[!@#h]", told["text"] + mrkdwn[0]) else "it calls or links"


def _teams(headers: dict[str, str], path: str, told: Any) -> str:
    """Of Microsoft's "Post to a channel when a webhook request is received": adaptive cards."""
    if path != SECRET_PATH or told["type"] != "message":
        return "wrong path or type"
    (attachment,) = told["attachments"]
    card = attachment["content"]
    if attachment["contentType"] != "application/vnd.microsoft.card.adaptive":
        return "wrong content type"
    if card["type"] != "AdaptiveCard" or card["version"] > "1.5" or len(str(told)) > 28_000:
        return "wrong card"
    blocks = [block for block in card["body"] if block["type"] == "RichTextBlock"]
    return "" if len(blocks) == len(card["body"]) > 1 else "a text that reads markup"


def _by_post(folder: Path, complain: Complain, status: int) -> Iterator[HttpsReceiver]:
    server = HttpsReceiver(folder, complain, status)
    yield server
    server.close()


class _ByPost(AlertNotifierConformance):
    """Those that post JSON: their server is shared, what it was told is not."""

    @pytest.fixture
    def taken(self, server: HttpsReceiver) -> Callable[[], list[str]]:
        server.told.clear()
        return lambda: list(server.told)


class TestPagerDuty(_ByPost):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: Any) -> Iterator[HttpsReceiver]:
        yield from _by_post(tmp_path_factory.mktemp("pagerduty"), _pagerduty, 202)

    @pytest.fixture
    def secret(self) -> str:
        return KEY[::-1]

    @pytest.fixture
    def notifier(self, server: HttpsReceiver) -> PagerDutyNotifier:
        return PagerDutyNotifier(KEY, server.outgoing, server.url)

    @pytest.fixture
    def refusing(self, server: HttpsReceiver) -> PagerDutyNotifier:
        return PagerDutyNotifier(KEY[::-1], server.outgoing, server.url)

    def test_a_group_is_triggered_acknowledged_and_resolved_under_one_key(
        self, notifier: PagerDutyNotifier, server: HttpsReceiver, taken: Any
    ) -> None:
        for status in ("firing", "acknowledged", "resolved"):
            notifier.tell(message(status))  # type: ignore[arg-type]
        events = taken()
        for event, action in zip(events, ("trigger", "acknowledge", "resolve"), strict=True):
            assert f'"event_action": "{action}"' in event
            assert f'"dedup_key": "{message().group}"' in event


class TestSlack(_ByPost):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: Any) -> Iterator[HttpsReceiver]:
        yield from _by_post(tmp_path_factory.mktemp("slack"), _slack, 200)

    @pytest.fixture
    def secret(self) -> str:
        return "seeeeecret"

    @pytest.fixture
    def notifier(self, server: HttpsReceiver) -> SlackNotifier:
        return SlackNotifier(server.url + SECRET_PATH, server.outgoing)

    @pytest.fixture
    def refusing(self, server: HttpsReceiver) -> SlackNotifier:
        return SlackNotifier(f"{server.url}{SECRET_PATH}/gone", server.outgoing)


class TestTeams(_ByPost):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: Any) -> Iterator[HttpsReceiver]:
        yield from _by_post(tmp_path_factory.mktemp("teams"), _teams, 202)

    @pytest.fixture
    def secret(self) -> str:
        return "seeeeecret"

    @pytest.fixture
    def notifier(self, server: HttpsReceiver) -> TeamsNotifier:
        return TeamsNotifier(server.url + SECRET_PATH, server.outgoing)

    @pytest.fixture
    def refusing(self, server: HttpsReceiver) -> TeamsNotifier:
        return TeamsNotifier(f"{server.url}{SECRET_PATH}/gone", server.outgoing)


class TestAlertmanager(AlertNotifierConformance):
    """Against the real thing, where it is installed."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: Any) -> Iterator[AlertmanagerServer]:
        made = AlertmanagerServer(tmp_path_factory.mktemp("alertmanager"))
        made.wait(cls._notifier(made).check)
        yield made
        made.close()

    @staticmethod
    def _notifier(server: AlertmanagerServer, password: str = "test") -> AlertmanagerNotifier:
        return AlertmanagerNotifier(server.url, server.outgoing, server.USER, password)

    @pytest.fixture
    def secret(self) -> str:
        return "wrong-password"

    @pytest.fixture
    def notifier(self, server: AlertmanagerServer) -> AlertmanagerNotifier:
        return self._notifier(server)

    @pytest.fixture
    def refusing(self, server: AlertmanagerServer, secret: str) -> AlertmanagerNotifier:
        return self._notifier(server, secret)

    @pytest.fixture
    def taken(
        self, server: AlertmanagerServer, notifier: AlertmanagerNotifier
    ) -> Callable[[], list[str]]:
        for n in (1, 60):
            notifier.tell(message("resolved", n_alerts=n))
        return lambda: [
            str((one["labels"], one["annotations"])) for one in server.alerts(notifier.headers)
        ]

    def test_what_stands_there_ends_when_it_is_told_to(
        self, notifier: AlertmanagerNotifier, taken: Any
    ) -> None:
        notifier.tell(message())
        assert len(taken()) == 1
        notifier.tell(message("resolved"))
        assert taken() == []

    def test_the_end_arrives(self, notifier: AlertmanagerNotifier, taken: Any) -> None:
        self.test_what_stands_there_ends_when_it_is_told_to(notifier, taken)


class _Mailbox:
    def __init__(self) -> None:
        self.mails: list[Any] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.mails.append(envelope)
        return "250 OK"


class TestEmail(AlertNotifierConformance):
    """Over STARTTLS to aiosmtpd, which asks for a password."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: Any) -> Iterator[Any]:
        folder = tmp_path_factory.mktemp("mail")
        authority = CertificateAuthority(folder, clock=SystemClock())
        context = authority.server_certificate(("localhost",)).server_context()
        cls.trusted = ssl.create_default_context(cafile=str(folder / "ca.pem"))
        mailbox = _Mailbox()

        def signed_in(_server: Any, _session: Any, _envelope: Any, _kind: str, data: Any) -> Any:
            return AuthResult(success=(data.login, data.password) == (b"falaj", b"mail-secret"))

        controller = Controller(
            mailbox, hostname="127.0.0.1", port=free_ports(1)[0],
            tls_context=context, require_starttls=True,
            authenticator=signed_in, auth_required=True,
        )  # fmt: skip
        controller.start()
        yield controller, mailbox
        controller.stop()

    trusted: ssl.SSLContext

    def _notifier(self, server: Any, password: str, host: str = "localhost") -> EmailNotifier:
        controller, _mailbox = server
        port = controller.server.sockets[0].getsockname()[1]
        return EmailNotifier(
            f"smtp://{host}:{port}",
            "falaj@example.ae",
            ["crew@example.ae", "lead@example.ae"],
            address=Guard(OutgoingSettings(allowed=("localhost",))).address_of,
            context=self.trusted,
            timeout=2.0,
            user="falaj",
            password=password,
        )

    @pytest.fixture
    def secret(self) -> str:
        return "wrong-mail-secret"

    @pytest.fixture
    def notifier(self, server: Any) -> EmailNotifier:
        return self._notifier(server, "mail-secret")

    @pytest.fixture
    def refusing(self, server: Any, secret: str) -> EmailNotifier:
        return self._notifier(server, secret)

    @pytest.fixture
    def taken(self, server: Any) -> Callable[[], list[str]]:
        _controller, mailbox = server
        mailbox.mails.clear()
        return lambda: [one.content.decode() for one in mailbox.mails]

    def test_all_are_written_to_and_hostile_text_adds_nobody(
        self, notifier: EmailNotifier, server: Any, taken: Any
    ) -> None:
        notifier.tell(message(text=HOSTILE))
        (mail,) = server[1].mails
        assert mail.rcpt_tos == ["crew@example.ae", "lead@example.ae"]
        assert mail.mail_from == "falaj@example.ae"

    def test_a_server_that_offers_no_tls_gets_no_mail(self, server: Any) -> None:
        mailbox, (port,) = _Mailbox(), free_ports(1)
        controller = Controller(mailbox, hostname="127.0.0.1", port=port)
        controller.start()
        try:
            with pytest.raises(Unavailable, match="did not take it"):
                self._notifier((controller, mailbox), "x").tell(message())
            assert mailbox.mails == []
        finally:
            controller.stop()

    def test_a_mail_server_inside_is_not_called(self, server: Any) -> None:
        inside = EmailNotifier(
            "smtp://localhost:25", "a@b", ["c@d"],
            address=Guard(OutgoingSettings()).address_of, context=self.trusted,
        )  # fmt: skip
        with pytest.raises(OutgoingRefused):
            inside.check()


class TestApprise(AlertNotifierConformance):
    """By apprise's JSON channel, over real TLS to a server of ours."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls, tmp_path_factory: Any) -> Iterator[HttpsReceiver]:
        made = HttpsReceiver(
            tmp_path_factory.mktemp("apprise"),
            lambda _headers, path, told: "" if path == SECRET_PATH and "title" in told else "no",
        )
        yield made
        made.close()

    @pytest.fixture
    def secret(self) -> str:
        return "seeeeecret"

    def _notifier(self, server: HttpsReceiver, path: str) -> AppriseNotifier:
        # The certificate is of an authority of the test's own, which requests does not know.
        return AppriseNotifier(f"{server.url.replace('https', 'jsons')}{path}?verify=no")

    @pytest.fixture
    def notifier(self, server: HttpsReceiver) -> AppriseNotifier:
        return self._notifier(server, SECRET_PATH)

    @pytest.fixture
    def refusing(self, server: HttpsReceiver) -> AppriseNotifier:
        return self._notifier(server, f"{SECRET_PATH}/gone")

    @pytest.fixture
    def taken(self, server: HttpsReceiver) -> Callable[[], list[str]]:
        server.told.clear()
        return lambda: list(server.told)

    def test_an_address_that_apprise_does_not_know_is_refused(self) -> None:
        with pytest.raises(InvalidInput, match="no channel") as refused:
            AppriseNotifier("nosuchthing://seeeeecret")
        assert "seeeeecret" not in str(refused.value)


@pytest.mark.parametrize("channel", [SlackNotifier, TeamsNotifier])
def test_a_channel_that_leads_inside_is_not_called(channel: Any, tmp_path: Path) -> None:
    from falaj.kernel.outgoing import Outgoing

    notifier = channel("https://127.0.0.1/hook", Outgoing(OutgoingSettings()))
    for act in (notifier.check, lambda: notifier.tell(message())):
        with pytest.raises(FalajError) as refused:
            act()
        assert isinstance(refused.value, OutgoingRefused)
