"""Names that follow from others."""

from __future__ import annotations


def table_of(endpoint: str) -> str:
    """The lake table of an endpoint's predictions."""
    return f"predictions_{endpoint.replace('-', '_')}"
