"""A connection to a Redis or Valkey server, and what its errors mean.

Only what the online store needs of the protocol: hiredis packs commands and parses
replies; here are the socket, TLS, the login and the translation of errors. A call costs a
third of redis-py's, and a CA of one's own is the only one that is trusted.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import select
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import parse_qs, unquote, urlsplit

from falaj.kernel.errors import (
    ComponentRefused,
    FalajError,
    InvalidInput,
    LimitExceeded,
    Unavailable,
)

try:
    import hiredis
except ModuleNotFoundError:
    raise Unavailable(
        "The online store on Redis needs the Python package hiredis.",
        hint="Install it with `pip install 'falaj[redis]'`.",
    ) from None

Reply = Any
"""bytes, an int, a list of replies, None, or ``hiredis.ReplyError``."""
_RECEIVED_BYTES = 1 << 18
_packed: Callable[[tuple[bytes | str | int, ...]], bytes] = cast("Any", hiredis.pack_command)


@dataclass(frozen=True)
class RedisPlace:
    """Where the rows are, and how to get in.

    Args:
        host, port, database: of the server.
        tls: encrypt, and check the server's certificate against its host name.
        user, password: of its access control list; empty where it asks for nothing.
        prefix: of all keys. With ``{…}`` in it all keys have one slot, as a cluster needs.
        replicas: how many replicas must have synced a write before it is acknowledged.
        ca_file: the only authorities that are trusted (PEM); the system's without it.
        certificate_file, private_key_file: shown to a server that asks for them (PEM).
    """

    host: str
    port: int = 6379
    database: int = 0
    tls: bool = True
    user: str = ""
    password: str = field(default="", repr=False)
    prefix: str = "falaj:"
    replicas: int = 0
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
        """The place that ``rediss://user@host:port/database?prefix=…&replicas=…`` names.

        Raises:
            InvalidInput: it is no such URL, or holds a password.
        """
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.password is not None:
            raise InvalidInput(
                "The setting online holds a password.",
                hint="Remove it there and set the variable FALAJ_ONLINE_PASSWORD instead.",
            )
        try:
            if (
                parts.scheme not in ("redis", "rediss")
                or not parts.hostname
                or not options.keys() <= {"prefix", "replicas"}
            ):
                raise ValueError
            return cls(
                parts.hostname,
                port=parts.port or 6379,
                database=int(parts.path.strip("/") or 0),
                tls=parts.scheme == "rediss",
                user=unquote(parts.username or ""),
                password=password,
                prefix=options.get("prefix", cls.prefix),
                replicas=int(options.get("replicas", 0)),
                ca_file=ca_file,
                certificate_file=certificate_file,
                private_key_file=private_key_file,
            )
        except ValueError:
            raise InvalidInput(
                f"The setting online = {url!r} names no Redis server.",
                hint="Use `rediss://user@host:6379/0?prefix=falaj:&replicas=0`.",
            ) from None

    @property
    def shown(self) -> str:
        """Its URL, for people."""
        return f"redis{'s' * self.tls}://{self.host}:{self.port}/{self.database}"

    @property
    def is_this_machine(self) -> bool:
        """True if what is sent there leaves no machine."""
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(self.host).is_loopback
        return self.host == "localhost"


class RedisConnection:
    """One connection, logged in; for one thread at a time.

    Args:
        place: where to.
        seconds: to connect, and for the server to answer.

    Raises:
        Unavailable: the server does not answer.
        ComponentRefused: it is not who it should be, does not let us in, or is a replica.
        InvalidInput: a file of a certificate cannot be read.
    """

    def __init__(self, place: RedisPlace, *, seconds: float) -> None:
        self._place = place
        self._seconds = seconds
        self._reader = hiredis.Reader(notEnoughData=Ellipsis)
        self._received: Any = bytearray(_RECEIVED_BYTES)
        self._socket = _reached(place, seconds)
        try:
            self._greet()
        except BaseException:
            self.close()
            raise

    def _greet(self) -> None:
        place = self._place
        commands: list[tuple[bytes | str | int, ...]] = [("HELLO",)]
        if place.password or place.user:
            commands.insert(0, ("AUTH", place.user or "default", place.password))
        if place.database:
            commands.append(("SELECT", place.database))
        replies = self.asked(*commands)
        for reply in replies:
            if isinstance(reply, hiredis.ReplyError):
                raise told(place, reply)
        greeting = replies[1 if place.password or place.user else 0]
        if dict(zip(greeting[::2], greeting[1::2], strict=True)).get(b"role") != b"master":
            raise ComponentRefused(
                f"The Redis server {place.shown} is a replica, which may be behind.",
                hint="Name the primary in the setting online.",
            )

    def asked(
        self, *commands: Sequence[bytes | str | int], seconds: float | None = None
    ) -> list[Reply]:
        """The replies to commands that are sent together; an error is a reply too.

        Raises:
            Unavailable: the server has not answered in time, or is gone; what it did with
                the commands is not known. The connection is closed then.
        """
        try:
            if seconds is not None:
                self._socket.settimeout(seconds)
            packed = [_packed(tuple(command)) for command in commands]
            self._socket.sendall(packed[0] if len(packed) == 1 else b"".join(packed))
            replies = [self._next() for _ in commands]
            if seconds is not None:
                self._socket.settimeout(self._seconds)
            return replies
        except (OSError, hiredis.ProtocolError) as error:
            self.close()
            raise Unavailable(
                f"The Redis server {self._place.shown} is gone or does not answer: "
                f"{str(error) or type(error).__name__}.",
                hint="Repeat it later; `falaj doctor` checks the server.",
            ) from error
        except BaseException:
            self.close()  # a reply may be under way; nobody may take it for another one's
            raise

    def _next(self) -> Reply:
        reader = self._reader
        while (reply := reader.gets(False)) is Ellipsis:
            size = self._socket.recv_into(self._received)
            if not size:
                raise ConnectionResetError("it has ended the connection")
            reader.feed(self._received, 0, size)
        return reply

    def is_open(self) -> bool:
        """False if the server has ended it (or has sent what nobody asked for)."""
        poll = select.poll()
        try:
            poll.register(self._socket, select.POLLIN)
            return not poll.poll(0)
        except (OSError, ValueError):
            return False

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            self._socket.close()


def _reached(place: RedisPlace, seconds: float) -> socket.socket:
    context = _context(place) if place.tls else None
    try:
        plain = socket.create_connection((place.host, place.port), seconds)
    except OSError as error:
        raise Unavailable(
            f"The Redis server {place.shown} cannot be reached: {error.strerror or error}.",
            hint="See that it runs, and that the setting online names it.",
        ) from error
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return context.wrap_socket(plain, server_hostname=place.host) if context else plain
    except ssl.SSLError as error:
        plain.close()
        raise ComponentRefused(
            f"The Redis server {place.shown} does not show a certificate that is trusted: "
            f"{getattr(error, 'verify_message', '') or error.reason or error}.",
            hint="Set online_ca_file to the authority that signed the server's certificate; "
            "a server without TLS is redis://, not rediss://.",
        ) from error
    except OSError as error:
        plain.close()
        raise Unavailable(
            f"The Redis server {place.shown} did not agree on TLS: {error}.",
            hint="See that it speaks TLS on this port; without TLS it is redis://, not rediss://.",
        ) from error


def _context(place: RedisPlace) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=str(place.ca_file) if place.ca_file is not None else None
        )
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if place.certificate_file is not None:
            context.load_cert_chain(place.certificate_file, place.private_key_file)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"A certificate of the online store cannot be read: {error}.",
            hint="See online_ca_file, online_certificate_file and online_private_key_file (PEM).",
        ) from error
    return context


_WHERE = re.compile(r" script: [0-9a-f]{40}.*$")
"""Where in a script an error arose; says nothing to whoever reads it."""


def told(place: RedisPlace, error: hiredis.ReplyError) -> FalajError:
    """What a server's refusal means, and what to do."""
    text = str(error)
    code, _, reason = text.partition(" ")
    if "without any password configured" in text:
        code = "WRONGPASS"
    elif "ACL failure" in text or "can't run this command" in text:
        code = "NOPERM"  # told by a script
    kind, what, hint = _MEANINGS.get(code, _UNKNOWN)
    reason = _WHERE.sub("", reason or text).rstrip(".")
    what = what.format(user=repr(place.user or "default"), reason=reason)
    return kind(f"The Redis server {place.shown} {what}.", hint=hint)


