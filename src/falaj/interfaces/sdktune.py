"""Tuning of somebody's own code: ``platform.training.tune(objective, …)``."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from falaj.interfaces.sdkrun import told
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.training.model import RunState
from falaj.training.tuning.model import (
    Pruner,
    Study,
    StudySpec,
    StudyTaken,
    TrialRecord,
    best_of,
)

if TYPE_CHECKING:
    import optuna

    from falaj.training.tuning.recorder import Recorder
    from falaj.training.tuning.service import StudyService
    from falaj.training.tuning.tuner import Objective, Told

M = TypeVar("M", bound=BaseModel)
LEASE_PATIENCE_SECONDS = 40.0
"""Longer than the lease of a tuner that was lost on another machine."""
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class Tuned:
    """What came of tuning.

    Attributes:
        run: the id of the study's run; ``platform.studies`` takes it.
        trials: all trials by number.
        best_trials: the best feasible trial; of several metrics, the Pareto front.
        optuna: the study as Optuna has it, for its own plots.
    """

    run: str
    trials: tuple[TrialRecord, ...]
    best_trials: tuple[TrialRecord, ...]
    optuna: optuna.Study

    @property
    def best_params(self) -> dict[str, Any]:
        """The parameters of the best trial.

        Raises:
            InvalidInput: no trial is complete and feasible, or there are several metrics.
        """
        if len(self.best_trials) != 1 or len(self.optuna.directions) > 1:
            raise InvalidInput(
                "There is no single best trial.",
                hint="Look at best_trials, and at the reasons of trials that failed.",
            )
        return self.best_trials[0].params


def pruner_of(given: Pruner | str) -> Pruner:
    """A pruner by its kind, or with its settings; raises InvalidInput for another word."""
    if isinstance(given, Pruner):
        return given
    return _validated(Pruner, {"kind": given})


def spec_of(**given: Any) -> StudySpec:
    """The study that is asked for; raises InvalidInput saying what does not fit."""
    for name in ("metrics", "directions"):
        if isinstance(given[name], str):
            given[name] = (given[name],)
    return _validated(StudySpec, given)


def tuned(
    studies: StudyService,
    objective: Objective,
    spec: StudySpec,
    *,
    workers: int,
    timeout_seconds: float | None,
    catch: tuple[type[Exception], ...],
    told_of: Told,
    parent: str | None,
    tags: Mapping[str, str] | None,
) -> Tuned:
    """Begin a study or take it up, and bring it to its number of trials."""
    from falaj.training.tuning.library import imported

    imported()
    from falaj.training.tuning.recorder import Recorder
    from falaj.training.tuning.storage import StudyStorage
    from falaj.training.tuning.tuner import Tuner

    if workers < 1:
        raise InvalidInput(f"workers is {workers}; it is 1 at least.")
    tuner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    study = _held(studies, spec, tuner, parent, tags)
    storage = StudyStorage(study.spec, studies.trials(study.run), study.attrs)
    recorder = Recorder(
        storage, lambda trials, attrs: studies.keep(study.run, tuner, trials, attrs=attrs)
    )
    try:
        Tuner(study.spec, storage, recorder).run(
            objective, workers=workers, timeout_seconds=timeout_seconds, catch=catch, told=told_of
        )
    except BaseException as error:
        _left(studies, recorder, study.run, tuner, error)
        raise
    recorder.close()
    trials = studies.trials(study.run)
    done = sum(trial.state.ended for trial in trials) >= study.spec.n_trials
    studies.leave(study.run, tuner, state=RunState.FINISHED if done else None)
    return Tuned(study.run, tuple(trials), best_of(study.spec, trials), storage.study())


def _left(
    studies: StudyService, recorder: Recorder, run: str, tuner: str, error: BaseException
) -> None:
    """Keep what there is and give the study back; trouble with that is told beside the error."""
    try:
        recorder.close()
        studies.leave(run, tuner, reason=told(error))
    except FalajError as failure:
        if failure is not error:
            error.add_note(f"The study {run} could not be left as it should: {failure}")


def _held(
    studies: StudyService,
    spec: StudySpec,
    tuner: str,
    parent: str | None,
    tags: Mapping[str, str] | None,
) -> Study:
    """The study, begun or taken up; waits for a lost tuner's lease to end."""
    known = studies.list(name=spec.name)
    if not known:
        return studies.begin(spec, tuner, parent=parent, tags=dict(tags or {}))
    until = time.monotonic() + LEASE_PATIENCE_SECONDS
    lost: str | None = None
    while True:
        try:
            return studies.take(known[0].run, spec, tuner, instead_of=lost)
        except StudyTaken as taken:
            holder = str(taken.details.get("tuner", ""))
            alive = _lives_here(holder)
            if alive or time.monotonic() > until:
                raise
            lost = holder if alive is False else None
        if lost is None:
            time.sleep(_PAUSE_SECONDS)


def _lives_here(tuner: str) -> bool | None:
    """True if a tuner is a process of this machine that lives, None if it is of another."""
    host, _, rest = tuner.partition(":")
    if host != socket.gethostname() or not rest:
        return None
    with suppress(ValueError):
        try:
            os.kill(int(rest.partition(":")[0]), 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True
    return None


def _validated(model: type[M], given: Mapping[str, Any]) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in wrong["loc"]) or "the study"
        raise InvalidInput(
            f"The study cannot be: {where}: {wrong['msg']}.", hint="Mend the argument."
        ) from None
