"""Alerts by mail: SMTP, never without TLS."""

from __future__ import annotations

import smtplib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.operations.adapters.posting import shortened

if TYPE_CHECKING:
    from falaj.operations.alerting_model import GroupMessage

Address = Callable[[str, int], str]
"""The address of a name that may be called; raises OutgoingRefused or Unavailable."""
_LONGEST_SUBJECT = 200
_PORTS = {"smtp": 587, "smtps": 465}


class EmailNotifier:
    """Sends one mail for each news of a group; those of one group are one thread.

    Args:
        url: ``smtp://host:587`` (STARTTLS is demanded) or ``smtps://host:465``.
        sender, to: addresses.
        address: checks where a name leads, as for all that is sent outside.
        context: the authorities to trust.
        timeout: in seconds.
        user, password: to sign in with; none if ``user`` is empty.
    """

    def __init__(
        self,
        url: str,
        sender: str,
        to: Sequence[str],
        *,
        address: Address,
        context: ssl.SSLContext,
        timeout: float = 10.0,
        user: str = "",
        password: str = "",
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.password:
            raise InvalidInput(
                "This is no mail server.", hint="smtp://host:587 or smtps://host:465"
            )
        self._tls_first = parts.scheme == "smtps"
        self._host, self._port = parts.hostname, parts.port or _PORTS[parts.scheme]
        self._sender, self._to = sender, tuple(to)
        self._address, self._context, self._timeout = address, context, timeout
        self._user, self._password = user, password

    def tell(self, message: GroupMessage) -> None:
        """Send the mail."""
        mail = EmailMessage()
        mail["Subject"] = shortened(" ".join(message.title.split()), _LONGEST_SUBJECT)
        mail["From"] = self._sender
        mail["To"] = ", ".join(self._to)
        domain = self._sender.rpartition("@")[2]
        mail["Message-ID"] = f"<{message.id}@{domain}>"
        mail["References"] = f"<{message.group}@{domain}>"
        mail["Date"] = message.at
        mail["Auto-Submitted"] = "auto-generated"
        shared = [f"{name}: {value}" for name, value in message.labels.items()]
        mail.set_content("\n".join([message.title, "", *message.lines(), "", *shared,
                                    message.address]))  # fmt: skip
        with self._session() as session:
            session.send_message(mail)

    def check(self) -> None:
        """Connect, agree on TLS and sign in; no mail is sent."""
        with self._session() as session:
            session.noop()

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        reached = self._address(self._host, self._port)
        try:
            with self._opened(reached) as session:
                if not self._tls_first:
                    session.starttls(context=self._context)
                if self._user:
                    session.login(self._user, self._password)
                yield session
        except (OSError, smtplib.SMTPException) as error:
            # The text of an answer may repeat what was sent to sign in; its class does not.
            code = getattr(error, "smtp_code", None)
            told = type(error).__name__ if code is None else f"{type(error).__name__}, {code}"
            raise Unavailable(
                f"The mail server {self._host}:{self._port} did not take it: {told}.",
                hint="Check its name, port, certificate, user and password.",
            ) from None

    def _opened(self, reached: str) -> smtplib.SMTP:
        """A session with the checked address, under the certificate of the name."""
        context = self._context

        class Plain(smtplib.SMTP):
            def _get_socket(self, _host: str, port: int, timeout: float) -> socket.socket:
                return socket.create_connection((reached, port), timeout)

        class Encrypted(smtplib.SMTP_SSL):
            def _get_socket(self, host: str, port: int, timeout: float) -> Any:
                plain = socket.create_connection((reached, port), timeout)
                return context.wrap_socket(plain, server_hostname=host)

        if self._tls_first:
            return Encrypted(self._host, self._port, timeout=self._timeout, context=context)
        return Plain(self._host, self._port, timeout=self._timeout)
