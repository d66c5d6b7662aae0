"""The parts of service management, joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def operation_chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What service management does again and again."""
    from falaj.operations.reviews import OverdueReviews

    reviews = OverdueReviews(made.changes, made.alerts, made.calls)
    return {"overdue reviews": Seldom(reviews.run_once, every_seconds=60.0)}
