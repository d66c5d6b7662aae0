"""Where the stores of a platform stand, as its settings say."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from falaj.catalog.residency import Places, Residency

if TYPE_CHECKING:
    from falaj.kernel.settings import Settings
    from falaj.wiring.assembly import Premises


def places(settings: Settings) -> Places:
    """Where the lake's files, the blobs and the installation itself stand."""
    return Places(
        home=settings.region,
        lake=_region_of(settings.lake_data, settings.region),
        blobs=_region_of(settings.blobs, settings.region),
    )


def residency(made: Premises) -> Residency:
    """Keeps data in its region."""
    return Residency(made.catalog, places(made.settings))


def _region_of(store: str, home: str) -> str:
    """The region that a bucket's URL names; else that of the installation."""
    if store == "file:":
        return home
    return parse_qs(urlsplit(store).query).get("region", [home])[-1]
