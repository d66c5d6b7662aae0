"""Where a Kafka cluster is, what its clients are told, and what their errors mean."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from falaj.kernel.errors import (
    ComponentRefused,
    FalajError,
    InvalidInput,
    LimitExceeded,
    Unavailable,
)

try:
    from confluent_kafka import KafkaError
except ModuleNotFoundError:
    raise Unavailable(
        "The event log on Kafka needs the Python package confluent-kafka.",
        hint="Install it with `pip install 'falaj[kafka]'`.",
    ) from None

MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
_LOGGER = logging.getLogger("falaj.kafka")


@dataclass(frozen=True)
class KafkaPlace:
    """Where the records are, and how to get in.

    Args:
        servers: ``host:port`` of some brokers; they tell of the others.
        tls: encrypt, and check the brokers' certificates against their host names.
        user, password: for SASL; without a user there is none.
        mechanism: of SASL, one of ``MECHANISMS``.
        replication: how many brokers keep a topic that is made here; -1: as the cluster says.
        prefix: of the names of topics in the cluster, and of groups (``<prefix>falaj.``).
        ca_file: the only authorities that are trusted (PEM); the system's without it.
        certificate_file, private_key_file: shown to brokers that ask for them (PEM).
    """

    servers: tuple[str, ...]
    tls: bool = True
    user: str = ""
    password: str = field(default="", repr=False)
    mechanism: str = "SCRAM-SHA-512"
    replication: int = -1
    prefix: str = ""
    ca_file: Path | None = None
    certificate_file: Path | None = None
    private_key_file: Path | None = None

    @classmethod
    def of(
        cls,
        url: str,
        *,
        password: str = "",
        ca_file: Path | None = None,
        certificate_file: Path | None = None,
        private_key_file: Path | None = None,
    ) -> Self:
        """The cluster that ``kafkas://user@host:port,host:port?mechanism=…`` names.

        Raises:
            InvalidInput: it is no such URL, or holds a password.
        """
        scheme, _, behind = url.partition("://")
        brokers = behind.partition("?")[0].partition("/")[0]
        # By themselves: a Python that is new enough takes brackets around a whole host alone.
        parts = urlsplit(f"{scheme}://brokers{behind.removeprefix(brokers)}")
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        login, _, places = brokers.rpartition("@")
        if ":" in login:
            raise InvalidInput(
                "The setting event_log holds a password.",
                hint="Remove it there and set the variable FALAJ_EVENT_LOG_PASSWORD instead.",
            )
        mechanism = options.get("mechanism", cls.mechanism)
        try:
            servers = tuple(_server(place) for place in places.split(","))
            if (
                parts.scheme not in ("kafka", "kafkas")
                or parts.path.strip("/")
                or mechanism not in MECHANISMS
                or not options.keys() <= {"mechanism", "replication", "prefix"}
            ):
                raise ValueError
            return cls(
                servers,
                tls=parts.scheme == "kafkas",
                user=unquote(login),
                password=password,
                mechanism=mechanism,
                replication=int(options.get("replication", -1)),
                prefix=options.get("prefix", cls.prefix),
                ca_file=ca_file,
                certificate_file=certificate_file,
                private_key_file=private_key_file,
            )
        except ValueError:
            raise InvalidInput(
                f"The setting event_log = {url!r} names no Kafka cluster.",
                hint="Use `kafkas://user@host:9093,host:9093?mechanism=SCRAM-SHA-512`.",
            ) from None

    @property
    def shown(self) -> str:
        """Its URL, for people."""
        return f"kafka{'s' * self.tls}://{','.join(self.servers)}"

    @property
    def is_this_machine(self) -> bool:
        """True if what is sent there leaves no machine."""
        return all(map(_is_this_machine, self.servers))

    def client(self, **more: Any) -> dict[str, Any]:
        """The configuration of a client.

        Raises:
            InvalidInput: a file of a certificate cannot be read.
        """
        given: dict[str, Any] = {
            "bootstrap.servers": ",".join(self.servers),
            "client.id": "falaj",
            "security.protocol": f"{'SASL_' * bool(self.user)}{'SSL' if self.tls else 'PLAINTEXT'}",
            "socket.keepalive.enable": True,
            "reconnect.backoff.max.ms": 2000,
            "logger": _LOGGER,
        }
        if self.user:
            given |= {
                "sasl.mechanism": self.mechanism,
                "sasl.username": self.user,
                "sasl.password": self.password,
            }
        files = {
            "ssl.ca.location": self.ca_file,
            "ssl.certificate.location": self.certificate_file,
            "ssl.key.location": self.private_key_file,
        }
        for name, file in files.items():
            if file is None:
                continue
            try:
                file.open("rb").close()
            except OSError as error:
                raise InvalidInput(
                    f"A certificate of the event log cannot be read: {error}.",
                    hint="See event_log_ca_file, event_log_certificate_file and "
                    "event_log_private_key_file (PEM).",
                ) from error
            if self.tls:
                given[name] = str(file)
        return given | more


def _server(place: str) -> str:
    found = urlsplit(f"//{place}")
    if not found.hostname or "@" in place or found.path:
        raise ValueError(place)
    return place if found.port else f"{place}:9092"


def _is_this_machine(server: str) -> bool:
    host = urlsplit(f"//{server}").hostname or ""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


class Trouble:
    """What a client has last complained of; its calls themselves only say that time is over.

    Args:
        place: of the cluster.
    """

    def __init__(self, place: KafkaPlace) -> None:
        self._place = place
        self._last: KafkaError | None = None

    def heard(self, error: KafkaError) -> None:
        """A client's ``error_cb``."""
        serious = (KafkaError._AUTHENTICATION, KafkaError._SSL)
        if self._last is None or error.code() in serious or self._last.code() not in serious:
            self._last = error

    def told(self, error: KafkaError, about: str = "") -> FalajError:
        """What an error means, and what to do.

        Args:
            error: that a call raised or a record carries.
            about: the topic.
        """
        known = _meaning(error)
        if known is None and self._last is not None:
            error, known = self._last, _meaning(self._last)
        kind, what, hint = known or _UNKNOWN
        reason = error.str().removeprefix("Broker: ").rstrip(".")
        user = repr(self._place.user) if self._place.user else "nobody"
        text = what.format(reason=reason, about=repr(about) if about else "all of it", user=user)
        return kind(f"The Kafka cluster {self._place.shown} {text}.", hint=hint)


