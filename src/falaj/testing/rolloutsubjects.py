"""What to ask of the actions of rollouts in the small world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.testing.world import World

Asked = tuple[Callable[["World"], Mapping[str, Any]], frozenset[str]]
_PASSING = frozenset({"name", "endpoint", "stage_since", "shares_since", "started_at", "due_at"})
_CHANGE = frozenset({"fingerprint", "payload", "evidence", "title"})


def of_rollouts() -> dict[str, Asked]:
    """By action: its arguments, and the passing facts of its answer."""
    why = {"reason": "It looks better."}

    def of(make: Callable[[World], str], **more: Any) -> Callable[[World], Mapping[str, Any]]:
        return lambda world: {"name": make(world), **more}

    return {
        "rollouts.show": (of(started), _PASSING),
        "rollouts.looks": (of(started), frozenset()),
        "rollouts.history": (of(started), _PASSING),
        "rollouts.start": (of(declared, **why), _CHANGE),
        "rollouts.pause": (of(started, **why), _PASSING),
        "rollouts.resume": (of(paused, **why), _PASSING),
        "rollouts.stop": (of(started, **why), _PASSING),
        "rollouts.override": (of(started, stage=2, **why), _PASSING),
        "rollouts.conclude": (of(started, challenger="other", **why), _PASSING),
    }


def declared(world: World) -> str:
    """The name of a new rollout on an endpoint of its own, which serves."""
    from falaj.rollouts.model import Challenger, Rollout, Stage
    from falaj.serving.model import Endpoint

    name, releases = world.new("entity"), world.premises.serving.releases
    rollout = Rollout(
        name=name,
        endpoint=name,
        challengers=(Challenger(name="other", version=1, share=0.5),),
        stages=(Stage(share=0.1), Stage(share=0.5)),
    )
    with world.call() as call:
        endpoint = Endpoint(name=name, model="late", unit="carrier")
        world.premises.definitions.apply(call, [endpoint, rollout])
    with world.call() as call:
        release = releases.deploy(call, name).id
        releases.activate(call, name, release, wait_seconds=1.0)
    return name


def started(world: World) -> str:
    """The name of a new rollout that has started."""
    from falaj.wiring.rolloutparts import RolloutParts

    name = declared(world)
    with world.call("user:omar") as call:
        change = RolloutParts(world.premises).starting.ask(call, name, "Try it.").id
    with world.call() as call:
        world.premises.changes.approve(call, change, "The evidence is good.")
    return name


def paused(world: World) -> str:
    """The name of a new rollout that is paused."""
    from falaj.rollouts.steering import Steering
    from falaj.wiring.rolloutparts import RolloutParts

    name = started(world)
    with world.call() as call:
        Steering(RolloutParts(world.premises).following).pause(call, name, "Wait.")
    return name
