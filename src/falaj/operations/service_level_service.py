"""The actions on service levels."""

from __future__ import annotations

from falaj.catalog.assets import Catalog
from falaj.kernel.actions import action
from falaj.kernel.call import AssetRef
from falaj.operations.budgets import LevelStatus, ServiceLevel
from falaj.operations.guarded import Guarded, Visible
from falaj.operations.service_levels import ServiceLevels

LevelList = list[LevelStatus]


class ServiceLevelService(Guarded):
    """Service levels: what endpoints promise, and how much of their error budget is left."""

    name = "service_levels"

    def __init__(self, levels: ServiceLevels, catalog: Catalog, visible: Visible) -> None:
        super().__init__(catalog, visible)
        self._levels = levels

    @action(get="/service-levels")
    def list(self) -> LevelList:
        """Every service level: what was attained, its error budget, and how fast it burns."""
        found = self._levels.statuses(self.call.connection, self.call.now)
        return [one for one in found if self.may_see(AssetRef(ServiceLevel.kind, one.name))]

    @action(get="/service-levels/{name}", on="service_level")
    def get(self, name: str) -> LevelStatus:
        """One service level as it stands."""
        return self._levels.status(self.call.connection, name, self.call.now)
