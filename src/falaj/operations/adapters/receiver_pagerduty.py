"""Alerts to PagerDuty, by its Events API v2: one incident there for each group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.operations.adapters.posting import post, reach, shortened

if TYPE_CHECKING:
    from falaj.kernel.outgoing import Outgoing
    from falaj.operations.alerting_model import GroupMessage

PUBLIC = "https://events.pagerduty.com"
_ACTIONS = {"firing": "trigger", "acknowledged": "acknowledge", "resolved": "resolve"}
_LONGEST_SUMMARY = 1024
_MOST_DETAILS = 100


class PagerDutyNotifier:
    """Triggers, acknowledges and resolves, under the group as the deduplication key.

    Args:
        routing_key: the integration key of a service there.
        outgoing: makes the requests.
        url: of the API, if not the public one.
    """

    def __init__(self, routing_key: str, outgoing: Outgoing, url: str = "") -> None:
        self._routing_key = routing_key
        self._outgoing = outgoing
        self._url = (url or PUBLIC).rstrip("/")

    def tell(self, message: GroupMessage) -> None:
        """Send one event."""
        event: dict[str, Any] = {
            "routing_key": self._routing_key,
            "event_action": _ACTIONS[message.status],
            "dedup_key": message.group,
        }
        if message.status == "firing":
            first = message.alerts[0]
            event |= {
                "client": "Falaj",
                "payload": {
                    "summary": shortened(message.title, _LONGEST_SUMMARY),
                    "source": str(first.subject),
                    "severity": str(message.severity),
                    "timestamp": first.raised_at.isoformat(),
                    "component": first.subject.key,
                    "group": message.route,
                    "class": first.name,
                    "custom_details": {"alerts": message.lines(_MOST_DETAILS)},
                },
            }
            if message.address:
                event["client_url"] = message.address
        post(self._outgoing, f"{self._url}/v2/enqueue", event)

    def check(self) -> None:
        """See whether the server answers; no event is sent."""
        reach(self._outgoing, self._url)