_Meaning = tuple[Callable[..., FalajError], str, str]
_UNKNOWN: _Meaning = (
    Unavailable,
    "does not answer: {reason}",
    "Repeat it later; `falaj doctor` checks the cluster.",
)
_STRANGER: _Meaning = (
    ComponentRefused,
    "does not let {user} in: {reason}",
    "Set FALAJ_EVENT_LOG_PASSWORD; name the user and the mechanism in the setting event_log.",
)
_NO_RIGHT: _Meaning = (
    ComponentRefused,
    "does not permit {user} what the event log needs ({about}): {reason}",
    "Give the user the rights that docs/guide/settings.md lists.",
)
_NO_TLS: _Meaning = (
    ComponentRefused,
    "does not show a certificate that is trusted: {reason}",
    "Set event_log_ca_file to the authority that signed the brokers' certificates; "
    "brokers without TLS are kafka://, not kafkas://.",
)
_NO_TOPIC: _Meaning = (
    InvalidInput,
    "has no such topic or partition ({about})",
    "Name a partition that the topic has.",
)
_TOO_LONG: _Meaning = (
    LimitExceeded,
    "refuses a record that is longer than the topic permits ({about})",
    "Push fewer rows at once, or raise the topic's max.message.bytes.",
)
_MEANINGS: Mapping[str, _Meaning] = {
    "_AUTHENTICATION": _STRANGER,
    "SASL_AUTHENTICATION_FAILED": _STRANGER,
    "UNSUPPORTED_SASL_MECHANISM": _STRANGER,
    "_SSL": _NO_TLS,
    "TOPIC_AUTHORIZATION_FAILED": _NO_RIGHT,
    "GROUP_AUTHORIZATION_FAILED": _NO_RIGHT,
    "CLUSTER_AUTHORIZATION_FAILED": _NO_RIGHT,
    "UNKNOWN_TOPIC_OR_PART": _NO_TOPIC,
    "_UNKNOWN_TOPIC": _NO_TOPIC,
    "_UNKNOWN_PARTITION": _NO_TOPIC,
    "MSG_SIZE_TOO_LARGE": _TOO_LONG,
    "RECORD_LIST_TOO_LARGE": _TOO_LONG,
}


def _meaning(error: KafkaError) -> _Meaning | None:
    return _MEANINGS.get(str(error.name()))
