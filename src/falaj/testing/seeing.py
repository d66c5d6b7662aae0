"""Lakes of which everybody sees everything, for tests of what stands upon them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.lake.reading import GuardedLake
from falaj.lake.sight import READ, Sight, Sights

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.lake.ports import Lake


class SeesAll(Sights):
    """Tells of every table that its reader sees all of it."""

    def __init__(self) -> None:
        """It asks nobody."""

    def of(self, call: Call, table: str, action: str = READ) -> Sight:
        """All of it."""
        return Sight(table, {}, (), lambda: b"")


def whole(lake: Lake | Any = None) -> GuardedLake:
    """A lake that shows all rows and all columns to everybody."""
    return GuardedLake(lake, SeesAll())
