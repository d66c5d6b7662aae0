"""Receivers of alerts for tests: what every adapter must do, and servers that it is tried on."""

# ruff: noqa: S101 - these are tests

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.call import AssetRef
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import FalajError
from falaj.kernel.outgoing import Outgoing
from falaj.kernel.settings_people import OutgoingSettings
from falaj.operations.alerting_model import GroupMessage, ToldAlert
from falaj.operations.dispatching import Status
from falaj.operations.model import Severity
from falaj.operations.ports import AlertNotifier
from falaj.testing.guarded import free_ports

HOSTILE = (
    '<!channel> [here](https://evil.example) & "quoted"\r\nBcc: all@evil.example\x00'
    " \u202e \u0628\u0626\u0631"
)
"""A message as data may make it: it must arrive as text, and break nothing."""
Complain = Callable[[dict[str, str], str, Any], str]
"""What is wrong with a request (headers, path, JSON body); empty if it is as documented."""


def message(
    status: Status = "firing", text: str = "PSI 0.4 is above 0.2", n_alerts: int = 1
) -> GroupMessage:
    """A message about some alerts of one group."""
    at = datetime(2026, 11, 30, 12, tzinfo=UTC)
    alerts = tuple(
        ToldAlert(
            id=f"alert_{n:032x}",
            name="drift.wind_speed",
            subject=AssetRef("endpoint", "flight-delay"),
            severity=Severity.CRITICAL,
            message=text,
            labels={"alertname": f"drift{n}", "severity": "critical"},
            raised_at=at,
            resolved_at=at if status == "resolved" else None,
            acknowledged_by="user:amina" if status == "acknowledged" else None,
        )
        for n in range(n_alerts)
    )
    return GroupMessage(
        id="notice_00000000000000000000000000000001",
        at=at,
        group="d3b07384d113edec49eaa6238ad5ff00",
        route="models",
        receiver="crew",
        status=status,
        labels={"subject": "endpoint:flight-delay"},
        alerts=alerts,
        address="https://falaj.example.ae",
    )


class AlertNotifierConformance:
    """Fixtures: ``notifier``; ``taken`` (what its server has taken since the test began, as
    texts); ``refusing`` (a notifier whose server takes nothing); ``secret`` (of both)."""

    def test_what_stands_arrives(self, notifier: AlertNotifier, taken: Any) -> None:
        """With the name and the words of the alert."""
        notifier.tell(message())
        (told,) = taken()
        assert "drift" in told
        assert "PSI 0.4 is above 0.2" in told

    def test_the_end_arrives(self, notifier: AlertNotifier, taken: Any) -> None:
        """After what stood; both are taken."""
        notifier.tell(message())
        notifier.tell(message("resolved"))
        assert len(taken()) >= 1

    def test_a_repeat_is_taken(self, notifier: AlertNotifier) -> None:
        """Deliveries are at least once."""
        notifier.tell(message())
        notifier.tell(message())

    def test_hostile_text_is_taken_as_text(self, notifier: AlertNotifier, taken: Any) -> None:
        """And nothing of it becomes a header, a link or a call to a channel."""
        notifier.tell(message(text=HOSTILE))
        (told,) = taken()
        assert "<!channel>" not in told or '"text": "' not in told.partition("<!channel>")[0][-9:]
        assert "\nBcc:" not in told.replace("\r", "")

    def test_many_long_alerts_are_taken(self, notifier: AlertNotifier) -> None:
        """Cut to what the channel allows."""
        notifier.tell(message(text="x" * 3900, n_alerts=60))

    def test_a_refusal_is_an_error_without_the_secret(
        self, refusing: AlertNotifier, secret: str
    ) -> None:
        """It is tried again; what the log says must not let others in."""
        with pytest.raises(FalajError) as refused:
            refusing.tell(message())
        assert not secret or secret not in str(refused.value)

    def test_a_check_sends_nothing(self, notifier: AlertNotifier, taken: Any) -> None:
        """Nobody is woken by it."""
        notifier.check()
        assert taken() == []


class HttpsReceiver:
    """A server over real TLS that answers 400 to what is not as its service documents it.

    Args:
        folder: for its certificate.
        complain: knows what is wrong with a request.
        status: of a good answer.
    """

    def __init__(self, folder: Path, complain: Complain, status: int = 200) -> None:
        from falaj.trust.certificates import CertificateAuthority

        self.complain, self.status = complain, status
        self.told: list[str] = []
        authority = CertificateAuthority(folder, clock=SystemClock())
        context = authority.server_certificate(("localhost",)).server_context()
        self.ca = folder / "ca.pem"
        self.trusted = ssl.create_default_context(cafile=str(self.ca))
        self.outgoing = Outgoing(OutgoingSettings(allowed=("localhost",)), verify=self.trusted)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://localhost:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(404, "nothing here")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                told = receiver.complain(headers, self.path, json.loads(body))
                if not told:
                    receiver.told.append(json.dumps(json.loads(body), ensure_ascii=False))
                # Some servers repeat what they were sent, with the secrets in it.
                self._answer(
                    400 if told else receiver.status,
                    f"{told}: {self.path} {body}" if told else "ok",
                )

            def _answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_told: Any) -> None: ...

        return Handler


class AlertmanagerServer:
    """A real Alertmanager on a free port, over TLS, with basic authentication.

    Args:
        folder: for its files.
    """

    PROGRAM = "prometheus-alertmanager"
    USER, PASSWORD = "admin", "test"
    # bcrypt of that password, from Prometheus' guide to basic authentication.
    _HASH = "$2b$12$hNf2lSsxfm0.i4a.1kVpSOVyBCfIB51VRjgBUyv6kdnyTlgWj81Ay"

    def __init__(self, folder: Path) -> None:
        from falaj.trust.certificates import CertificateAuthority

        program = shutil.which(self.PROGRAM) or shutil.which("alertmanager")
        if program is None:
            pytest.skip("there is no Alertmanager here (Debian: prometheus-alertmanager)")
        authority = CertificateAuthority(folder / "ca", clock=SystemClock())
        certificate = authority.server_certificate(("localhost",)).path
        self.trusted = ssl.create_default_context(cafile=str(folder / "ca" / "ca.pem"))
        self.outgoing = Outgoing(OutgoingSettings(allowed=("localhost",)), verify=self.trusted)
        (folder / "web.yml").write_text(
            f"tls_server_config:\n  cert_file: {certificate}\n  key_file: {certificate}\n"
            f"basic_auth_users:\n  {self.USER}: {self._HASH}\n"
        )
        (folder / "alertmanager.yml").write_text(
            "route:\n  receiver: none\nreceivers:\n  - name: none\n"
        )
        (port,) = free_ports(1)
        self.url = f"https://localhost:{port}"
        self._log = (folder / "log").open("wb")
        self._process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'alertmanager.yml'}",
                f"--storage.path={folder / 'data'}",
                f"--web.config.file={folder / 'web.yml'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def alerts(self, headers: dict[str, str]) -> list[dict[str, Any]]:
        """What stands there."""
        answer = self.outgoing.send("GET", f"{self.url}/api/v2/alerts", headers=headers)
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def wait(self, check: Callable[[], None], seconds: float = 20.0) -> None:
        """Return when it is ready; raises what ``check`` raised last."""
        ends = time.monotonic() + seconds
        while True:
            try:
                check()
                return
            except FalajError:
                if time.monotonic() > ends or self._process.poll() is not None:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
