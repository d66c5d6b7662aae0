"""Which endpoints read a view online: asked before its rows are taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.features.plan import ServicePlan
from falaj.features.views import ViewPlan

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.serving.model import Release
    from falaj.serving.releases import Releases


class ReadViews:
    """The readers of online rows among the releases that serve, or that a rollback would bring
    back.

    Args:
        releases: of all endpoints.
    """

    def __init__(self, releases: Releases) -> None:
        self._releases = releases

    def __call__(self, connection: Connection, plan: ViewPlan) -> list[str]:
        """Who reads the online rows of a view, told by name."""
        found = []
        for endpoint in self._releases.listed(connection):
            active = self._releases.active(connection, endpoint.name)
            switches = self._releases.history(connection, endpoint.name)
            before = switches[0].previous if switches else None
            for status in self._releases.statuses(connection, endpoint.name):
                release = status.release
                if active is not None and release.id == active.id:
                    told = f"the endpoint {endpoint.name} ({release.id})"
                elif release.id == before:
                    told = f"the release before it of {endpoint.name} ({release.id})"
                else:
                    continue
                if _reads(release, plan):
                    found.append(told)
        return found


def _reads(release: Release, plan: ViewPlan) -> bool:
    if release.features is None:
        return False
    service = ServicePlan.from_documents(release.features["definitions"])
    return any(use.plan.storage_id == plan.storage_id for use in service.views)
