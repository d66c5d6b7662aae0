"""Names that follow from others."""

from __future__ import annotations

_LOG = "predictions_"


def table_of(endpoint: str) -> str:
    """The lake table of an endpoint's predictions."""
    return f"{_LOG}{endpoint.replace('-', '_')}"


def is_log(table: str) -> bool:
    """True if a lake table is named as the predictions of an endpoint are."""
    return table.startswith(_LOG)
