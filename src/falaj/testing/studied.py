"""A study with trials, for those who ask the small world about one."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from falaj.testing.world import BEGIN
from falaj.training.tuning.model import StudySpec, TrialRecord, TrialState

if TYPE_CHECKING:
    from falaj.testing.world import World

TUNER = "a tuner"
X = '{"name": "FloatDistribution", "attributes": {"low": 0, "high": 9, "log": false, "step": null}}'


def studied(world: World) -> str:
    """The run of a new study with three complete trials and one that is under way."""
    from falaj.training.tuning.studies import Studies

    studies = Studies(world.premises.runs)
    ended = [
        TrialRecord(
            number=number,
            state=TrialState.COMPLETE,
            values=(float(value),),
            params={"x": float(value)},
            distributions={"x": X},
            started_at=BEGIN,
            ended_at=BEGIN + timedelta(seconds=number + 1),
        )
        for number, value in enumerate((4, 1, 2))
    ]
    under_way = TrialRecord(number=3, state=TrialState.RUNNING, started_at=BEGIN)
    with world.call() as call:
        spec = StudySpec(name=world.new("study"), n_trials=4, seed=1)
        study = studies.begin(call, spec, TUNER)
        studies.keep(call, study.run, TUNER, [*ended, under_way])
    return study.run
