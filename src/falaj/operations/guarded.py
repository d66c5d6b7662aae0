"""What the services of this room share: lists that show what the caller may see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from pydantic import Field

from falaj.catalog.assets import Catalog
from falaj.kernel.actions import Service
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Resource
from falaj.operations.model import MOST_LISTED

Visible = Callable[[Call, Resource], bool]
"""True if the caller may know of the resource."""
Subjects = Annotated[list[str], Field(max_length=MOST_LISTED)]
"""Assets, as ``kind:key``."""


class Guarded(Service):
    """A service whose lists show what the caller may see."""

    def __init__(self, catalog: Catalog, visible: Visible) -> None:
        self._catalog = catalog
        self._visible = visible

    def may_see(self, ref: AssetRef) -> bool:
        """True if the caller may know of an asset."""
        return self._visible(self.call, self._catalog.load(self.call.connection, ref))

    def subjects(self, named: Sequence[str] | None) -> Sequence[AssetRef] | None:
        """The assets that a caller asks about, as ``kind:key``, without those that it may not
        know of; None if it asks about all. Raises InvalidInput."""
        if named is None:
            return None
        return [ref for ref in map(asset, named) if self.may_see(ref)]


def asset(text: str) -> AssetRef:
    """The asset that a text names as ``kind:key``; raises InvalidInput."""
    try:
        return AssetRef.parse(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no asset.", hint="Write kind:key, such as endpoint:flight-delay."
        ) from None
