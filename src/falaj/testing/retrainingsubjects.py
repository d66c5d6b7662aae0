"""What to ask of the actions of retraining in the small world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.testing.world import World

Asked = tuple[Callable[["World"], Mapping[str, Any]], frozenset[str]]
_PASSING = frozenset({"name", "retraining", "keys", "refs", "champion"})


def of_retraining() -> dict[str, Asked]:
    """By action: its arguments, and the passing facts of its answer."""

    def of(make: Callable[[World], str], **more: Any) -> Callable[[World], Mapping[str, Any]]:
        return lambda world: {"name": make(world), **more}

    return {
        "retraining.status": (of(declared), _PASSING),
        "retraining.history": (of(begun), _PASSING),
        "retraining.run": (of(declared, reason="The runways have changed."), _PASSING),
    }


def declared(world: World) -> str:
    """The name of a new retraining, which waits for a cause."""
    from falaj.monitoring.retrainingwords import OnFinding, Retraining

    name = world.new("entity")
    one = Retraining(
        name=name, endpoint="late", model="late", pipeline="counting",
        triggers=(OnFinding(monitor="late-drift"),),
    )  # fmt: skip
    with world.call() as call:
        world.premises.definitions.apply(call, [one.document()])
    return name


def begun(world: World) -> str:
    """The name of a new retraining of which one has begun."""
    from falaj.wiring.retrainingparts import retrainer

    name = declared(world)
    with world.call() as call:
        retrainer(world.premises).ask(call, name, "The runways have changed.")
    return name
