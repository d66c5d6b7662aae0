"""The loop of tuning: begin a trial, try it, tell what it gave; one by one or side by side."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from falaj.training.tuning.library import imported, pruner_of, sampler_of
from falaj.training.tuning.model import StudySpec, TrialRecord

if TYPE_CHECKING:
    from optuna import Study, Trial

    from falaj.training.tuning.recorder import Recorder
    from falaj.training.tuning.storage import StudyStorage

Objective = Callable[["Trial"], float | Sequence[float]]
"""Tries what a trial suggests; gives a value for each metric, or raises TrialPruned."""
Told = Callable[[TrialRecord], None]
"""Hears of each trial that has ended; may raise to stop."""


def unheard(_trial: TrialRecord) -> None:
    """Nobody hears."""


class Tuner:
    """Brings a study to its number of trials.

    Args:
        spec: the study.
        storage: its trials so far.
        recorder: keeps them.
        open_after: errors that say nothing of a trial, which is left to be begun again.
    """

    def __init__(
        self,
        spec: StudySpec,
        storage: StudyStorage,
        recorder: Recorder,
        *,
        open_after: tuple[type[Exception], ...] = (),
    ) -> None:
        self._optuna = imported()
        self._spec = spec
        self._storage = storage
        self._recorder = recorder
        self._open_after = open_after
        self._pruner = pruner_of(spec.pruner)
        self._beginning = threading.Lock()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None

    def run(
        self,
        objective: Objective,
        *,
        workers: int = 1,
        timeout_seconds: float | None = None,
        catch: tuple[type[Exception], ...] = (),
        told: Told = unheard,
    ) -> None:
        """Try until there are enough trials, or the time is over.

        With one worker the trials run in the calling thread. With several each runs in one of
        as many threads; when one fails, those that run are waited for and no more are begun.

        Raises:
            Whatever the objective raises that is not of ``catch``, once its trial is kept as
            failed. A trial that is interrupted (Ctrl-C) stays as it is, to be begun again.
        """
        until = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._stopped.clear()

        def work() -> None:
            while not self._stopped.is_set() and (until is None or time.monotonic() < until):
                if not self._one(objective, catch, told):
                    return

        if workers == 1:
            work()
            return

        def work_safely() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - it is raised where run() was called
                self._failure = self._failure or error
                self._stopped.set()

        threads = [
            threading.Thread(target=work_safely, name=f"falaj-trial-{n}") for n in range(workers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except BaseException:
            self._stopped.set()
            for thread in threads:
                thread.join()
            raise
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _one(self, objective: Objective, catch: tuple[type[Exception], ...], told: Told) -> bool:
        """Begin and try one trial; False if there are enough."""
        self._recorder.check()
        with self._beginning:
            number = self._storage.next_number()
            if number >= self._spec.n_trials:
                return False
            study = self._storage.study(sampler_of(self._spec, number), self._pruner)
            trial = study.ask()
        try:
            values = objective(trial)
        except self._optuna.TrialPruned:
            study.tell(trial, state=self._optuna.trial.TrialState.PRUNED)
        except Exception as error:
            if isinstance(error, self._open_after):
                raise
            self._failed(study, trial, f"{type(error).__name__}: {error}")
            if not isinstance(error, catch):
                raise
        else:
            self._complete(study, trial, values)
        told(self._storage.record(number))
        return True

    def _complete(self, study: Study, trial: Trial, values: Any) -> None:
        given = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
        try:
            study.tell(trial, list(given), state=self._optuna.trial.TrialState.COMPLETE)
        except (ValueError, TypeError) as error:
            self._failed(study, trial, f"It gave {values!r}: {error}")

    def _failed(self, study: Study, trial: Trial, reason: str) -> None:
        self._storage.reasons[trial.number] = reason
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
