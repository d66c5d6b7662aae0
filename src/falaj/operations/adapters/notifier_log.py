"""Notifications into the process's structured log: the channel that is always there."""

from __future__ import annotations

from falaj.kernel.telemetry import logger
from falaj.operations.model import Notification, Severity


class LogNotifier:
    """Writes each notification as one line; critical ones as errors."""

    def __init__(self) -> None:
        self._log = logger(__name__)

    def notify(self, message: Notification) -> None:
        """Write the line."""
        write = {
            Severity.INFO: self._log.info,
            Severity.WARNING: self._log.warning,
            Severity.CRITICAL: self._log.error,
        }[message.severity]
        write(
            message.title,
            notification=message.id,
            topic=message.topic,
            subject=str(message.subject),
            text=message.text,
            recipients=list(message.recipients),
        )
