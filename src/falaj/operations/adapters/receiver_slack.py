"""Alerts to an incoming webhook in the form of Slack, which Mattermost and others take too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.operations.adapters.posting import post, reach, shortened

if TYPE_CHECKING:
    from falaj.kernel.outgoing import Outgoing
    from falaj.operations.alerting_model import GroupMessage

_LONGEST_HEADER, _LONGEST_SECTION, _LONGEST_TEXT = 150, 3000, 4000


class SlackNotifier:
    """Sends one message for each news of a group.

    Args:
        url: of the webhook; it is a secret.
        outgoing: makes the requests.
    """

    def __init__(self, url: str, outgoing: Outgoing) -> None:
        self._url = url
        self._outgoing = outgoing

    def tell(self, message: GroupMessage) -> None:
        """Send the message: blocks for people, ``text`` for their notifications."""
        lines = "\n".join(f"• {_escaped(line)}" for line in message.lines())
        blocks: list[dict[str, Any]] = [
            {
                "type": "header",
                "text": {"type": "plain_text", "text": shortened(message.title, _LONGEST_HEADER)},
            },
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": shortened(lines, _LONGEST_SECTION)},
            },
        ]
        if message.address:
            link = {"type": "mrkdwn", "text": f"<{message.address}|{message.route}>"}
            blocks.append({"type": "context", "elements": [link]})
        text = shortened(_escaped(message.title), _LONGEST_TEXT)
        post(self._outgoing, self._url, {"text": text, "blocks": blocks})

    def check(self) -> None:
        """See whether the server answers; no message is sent."""
        reach(self._outgoing, self._url)


def _escaped(text: str) -> str:
    """As Slack wants it: what stands in a message of data makes no link and calls nobody."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
