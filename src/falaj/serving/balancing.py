"""Addresses of workers for a load balancer before them: a list, and a file for HAProxy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def written(path: Path, text: str) -> None:
    """Replace a file whole, so that a reader never sees half of it."""
    begun = path.with_suffix(path.suffix + ".new")
    begun.write_text(text, encoding="utf-8")
    begun.replace(path)


def haproxy(
    addresses: Sequence[str], *, port: int, ca_file: str, certificate: str | None = None
) -> str:
    """A configuration of HAProxy that passes TCP on to the workers (TLS stays end to end).

    Args:
        addresses: ``host:port`` of each worker.
        port: where HAProxy listens.
        ca_file: the authority that the workers' certificates are signed by; for its probes.
        certificate: the file of the certificate that its probes show; None: they show none.
    """
    shown = f"crt {certificate} " if certificate else ""
    servers = [
        f"    server worker{number} {address} check check-ssl verify required ca-file {ca_file} "
        f"{shown}verifyhost localhost check-sni localhost inter 1s fall 2 rise 1"
        for number, address in enumerate(addresses, 1)
    ]
    lines = [
        "defaults",
        "    mode tcp",
        "    timeout connect 2s",
        "    timeout client 90s",
        "    timeout server 90s",
        "frontend inference",
        f"    bind :{port}",
        "    default_backend workers",
        "backend workers",
        "    balance leastconn",
        "    option redispatch",
        "    option httpchk GET /readyz",
        "    http-check expect status 200",
        *servers,
    ]
    return "\n".join(lines) + "\n"
