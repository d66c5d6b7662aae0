"""What to ask of each action of tracking in the small world; see ``falaj.testing.subjects``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.testing.world import World

Asked = Callable[["World"], Mapping[str, Any]]


def of_tracking() -> dict[str, Asked]:
    """How to make the arguments of each action, by its name."""
    dataset = {"name": "flights", "digest": "d1", "tags": {"mlflow.data.context": "training"}}
    return {
        "runs.start": lambda _world: {"experiment": "by-hand", "params": {"rate": 0.1}},
        "runs.log": lambda world: {
            "run": world.started_run(),
            "metrics": [{"key": "auc", "value": 0.75, "step": 1}],
        },
        "runs.finish": lambda world: {"run": world.started_run()},
        "runs.update": lambda world: {"run": world.started_run(), "name": "renamed"},
        "runs.delete": lambda world: {"run": world.started_run()},
        "runs.restore": _deleted_run,
        "runs.untag": _tagged_run,
        "runs.add_inputs": lambda world: {"run": world.started_run(), "datasets": [dataset]},
        "runs.get": lambda world: {"run": world.facts["run"]},
        "runs.history": lambda world: {"run": world.facts["run"], "key": "test_auc"},
        "runs.series": lambda world: {"run": world.facts["run"], "key": "test_auc"},
        "runs.compare": lambda world: {"runs": [world.facts["run"], world.started_run()]},
        "runs.search": lambda _world: {"filter": "metrics.test_auc > 0"},
        "experiments.create": lambda world: {"name": world.new("model")},
        "experiments.search": lambda _world: {"filter": "name = 'late'"},
        "experiments.named": lambda _world: {"name": "late"},
        "experiments.get": lambda world: {"experiment": _experiment(world)},
        "experiments.rename": lambda world: {
            "experiment": _experiment(world),
            "name": world.new("model"),
        },
        "experiments.delete": lambda world: {"experiment": _experiment(world)},
        "experiments.restore": _deleted_experiment,
        "experiments.tag": lambda world: {
            "experiment": _experiment(world),
            "tags": {"team": "delays"},
        },
        "experiments.untag": _tagged_experiment,
        "experiments.datasets": lambda world: {"experiments": [_experiment(world)]},
    }


def _experiment(world: World) -> str:
    """The id of a new experiment."""
    with world.call() as call:
        experiments = world.premises.runs.experiments_kept
        return experiments.create(call, world.new("model")).id


def _deleted_run(world: World) -> Mapping[str, Any]:
    run = world.started_run()
    with world.call() as call:
        world.premises.runs.delete(call, run)
    return {"run": run}


def _tagged_run(world: World) -> Mapping[str, Any]:
    run = world.started_run()
    with world.call() as call:
        world.premises.runs.tag(call, run, {"team": "delays"})
    return {"run": run, "key": "team"}


def _deleted_experiment(world: World) -> Mapping[str, Any]:
    experiment = _experiment(world)
    with world.call() as call:
        world.premises.runs.experiments_kept.delete(call, experiment)
    return {"experiment": experiment}


def _tagged_experiment(world: World) -> Mapping[str, Any]:
    experiment = _experiment(world)
    with world.call() as call:
        world.premises.runs.experiments_kept.tag(call, experiment, {"team": "delays"})
    return {"experiment": experiment, "key": "team"}
