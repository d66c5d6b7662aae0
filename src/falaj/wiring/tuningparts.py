"""The parts of tuning, joined; and the task in which a process of the compute tries parameters."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from falaj.kernel.compute import task
from falaj.kernel.settings import Settings
from falaj.wiring import stores

if TYPE_CHECKING:
    from falaj.kernel.compute import Compute
    from falaj.kernel.jobs import Handler
    from falaj.kernel.resources import Used
    from falaj.training.tuning.bench import TrialBench
    from falaj.training.tuning.service import StudyService
    from falaj.wiring.assembly import Premises

_OPENED: dict[str, TrialBench] = {}
"""The bench of the job that this process works on; the one before is let go."""


def study_service(made: Premises) -> StudyService:
    """The actions of studies."""
    from falaj.training.tuning.service import StudyService
    from falaj.training.tuning.studies import Studies

    return StudyService(Studies(made.runs), made.catalog, made.visible)


def tuning(made: Premises, *, compute: Callable[[], Compute] | None = None) -> Handler:
    """The handler of tuning jobs, on the given compute or on the one that the settings name."""
    from falaj.training.tuning.job import TuneJob
    from falaj.training.tuning.studies import Studies
    from falaj.wiring.computeparts import meters, run_queue
    from falaj.wiring.scoring import plain_settings
    from falaj.wiring.trainingparts import trainers

    return TuneJob(
        calls=made.calls,
        training_sets=made.training_sets,
        studies=Studies(made.runs),
        trainers=trainers(made),
        queue=run_queue(made),
        meters=meters(made),
        jobs=made.jobs,
        compute=compute or made.compute.opened,
        try_trial=try_trial,
        settings=plain_settings(made.settings),
    )


@task
def try_trial(item: Any) -> Any:
    """Try one set of parameters, as ``TuneJob`` asks: the metrics by name, and what it used."""
    from falaj.training.limitedfits import fitted_here

    used: list[Used] = []
    bench = _OPENED.get(item["bench"])
    if bench is None:
        _OPENED.clear()
        bench = _OPENED[item["bench"]] = _bench(item)
    given = (item["params"], item["metrics"])
    found = fitted_here(bench.measured, given, {}, measured=used.append)
    return {"metrics": found, "used": used[0].model_dump()}


def _bench(item: Mapping[str, Any]) -> TrialBench:
    from falaj.training.model import TrainingRequest
    from falaj.training.ports import chosen
    from falaj.training.tuning.bench import TrialBench
    from falaj.wiring.assembly import Premises
    from falaj.wiring.trainingparts import trainers

    settings = stores.checked(Settings(**item["settings"]))
    made = Premises(settings, process=f"tuning-{os.getpid()}")
    with made.database.reading() as connection:
        training_set = made.training_sets.get(connection, item["training_set"])
    request = TrainingRequest.model_validate(item["training"])
    trainer = chosen(trainers(made), request.trainer)
    return TrialBench(trainer, request, training_set, made.training_sets.load(training_set))
