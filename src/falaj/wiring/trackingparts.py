"""The services of tracking, with what they ask of the policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.wiring.artifactparts import artifacts
from falaj.wiring.readingparts import guarded_lake
from falaj.wiring.trainingparts import reproducing

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.training.service import RunService
    from falaj.training.tracking.pageseal import PageSeal
    from falaj.training.tracking.service import ExperimentService
    from falaj.wiring.assembly import Premises


def run_service(made: Premises) -> RunService:
    """The actions on runs."""
    from falaj.training.service import RunService
    from falaj.training.tracking.searching import RunSearch

    search = RunSearch(made.visible, lambda call: _tells_apart(made, call))
    return RunService(
        made.runs,
        search,
        made.catalog,
        made.visible,
        made.may,
        artifacts(made),
        reproducing(made, guarded_lake(made)),
        page_seal(made),
    )


def experiment_service(made: Premises) -> ExperimentService:
    """The actions on experiments."""
    from falaj.training.tracking.searching import ExperimentSearch
    from falaj.training.tracking.service import ExperimentService

    experiments = made.runs.experiments_kept
    search = ExperimentSearch(experiments, made.visible, lambda call: _tells_apart(made, call))
    return ExperimentService(experiments, search, made.may, page_seal(made))


def page_seal(made: Premises) -> PageSeal:
    """Seals page tokens; its key is the same in every process."""
    from falaj.training.tracking.pageseal import PURPOSE, PageSeal

    return PageSeal(lambda: made.keys.derive(PURPOSE))


def _tells_apart(made: Premises, call: Call) -> bool:
    """Whether a policy tells assets with the same attributes apart, as this caller sees them."""
    return made.policy.tells_apart(call.caller, "assets.get")
