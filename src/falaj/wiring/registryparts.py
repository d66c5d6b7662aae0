"""The parts of the registry, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.models.registered import RegistryParts
    from falaj.operations.changes import ChangeHandler
    from falaj.wiring.assembly import Premises


def registry_parts(made: Premises) -> RegistryParts:
    """What is said of models and versions."""
    from falaj.models.registered import RegistryParts
    from falaj.serving.heldversions import HeldVersions

    return RegistryParts.of(
        made.registry, made.promotions, made.changes, made.catalog, made.visible, HeldVersions()
    )


def model_changes(made: Premises) -> dict[str, ChangeHandler]:
    """What approving each kind of change of models does."""
    from falaj.models.aliases import ALIAS_CHANGE
    from falaj.models.promotion import CHANGE_KIND

    def promoted(call: Call, change: Any) -> None:
        made.promotions.apply(call, change)

    def alias_moved(call: Call, change: Any) -> None:
        registry_parts(made).aliases.apply(call, change)

    return {CHANGE_KIND: promoted, ALIAS_CHANGE: alias_moved}
