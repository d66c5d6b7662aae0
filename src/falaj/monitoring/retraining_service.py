"""The actions of retraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput
from falaj.monitoring.retrainingwords import Name, RetrainingRun, RetrainingStatus

if TYPE_CHECKING:
    from falaj.monitoring.retraining import Retrainer
    from falaj.monitoring.retrainings import Retrainings

May = Callable[[Call, str, AssetRef], bool]
"""True if the caller may do the named action on an asset, as the caller stands now."""
Limit = Annotated[int, Field(ge=1, le=1000)]
Reason = Annotated[str, Field(max_length=2000)]


class RetrainingService(Service):
    """Retraining: what has a model trained again, and what came of each time."""

    name: ClassVar[str] = "retraining"

    def __init__(self, retrainer: Retrainer, retrainings: Retrainings, may: May) -> None:
        self._retrainer = retrainer
        self._retrainings = retrainings
        self._may = may

    @action(get="/retrainings")
    def list(self) -> Sequence[RetrainingStatus]:
        """List the declared retrainings, and how each stands."""
        found = self._retrainer.listed(self.call.connection)
        return [one for one in found if self._may_see(one.retraining.name)]

    @action(get="/retrainings/{name}", on="retraining")
    def status(self, name: Name) -> RetrainingStatus:
        """Show a retraining: what triggers it, as whom it acts, and how far it is."""
        return self._retrainer.status(self.call.connection, name)

    @action(get="/retrainings/{name}/history", on="retraining")
    def history(self, name: Name, *, limit: Limit = 20) -> Sequence[RetrainingRun]:
        """Tell each time, the newest first: finding, trigger, run, version, gates, change, release.

        The ``story`` of each is the chain, link by link, with what was made or found.
        """
        self._retrainer.status(self.call.connection, name)
        return self._retrainings.listed(self.call.connection, name, limit=limit)

    @action(post="/retrainings/{name}/runs", on="retraining")
    def run(self, name: Name, *, reason: Reason) -> RetrainingRun:
        """Begin a retraining now, whatever its triggers say; it goes the way of all others."""
        if not reason.strip():
            raise InvalidInput("A retraining needs a reason.", hint="Say why, for the record.")
        return self._retrainer.ask(self.call, name, reason.strip())

    def _may_see(self, name: str) -> bool:
        return self._may(self.call, "assets.get", AssetRef("retraining", name))
