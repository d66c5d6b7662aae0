"""What a request shows of who asks: its header, and the certificate of its connection."""

from __future__ import annotations

from typing import NamedTuple


class Credentials(NamedTuple):
    """By these an admission is remembered: another connection may show another certificate."""

    authorization: bytes
    """The header's value: ``Bearer <token>``."""
    certificate: str | None = None
    """Thumbprint (``x5t#S256``) of the client certificate that the connection has shown."""
