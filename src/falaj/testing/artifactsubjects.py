"""What to ask of the actions on artifacts and logged models in the small world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.testing.world import World

_SWEPT = "the bytes arrive before they are named; what nobody names is swept"


def of_artifacts() -> dict[str, tuple[Callable[[World], Mapping[str, Any]], frozenset[str], str]]:
    """By action: its arguments, the passing facts of its answer, what lies outside."""
    made = frozenset({"id"})
    plain: dict[str, Callable[[World], Mapping[str, Any]]] = {
        "runs.artifacts": lambda world: {"run": run_with_file(world)},
        "runs.fetch_artifact": lambda world: {"run": run_with_file(world), "path": "a/b"},
        "runs.check_artifact": lambda world: {"run": run_with_file(world), "path": "a/c"},
        "runs.remove_artifact": lambda world: {"run": run_with_file(world), "path": "a"},
        "loggedmodels.search": lambda _world: {"filter": "name = 'no-such-model'"},
        "loggedmodels.add_params": _of_model(params={"depth": "3"}),
        "loggedmodels.tag": _of_model(tags={"a": "b"}),
        "loggedmodels.untag": _of_model(key="kept"),
        "loggedmodels.delete": _of_model(),
        "loggedmodels.artifacts": _of_model(),
        "loggedmodels.fetch_artifact": _of_model(path="a/b"),
        "loggedmodels.check_artifact": _of_model(path="a/c"),
        "loggedmodels.remove_artifact": _of_model(path="a"),
    }
    return {
        **{name: (asked, frozenset[str](), "") for name, asked in plain.items()},
        "runs.keep_artifact": (
            lambda world: {"run": world.started_run(), "path": "a/b", "content": b"words"},
            frozenset(),
            _SWEPT,
        ),
        "loggedmodels.create": (
            lambda _world: {"experiment": "by-hand", "name": "tree", "params": {"depth": "3"}},
            made,
            "",
        ),
        "loggedmodels.get": (_of_model(), made, ""),
        "loggedmodels.finish": (_of_model(), made, ""),
        "loggedmodels.keep_artifact": (_of_model(path="x", content=b"words"), frozenset(), _SWEPT),
    }


def _of_model(**more: Any) -> Callable[[World], Mapping[str, Any]]:
    return lambda world: {"model": logged_model(world), **more}


def run_with_file(world: World) -> str:
    """The id of a run that goes on, with the artifact ``a/b``."""
    from falaj.training.artifacts import RUNS

    run = world.started_run()
    _keep(world, RUNS, run)
    return run


def logged_model(world: World, **given: Any) -> str:
    """The id of a logged model that is pending, with the file ``a/b`` and the tag ``kept``.

    Args:
        given: more arguments of ``LoggedModels.create``.
    """
    from falaj.training.loggedmodels import LOGGED_MODELS, LoggedModels

    run = world.started_run()
    made = world.premises
    arguments = {"experiment": "by-hand", "name": "tree", "source_run": run, **given}
    with world.call() as call:
        models = LoggedModels(made.catalog, made.runs.experiments_kept)
        model = models.create(call, tags={"kept": "yes", **arguments.pop("tags", {})}, **arguments)
    _keep(world, LOGGED_MODELS, model.id)
    return model.id


def _keep(world: World, shelf: Any, owner: str) -> None:
    from falaj.wiring.artifactparts import artifacts

    incoming = world.premises.streams.begin()
    incoming.write(b"what is kept")
    kept = incoming.finish()
    with world.call() as call:
        artifacts(world.premises).keep(call, shelf, owner, "a/b", kept)
