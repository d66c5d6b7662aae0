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
    from falaj.training.ports import Trainer
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
    from falaj.wiring.scoring import plain_settings

    return TuneJob(
        calls=made.calls,
        training_sets=made.training_sets,
        studies=Studies(made.runs),
        trainers=_trainers(),
        jobs=made.jobs,
        compute=compute or (lambda: stores.compute(made.settings)),
        try_trial=try_trial,
        settings=plain_settings(made.settings),
    )


@task
def try_trial(item: Any) -> Any:
    """Try one set of parameters, as ``TuneJob`` asks; the metrics by name."""
    bench = _OPENED.get(item["bench"])
    if bench is None:
        _OPENED.clear()
        bench = _OPENED[item["bench"]] = _bench(item)
    return bench.measured(item["params"], item["seed"], item["metrics"])


def _bench(item: Mapping[str, Any]) -> TrialBench:
    from falaj.training.ports import chosen
    from falaj.training.tuning.bench import TrialBench
    from falaj.wiring.assembly import Premises

    settings = stores.checked(Settings(**item["settings"]))
    made = Premises(settings, process=f"tuning-{os.getpid()}")
    with made.database.reading() as connection:
        training_set = made.training_sets.get(connection, item["training_set"])
    trainer = chosen(_trainers(), item["trainer"])
    return TrialBench(made.training_sets, training_set, item["features"], trainer)


def _trainers() -> dict[str, Trainer]:
    from falaj.training.adapters.trainer_lightgbm import LightGbmTrainer

    return {"lightgbm": LightGbmTrainer()}
