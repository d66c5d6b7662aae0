"""Alerts to a workflow of Microsoft Teams: an Adaptive Card by its webhook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.operations.adapters.posting import post, reach, shortened

if TYPE_CHECKING:
    from falaj.kernel.outgoing import Outgoing
    from falaj.operations.alerting_model import GroupMessage

_COLOURS = {"info": "accent", "warning": "warning", "critical": "attention"}
_MOST_LINES, _LONGEST_LINE, _LONGEST_TITLE = 30, 500, 500
"""Together below the 28 KB that Teams takes."""


class TeamsNotifier:
    """Sends one card for each news of a group.

    Args:
        url: of the workflow's trigger; it is a secret.
        outgoing: makes the requests.
    """

    def __init__(self, url: str, outgoing: Outgoing) -> None:
        self._url = url
        self._outgoing = outgoing

    def tell(self, message: GroupMessage) -> None:
        """Send the card. Its texts are plain runs: data in a message makes no link."""
        colour = "good" if message.status == "resolved" else _COLOURS[message.severity]
        lines = [shortened(line, _LONGEST_LINE) for line in message.lines(_MOST_LINES)]
        content: dict[str, Any] = {
            "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
            "type": "AdaptiveCard",
            "version": "1.4",
            "body": [
                _text(shortened(message.title, _LONGEST_TITLE), weight="bolder", color=colour),
                *(_text(line) for line in lines),
            ],
        }
        if message.address:
            content["actions"] = [
                {"type": "Action.OpenUrl", "title": message.route, "url": message.address}
            ]
        attachment = {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": content,
        }
        post(self._outgoing, self._url, {"type": "message", "attachments": [attachment]})

    def check(self) -> None:
        """See whether the server answers; no card is sent."""
        reach(self._outgoing, self._url)


def _text(text: str, **style: str) -> dict[str, Any]:
    return {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": text, **style}]}
