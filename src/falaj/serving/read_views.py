"""Which endpoints read a view online: asked before its rows are taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.features.plan import ServicePlan
from falaj.features.views import ViewPlan

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.serving.releases import Releases


class ReadViews:
    """The readers of online rows among the active releases.

    Args:
        releases: of all endpoints.
    """

    def __init__(self, releases: Releases) -> None:
        self._releases = releases

    def __call__(self, connection: Connection, plan: ViewPlan) -> list[str]:
        """The endpoints whose active release reads the online rows of a view, told by name."""
        found = []
        for endpoint in self._releases.listed(connection):
            release = self._releases.active(connection, endpoint.name)
            if release is None or release.features is None:
                continue
            service = ServicePlan.from_documents(release.features["definitions"])
            if any(use.plan.storage_id == plan.storage_id for use in service.views):
                found.append(f"the endpoint {endpoint.name} ({release.id})")
        return found
