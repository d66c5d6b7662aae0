"""The parts of the audit log beside the log itself: what records the refused, what vouches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.commits import Commits
from falaj.trust.refusals import Refusals

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def refusals(made: Premises, *, via: str) -> Refusals:
    """Records requests without a good token, for one interface of this process."""
    commits = Commits(made.database, lambda: made.audit)
    found = Refusals(commits.record, clock=made.clock, via=via)
    made.closing.append(found.close)
    return found
