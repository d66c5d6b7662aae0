"""The artifacts of runs and logged models, and what clears away what no one names any more."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from falaj.wiring.seldom import Seldom

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.training.artifactparts import Receipts
    from falaj.training.artifacts import Artifacts
    from falaj.training.loggedmodel_service import LoggedModelService
    from falaj.wiring.assembly import Premises

_LEFT_OVER_AFTER = timedelta(hours=24)
"""A stream that nobody names may still be on its way for so long."""
_SWEEP_SECONDS = 3600.0
_CLEAR_SECONDS = 2.0


def artifacts(made: Premises) -> Artifacts:
    """The artifacts of every kind of owner."""
    from falaj.models.heldfolders import HeldFolders
    from falaj.training.artifacts import RUNS, Artifacts
    from falaj.training.loggedmodels import LOGGED_MODELS

    held = HeldFolders(made.catalog)
    return Artifacts(made.streams, made.blobs, (RUNS, LOGGED_MODELS), held)


def logged_models(made: Premises) -> LoggedModelService:
    """The actions of logged models."""
    from falaj.training.loggedmodel_service import LoggedModelService
    from falaj.training.loggedmodels import LoggedModels
    from falaj.training.loggedmodelsearch import LoggedModelSearch
    from falaj.training.tracking.pageseal import PURPOSE, PageSeal

    def apart(call: Call) -> bool:
        return made.policy.tells_apart(call.caller, "assets.get")

    models = LoggedModels(made.catalog, made.runs.experiments_kept)
    search = LoggedModelSearch(models, made.visible, apart)
    return LoggedModelService(
        models,
        search,
        made.runs,
        artifacts(made),
        made.catalog,
        made.may,
        made.visible,
        PageSeal(lambda: made.keys.derive(PURPOSE)),
    )


def artifact_chores(made: Premises) -> dict[str, Callable[[], object]]:
    """What the worker does for artifacts again and again."""
    kept = artifacts(made)

    def known(streams: list[str]) -> set[str]:
        with made.database.reading() as connection:
            return kept.known(connection, streams)

    def swept() -> None:
        made.streams.sweep(known, made.clock.now() - _LEFT_OVER_AFTER)

    return {
        "dropped artifacts": Seldom(
            lambda: kept.clear(made.database), every_seconds=_CLEAR_SECONDS
        ),
        "left-over streams": Seldom(swept, every_seconds=_SWEEP_SECONDS),
    }


def part_receipts(made: Premises) -> Receipts:
    """Receipts of parts of artifacts; their key is the same in every process."""
    from falaj.training.artifactparts import PURPOSE, Receipts

    return Receipts(lambda: made.keys.derive(PURPOSE))
