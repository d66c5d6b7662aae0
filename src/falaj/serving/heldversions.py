"""Which endpoints hold a release of a model version; fulfils ``models.ports.ServedVersions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.serving.model import Release, ReleaseState
from falaj.serving.tables import releases

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection


class HeldVersions:
    """Looks through the releases that serve, or may serve again."""

    def holding(self, connection: Connection, model: str, version: int) -> list[str]:
        """See ``models.ports.ServedVersions.holding``."""
        rows = connection.execute(
            select(releases.c.endpoint, releases.c.document).where(
                releases.c.state != ReleaseState.RETIRED
            )
        )
        label = f"{model}/{version}"
        return sorted(
            {
                row.endpoint
                for row in rows
                for variant in Release.model_validate(row.document).variants
                if label in {member.label for member in variant.pinned}
            }
        )
