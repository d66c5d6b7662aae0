"""TLS to PostgreSQL: asked for wherever the server is not on this machine.

libpq alone would ask for TLS and go on without it (``sslmode=prefer``).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from falaj.kernel.errors import InvalidInput

_WEAK = frozenset({"disable", "allow", "prefer"})
_VERIFIED = frozenset({"verify-ca", "verify-full"})
_PAIR = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|[^\s']*)")


def tls_parameters(
    given: Mapping[str, str], ca_file: Path | None, *, setting: str
) -> dict[str, str]:
    """The parameters of libpq that a connection is to have besides those that are given.

    Args:
        given: parameters of libpq: ``host``, ``hostaddr``, ``sslmode``, …
        ca_file: the authorities (PEM) of the server's certificate.
        setting: whose connection it is, for the error.

    Raises:
        InvalidInput: the server is elsewhere, and TLS is switched off or left open.
    """
    if ca_file is None and is_here(given):
        return {}
    mode = given.get("sslmode", "verify-full" if ca_file is not None else "require")
    if mode in _WEAK:
        raise InvalidInput(
            f"The setting {setting} allows a connection to another machine in clear text "
            f"(sslmode={mode}).",
            hint="Leave sslmode out, and name the server's authority in database_ca_file.",
        )
    wanted = {"sslmode": mode, "ssl_min_protocol_version": "TLSv1.3"}
    if ca_file is not None:
        wanted["sslrootcert"] = str(ca_file)
    return {name: value for name, value in wanted.items() if name not in given}


def is_here(given: Mapping[str, str]) -> bool:
    """True if a connection leaves no machine: a socket, or loopback addresses alone."""
    hosts = given.get("hostaddr") or given.get("host") or os.environ.get("PGHOST", "")
    return all(map(_here, hosts.split(",")))


def is_verified(given: Mapping[str, str]) -> bool:
    """True if the server must prove who it is."""
    return given.get("sslmode") in _VERIFIED


def parameters_of(connection: str) -> dict[str, str]:
    """The parameters that a URL or a connection string of libpq gives."""
    if "://" in connection:
        parts = urlsplit(connection)
        hosts = parts.netloc.rpartition("@")[2].split(",")
        found = {"host": ",".join(unquote(_host(host)) for host in hosts)}
        return {**found, **dict(parse_qsl(parts.query))}
    return {name: value.strip("'") for name, value in _PAIR.findall(connection)}


def secured(connection: str, ca_file: Path | None, *, setting: str) -> str:
    """A URL or a connection string of libpq with TLS; raises as ``tls_parameters`` does."""
    more = tls_parameters(parameters_of(connection), ca_file, setting=setting)
    if not more:
        return connection
    if "://" not in connection:
        return " ".join([connection, *(f"{name}={_quoted(value)}" for name, value in more.items())])
    joined = "&".join(f"{name}={quote(value, safe='')}" for name, value in more.items())
    return f"{connection}{'&' if urlsplit(connection).query else '?'}{joined}"


def _host(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


def _here(host: str) -> bool:
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