_OTHERS = (
    ComponentRefused,
    "is a node of a cluster that does not hold the store's slot: {reason}",
    "Use a prefix with a hash tag (?prefix={falaj}:) and name the node of that slot.",
)
_UNKNOWN = (Unavailable, "refused: {reason}", "Repeat it later; `falaj doctor` checks the server.")
_STRANGER = (
    ComponentRefused,
    "does not know the user {user} with this password",
    "Set FALAJ_ONLINE_PASSWORD, and name the user in the setting online.",
)
_MEANINGS: dict[str, tuple[type[FalajError], str, str]] = {
    "WRONGPASS": _STRANGER,
    "NOAUTH": _STRANGER,
    "NOPERM": (
        ComponentRefused,
        "does not permit the user {user} what the online store needs: {reason}",
        "Give the user the rights that docs/guide/settings.md lists.",
    ),
    "OOM": (
        LimitExceeded,
        "has reached its memory limit; nothing was written",
        "Raise its maxmemory, or forget views that are no longer used.",
    ),
    "MISCONF": (
        LimitExceeded,
        "cannot write to its disk, and nothing was written: {reason}",
        "Free some space there.",
    ),
    "READONLY": (
        Unavailable,
        "has become a replica; nothing was written",
        "Repeat it when the name in the setting online leads to the primary.",
    ),
    "BUSY": (
        Unavailable,
        "is busy with another script",
        "Repeat it later.",
    ),
    "LOADING": (
        Unavailable,
        "is reading its files after a start",
        "Repeat it when it is ready.",
    ),
    **dict.fromkeys(("MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN", "TRYAGAIN"), _OTHERS),
}
"""What the first word of a refusal means: kind of error, what happened, what to do."""
