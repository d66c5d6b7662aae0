"""Whom an address stands for, where strangers are counted."""

from __future__ import annotations

import ipaddress

UNKNOWN = "unknown"


def network_of(address: str | None) -> str:
    """The address, or the /64 of an IPv6 address: its holder has all of that to choose from."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return UNKNOWN
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
