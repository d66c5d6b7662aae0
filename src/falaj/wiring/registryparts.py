"""The parts of the registry, joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.kernel.jobs import Handler
    from falaj.models.adoption import Adopting
    from falaj.models.brought import BringJob
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


def adopting(made: Premises) -> Adopting:
    """Takes requests to adopt versions of MLflow's clients."""
    from falaj.models.adoption import Adopting

    return Adopting(made.registry, made.training_sets, made.jobs)


def adoption(made: Premises, bringing: BringJob) -> Handler:
    """Adopts them."""
    from falaj.models.adapters.estimator_skops import SkopsToOnnx
    from falaj.models.adoption import AdoptJob
    from falaj.wiring.artifactparts import artifacts

    return AdoptJob(made.calls, made.registry, artifacts(made), bringing, SkopsToOnnx())


def model_changes(made: Premises) -> dict[str, ChangeHandler]:
    """What approving each kind of change of models does."""
    from falaj.models.aliases import ALIAS_CHANGE
    from falaj.models.promotion import CHANGE_KIND

    def promoted(call: Call, change: Any) -> None:
        made.promotions.apply(call, change)

    def alias_moved(call: Call, change: Any) -> None:
        registry_parts(made).aliases.apply(call, change)

    return {CHANGE_KIND: promoted, ALIAS_CHANGE: alias_moved}
