"""Residency: data that belongs to a region is kept in it, and in no other.

An asset's ``region`` says where its data belongs. A store stands somewhere: a bucket in the
region that its URL names, everything else in the region of the installation. Where the place
of a store was never said (the setting ``region`` is ``local``), nothing can be compared, and
nothing is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falaj.catalog.model import Direction
from falaj.kernel.errors import Forbidden

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.catalog.definitions import Resulting
    from falaj.catalog.planning import PlannedDefinition
    from falaj.kernel.call import AssetRef

Stays = Callable[["Connection", str, "Iterable[AssetRef]"], None]
"""``Residency.check``: what is made of some assets may be kept in a place, or it raises."""


def anywhere(connection: Connection, place: str, refs: Iterable[AssetRef]) -> None:
    """A ``Stays`` of an installation of which nobody has said where it stands."""


UNSAID = "local"
"""The region of an installation of which nobody has said where it stands."""


class OutOfRegion(Forbidden):
    """Data that belongs to one region would be kept in another."""

    code = "out-of-region"


@dataclass(frozen=True)
class Places:
    """Where the stores of an installation stand; ``UNSAID`` where that is not known."""

    home: str
    """What lies in the installation's folder, or goes from it to a file of this machine."""
    lake: str
    blobs: str

    def check(self, place: str, region: str | None, what: object) -> None:
        """Return if data of a region may be kept there.

        Args:
            place: ``home``, ``lake`` or ``blobs``.
            region: where it belongs; None if nothing is said.
            what: that data, in the words of the refusal.

        Raises:
            OutOfRegion: it belongs elsewhere.
        """
        stands = str(getattr(self, place))
        if region is None or stands in (UNSAID, region):
            return
        raise OutOfRegion(
            f"{what} belongs to the region {region!r}; {_TOLD[place]} in {stands!r}.",
            hint="Keep it in an installation of its region, or have its region corrected.",
        )


_TOLD = {
    "home": "this installation and the files of this machine stand",
    "lake": "the files of the lake stand",
    "blobs": "the blob store stands",
}


class Residency:
    """Judges plans, and what is about to be written; fulfils ``catalog.definitions.Review``.

    Args:
        catalog: knows where data belongs.
        places: where stores stand.
    """

    def __init__(self, catalog: Catalog, places: Places) -> None:
        self._catalog = catalog
        self.places = places

    def __call__(
        self, connection: Connection, items: Sequence[PlannedDefinition], resulting: Resulting
    ) -> list[PlannedDefinition]:
        """The items as they are; raises OutOfRegion if one belongs elsewhere."""
        for item in items:
            found = resulting.get(item.kind, item.name) if item.step in _CHANGES else None
            if found is not None:
                self.places.check("lake", found.region, found.ref)
        return list(items)

    def regions(self, connection: Connection, refs: Iterable[AssetRef]) -> dict[AssetRef, str]:
        """Of some assets and of all that they were made of, those that belong to a region."""
        found: dict[AssetRef, str] = {}
        for ref in refs:
            if not self._catalog.exists(connection, ref):
                continue
            walked = self._catalog.walk(connection, ref, Direction.UPSTREAM, max_depth=50)
            for one in (ref, *walked.refs()):
                region = self._catalog.get(connection, one).region
                if region is not None:
                    found[one] = region
        return found

    def check(self, connection: Connection, place: str, refs: Iterable[AssetRef]) -> None:
        """Return if what is made of some assets may be kept in a place.

        Raises:
            OutOfRegion: one of them, or of what they were made of, belongs elsewhere.
        """
        if getattr(self.places, place) == UNSAID:
            return
        for ref, region in self.regions(connection, refs).items():
            self.places.check(place, region, ref)


_CHANGES = ("create", "update", "unchanged")

__all__ = ["UNSAID", "OutOfRegion", "Places", "Residency", "Stays", "anywhere"]
