"""``platform.training``: its actions, and what runs in the caller's own process."""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from falaj.interfaces.sdkrun import LiveRun
from falaj.training.model import RunState

if TYPE_CHECKING:
    from falaj.interfaces.sdktune import Tuned
    from falaj.kernel.jobs import Job
    from falaj.training.service import RunService
    from falaj.training.service import TrainingService as _Actions
    from falaj.training.tuning.model import Pruner, TrialRecord
    from falaj.training.tuning.request import TuningRequest
    from falaj.training.tuning.service import StudyService
    from falaj.training.tuning.tuner import Objective
else:
    _Actions = object


class Training(_Actions):
    """The actions of training, and runs of one's own code.

    Every action of ``TrainingService`` is a method; ``run``, ``resume`` and ``tune`` are more.
    """

    def __init__(self, actions: _Actions, runs: RunService, studies: StudyService) -> None:
        """Made by a platform.

        Args:
            actions: the face of ``TrainingService``.
            runs: the face of ``RunService``.
            studies: the face of ``StudyService``.
        """
        self._actions = actions
        self._runs = runs
        self._studies = studies
        self._open: weakref.WeakSet[LiveRun] = weakref.WeakSet()
        self._at_exit = False
        self.__doc__ = actions.__doc__

    if not TYPE_CHECKING:

        def __getattr__(self, verb: str) -> Any:
            return getattr(self._actions, verb)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self._actions), "resume", "run", "tune_here"})

    def __repr__(self) -> str:
        return repr(self._actions)

    def run(
        self,
        experiment: str,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: LiveRun | str | None = None,
        training_set: str | None = None,
        system_metrics: bool | float = False,
        code: bool = True,
    ) -> LiveRun:
        """Begin a run of this process's own code; its experiment is made if it is new.

        The file of the code that calls, its commit, the machine and the versions of what it
        has imported are recorded with it.

        Args:
            experiment: under which it stands.
            name: of the run; made up if it is not given.
            params: by name; they are kept as text.
            tags: by name.
            parent: the run that this one is a part of.
            training_set: the id of what it learns from.
            system_metrics: True to log the machine's figures as ``system/…`` every ten
                seconds; or every how many seconds.
            code: False if code and environment need not be recorded.

        Raises:
            InvalidInput: a name or a value cannot be kept. NotFound: no such parent or set.
            NoSystemMetrics: psutil is not installed.
        """
        from falaj.training.owncode import calling_code, own_environment
        from falaj.training.systemmetrics import EVERY_SECONDS

        started = self._runs.start(
            experiment,
            name=name,
            parent=parent.id if isinstance(parent, LiveRun) else parent,
            params=dict(params or {}),
            tags={key: str(value) for key, value in (tags or {}).items()},
            training_set=training_set,
            environment=own_environment() if code else None,
            code=calling_code() if code else None,
        )
        run = self._held(LiveRun(started, self._runs, self.run))
        if system_metrics is not False:
            try:
                run.sample_system(EVERY_SECONDS if system_metrics is True else system_metrics)
            except BaseException:
                run.end(RunState.FAILED, reason="The machine could not be sampled.")
                raise
        return run

    def resume(self, run: str, *, ends: bool = True) -> LiveRun:
        """Go on with a run that has not ended: from another process, or after a restart.

        Args:
            run: its id.
            ends: False if this is one of several processes of the run, and another ends it.

        Raises:
            NotFound: there is no such run.
        """
        return self._held(LiveRun(self._runs.get(run), self._runs, self.run, ends=ends))

    @overload
    def tune(self, request: TuningRequest) -> Job: ...
    @overload
    def tune(
        self,
        request: Objective,
        *,
        study: str,
        n_trials: int,
        metrics: str | Sequence[str] = "value",
        directions: str | Sequence[str] = "minimize",
        sampler: str = "tpe",
        pruner: Pruner | str = "none",
        seed: int | None = None,
        workers: int = 1,
        timeout_seconds: float | None = None,
        catch: tuple[type[Exception], ...] = (),
        experiment: str | None = None,
        parent: LiveRun | str | None = None,
        tags: Mapping[str, str] | None = None,
        on_trial: Callable[[TrialRecord], None] | None = None,
    ) -> Tuned: ...
    def tune(self, request: Any, **arguments: Any) -> Any:
        """Tune a trainer of the platform (a job), or an objective of one's own (here and now).

        Given a ``TuningRequest`` (or a dict of one) this is the action ``training.tune``, which
        gives a job at once. Given a function, the arguments are those of ``tune_here``.
        """
        if callable(request):
            return self.tune_here(request, **arguments)
        return self._actions.tune(request, **arguments)

    def tune_here(
        self,
        objective: Objective,
        *,
        study: str,
        n_trials: int,
        metrics: str | Sequence[str] = "value",
        directions: str | Sequence[str] = "minimize",
        sampler: str = "tpe",
        pruner: Pruner | str = "none",
        seed: int | None = None,
        workers: int = 1,
        timeout_seconds: float | None = None,
        catch: tuple[type[Exception], ...] = (),
        experiment: str | None = None,
        parent: LiveRun | str | None = None,
        tags: Mapping[str, str] | None = None,
        on_trial: Callable[[TrialRecord], None] | None = None,
    ) -> Tuned:
        """Try an objective with Optuna until a study has its number of trials.

        A study is known by its name: one that was interrupted, however hard, goes on where it
        stopped; a trial that was lost is begun again under its number. Each trial is a run
        nested in the run of the study.

        Args:
            objective: takes an ``optuna.Trial``, gives a number for each metric.
            study: its name.
            n_trials: how many trials it has in all, also those of earlier processes.
            metrics: a name for each number that the objective gives.
            directions: ``minimize`` or ``maximize``, for each metric.
            sampler: ``tpe``, ``random`` or ``nsga2``.
            pruner: ``none``, ``median``, ``halving``, ``hyperband``, or one with settings.
            seed: with one worker the same seed gives the same trials.
            workers: how many trials run side by side, in threads.
            timeout_seconds: after so long no trial is begun any more.
            catch: errors that fail a trial, but not the study.
            experiment: under which the runs stand; the study's name if it is not given.
            parent: the run that the study is a part of.
            tags: of the study's run.
            on_trial: hears of each trial that has ended; may raise to stop.

        Raises:
            NoOptuna: Optuna is not installed.
            StudyTaken: another process works on the study.
            InvalidInput: an argument does not fit.
            Whatever the objective raises that is not of ``catch``.
        """
        from falaj.interfaces.sdktune import pruner_of, spec_of, tuned
        from falaj.training.tuning.tuner import unheard

        spec = spec_of(
            name=study,
            experiment=experiment,
            n_trials=n_trials,
            metrics=metrics,
            directions=directions,
            sampler=sampler,
            pruner=pruner_of(pruner),
            seed=seed,
        )
        return tuned(
            self._studies,
            objective,
            spec,
            workers=workers,
            timeout_seconds=timeout_seconds,
            catch=catch,
            told_of=on_trial or unheard,
            parent=parent.id if isinstance(parent, LiveRun) else parent,
            tags=tags,
        )

    def close(self, reason: str = "The platform was closed before the run was ended.") -> None:
        """End the runs that this process began and did not end, as killed; values are sent."""
        failures = []
        for run in list(self._open):
            if run.is_over or run.is_foreign:
                continue
            try:
                run.end(RunState.KILLED, reason=reason)
            except Exception as failure:  # noqa: BLE001 - the others are ended first
                failures.append(failure)
        if self._at_exit:
            atexit.unregister(self._exit)
            self._at_exit = False
        if failures:
            raise failures[0]

    def _held(self, run: LiveRun) -> LiveRun:
        self._open.add(run)
        if not self._at_exit:
            self._at_exit = True
            atexit.register(self._exit)
        return run

    def _exit(self) -> None:
        self.close("The process ended before the run was ended.")
