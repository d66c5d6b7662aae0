"""Subjects of service management in the small world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef

if TYPE_CHECKING:
    from falaj.testing.world import World


def emergency(world: World) -> str:
    """The id of a new emergency change of the platform's own, which nobody has reviewed."""
    with world.call("system:rollouts") as call:
        return world.premises.changes.record_emergency(
            call,
            kind="rollback",
            subject=AssetRef("endpoint", "late"),
            title="Rolled back",
            reason="A guardrail was breached.",
            evidence={"error_rate": 0.2},
            payload={},
        ).id
