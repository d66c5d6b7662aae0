"""The parts of contracts over time and of anomalies, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.ingest.tablechecks import TableChecks
    from falaj.wiring.assembly import Premises


def table_checks(made: Premises) -> TableChecks:
    """Holds whole tables to contracts."""
    from falaj.ingest.failing import FailingChecks
    from falaj.ingest.tablechecks import TableChecks

    return TableChecks(made.lake, made.definitions, made.calls, FailingChecks(made.alerts))
