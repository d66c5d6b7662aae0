"""Alerts to Prometheus' Alertmanager, by its API v2 (``POST /api/v2/alerts``)."""

from __future__ import annotations

from base64 import b64encode
from datetime import timedelta
from typing import TYPE_CHECKING

from falaj.kernel.errors import Unavailable
from falaj.operations.adapters.posting import host_of, post

if TYPE_CHECKING:
    from falaj.kernel.outgoing import Outgoing
    from falaj.operations.alerting_model import GroupMessage

STANDS_FOR = timedelta(days=30)
"""How long an alert stands there without news: as long as the longest ``repeat_interval``.
Without an ``endsAt`` Alertmanager would call it resolved after five minutes."""


class AlertmanagerNotifier:
    """Sends each alert of a group with its own labels; Alertmanager groups them anew.

    Args:
        url: of the Alertmanager, with its path prefix if it has one.
        outgoing: makes the requests.
        user, secret: for basic authentication; a secret without a user is a bearer token.
    """

    def __init__(self, url: str, outgoing: Outgoing, user: str = "", secret: str = "") -> None:
        self._url = url.rstrip("/")
        self._outgoing = outgoing
        self.headers: dict[str, str] = {}
        if user:
            basic = b64encode(f"{user}:{secret}".encode()).decode()
            self.headers["Authorization"] = f"Basic {basic}"
        elif secret:
            self.headers["Authorization"] = f"Bearer {secret}"

    def tell(self, message: GroupMessage) -> None:
        """Send the alerts of a group."""
        alerts = [
            {
                "labels": alert.labels,
                "annotations": {
                    "summary": alert.message,
                    "falaj_id": alert.id,
                    "falaj_route": message.route,
                },
                "startsAt": alert.raised_at.isoformat(),
                "endsAt": (alert.resolved_at or message.at + STANDS_FOR).isoformat(),
                **({"generatorURL": message.address} if message.address else {}),
            }
            for alert in message.alerts
        ]
        post(self._outgoing, f"{self._url}/api/v2/alerts", alerts, self.headers)

    def check(self) -> None:
        """Ask whether it is ready."""
        answer = self._outgoing.send("GET", f"{self._url}/-/ready", headers=self.headers)
        if answer.status_code != 200:
            raise Unavailable(
                f"{host_of(self._url)} is not ready: it answered {answer.status_code}."
            )
