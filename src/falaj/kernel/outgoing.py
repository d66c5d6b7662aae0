"""Calls to addresses that somebody else has written: webhooks, identity providers, witnesses.

Such an address must not lead back inside (server-side request forgery). A name is resolved
once, every address that it has is checked, and the connection is made to a checked address
under the certificate of the name, so that a name which answers differently the second time
(DNS rebinding) gains nothing. Redirects are not followed, proxies of the environment not asked.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import Forbidden, InvalidInput, LimitExceeded, Unavailable
from falaj.kernel.settings_people import OutgoingSettings

if TYPE_CHECKING:
    import httpx

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""From a name and a port to addresses, as texts."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = (
    ipaddress.ip_address("169.254.169.254"),
    ipaddress.ip_address("fd00:ec2::254"),
    ipaddress.ip_address("100.100.100.200"),
    ipaddress.ip_address("168.63.129.16"),
)


class OutgoingRefused(Forbidden):
    """The address leads inside, or is not one that may be called."""

    code = "outgoing-refused"


def resolved(name: str, port: int) -> Sequence[str]:
    """The addresses of a name, as the machine's resolver knows them.

    Raises:
        Unavailable: the name has none, or the resolver does not answer.
    """
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"The name {name!r} has no address: {error}.") from None
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def inside(address: Address) -> bool:
    """True for an address that outsiders must not be able to have called.

    Loopback, private, link-local, shared, reserved, multicast and unspecified ones, those
    where clouds keep metadata, and each of them written as an address of IPv6.
    """
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is None and address.teredo is not None:
            return True
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if embedded is None and int(address) >> 32 == 0 and int(address) > 1:
            embedded = ipaddress.IPv4Address(int(address))  # the old "compatible" form
        if embedded is not None:
            return inside(embedded)
        if address.scope_id is not None or address.is_site_local:
            return True
    return address in _METADATA or address.is_multicast or not address.is_global


@contextmanager
def _cut_off(extensions: dict[str, Any], seconds: float) -> Iterator[None]:
    """End the connection of a request after so long: a timeout alone begins anew with each byte.

    Args:
        extensions: of the request; is given a trace that learns the connection's socket.
    """
    streams: list[Any] = []

    def traced(event: str, told: dict[str, Any]) -> None:
        if event == "connection.start_tls.complete":
            streams.append(told["return_value"])

    def end() -> None:
        for stream in streams:
            with suppress(OSError):
                stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)

    extensions["trace"] = traced
    # A handshake before it, and the wait for the connection, end by their own timeouts.
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Guard:
    """Decides which addresses may be called.

    Args:
        settings: names, addresses and networks inside that the operator lets be called.
        resolve: asks for a name's addresses.
    """

    def __init__(self, settings: OutgoingSettings, *, resolve: Resolve = resolved) -> None:
        self._resolve = resolve
        self._names: set[str] = set()
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for item in settings.allowed:
            try:
                self._networks.append(ipaddress.ip_network(item))
            except ValueError:
                self._names.add(item.lower().rstrip("."))

    def checked(self, scheme: str, name: str, port: int) -> str:
        """The address to connect to.

        Raises:
            OutgoingRefused: the scheme is not https, or one of the name's addresses is inside.
            Unavailable: the name has no address.
        """
        if scheme != "https":
            raise OutgoingRefused(
                f"The address begins with {scheme}:, not with https:.",
                hint="Falaj sends to servers that prove who they are.",
            )
        return self.address_of(name, port)

    def address_of(self, name: str, port: int) -> str:
        """The address to connect to, for a protocol that brings its own TLS (SMTP).

        Raises:
            OutgoingRefused: one of the name's addresses is inside.
            Unavailable: the name has no address.
        """
        name = name.lower().rstrip(".")
        addresses = [ipaddress.ip_address(found) for found in self._resolve(name, port)]
        if not addresses:
            raise Unavailable(f"The name {name!r} has no address.")
        if name not in self._names and any(self._refuses(address) for address in addresses):
            raise OutgoingRefused(
                f"The name {name!r} leads to an address that may not be called.",
                hint="The operator can let it be called with the setting outgoing.allowed.",
            )
        return str(addresses[0])

    def _refuses(self, address: Address) -> bool:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        allowed = any(
            one in network for network in self._networks for one in (address, mapped) if one
        )
        return inside(address) and not allowed


class Outgoing:
    """Sends requests to addresses that somebody else has written.

    Args:
        settings: the allow-list and limits.
        verify: the authorities to trust; by default those of the system.
        resolve: asks for a name's addresses.
    """

    def __init__(
        self,
        settings: OutgoingSettings,
        *,
        verify: ssl.SSLContext | None = None,
        resolve: Resolve = resolved,
    ) -> None:
        self._settings = settings
        self._guard = Guard(settings, resolve=resolve)
        self._verify = verify

    def check(self, url: str) -> None:
        """Refuse an address when it is written down, long before it is called.

        Raises:
            InvalidInput: it is no address.
            OutgoingRefused, Unavailable: as for ``send``.
        """
        parts = self._parsed(url)
        self._guard.checked(parts.scheme, parts.host, parts.port or 443)

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        """The answer to one request, read whole; a redirect is an answer like any other.

        Raises:
            InvalidInput: ``url`` is no address.
            OutgoingRefused: it leads inside.
            LimitExceeded: the answer is larger than the setting ``outgoing.max_bytes``.
            Unavailable: nobody answers, or not in time, or without a trusted certificate.
        """
        import httpx

        parts = self._parsed(url)
        address = self._guard.checked(parts.scheme, parts.host, parts.port or 443)
        sent = {**(headers or {}), "Host": parts.netloc.decode("ascii")}
        extensions: dict[str, Any] = {"sni_hostname": parts.host}
        most = self._settings.max_bytes
        try:
            with (
                _cut_off(extensions, self._settings.timeout_seconds),
                self._client() as client,
                client.stream(
                    method,
                    parts.copy_with(host=address),
                    headers=sent,
                    content=content,
                    extensions=extensions,
                ) as answer,
            ):
                body = bytearray()
                for piece in answer.iter_bytes():
                    body += piece
                    if len(body) > most:
                        raise LimitExceeded(
                            f"The answer of {parts.host!r} is larger than {most} bytes.",
                            hint="The setting outgoing.max_bytes allows for more.",
                        )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{parts.host!r} does not answer: {type(error).__name__}.",
                hint="Check the address and the server's certificate.",
            ) from None
        kept = [
            (name, value)
            for name, value in answer.headers.multi_items()
            if name not in ("content-encoding", "content-length", "transfer-encoding")
        ]
        return httpx.Response(answer.status_code, headers=kept, content=bytes(body))

    def _client(self) -> httpx.Client:
        import httpx

        # A client for each call: connections are kept by address, and one that was made under
        # the certificate of a name must not carry requests for another name.
        return httpx.Client(
            verify=self._verify or ssl.create_default_context(),
            timeout=self._settings.timeout_seconds,
            follow_redirects=False,
            trust_env=False,
        )

    def _parsed(self, url: str) -> httpx.URL:
        import httpx

        try:
            parts = httpx.URL(url)
        except (httpx.InvalidURL, TypeError, ValueError):
            raise InvalidInput("This is no address of a server.", hint="https://…") from None
        if not parts.host or parts.userinfo or not parts.host.isascii():
            raise InvalidInput(
                "The address names no server, or has a password in it.", hint="https://name/path"
            )
        return parts
