"""A study in the memory of its tuner, which knows what has changed since it was kept last.

Optuna reads and writes here at the speed of memory; what changed is kept in the platform's
database a few times a second, whole trials at a time (see ``recorder``). One process works on
a study, so nothing changes but here. Imported only where Optuna is installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as State

from falaj.kernel.errors import InvalidInput
from falaj.training.tuning.library import imported
from falaj.training.tuning.model import StudySpec, TrialRecord, TrialState

_STATES = {
    TrialState.RUNNING: State.RUNNING,
    TrialState.COMPLETE: State.COMPLETE,
    TrialState.PRUNED: State.PRUNED,
    TrialState.FAILED: State.FAIL,
}
_RECORDED = {theirs: ours for ours, theirs in _STATES.items()}
_USER, _SYSTEM = "user", "system"


class StudyStorage(InMemoryStorage):
    """Optuna's storage of one study, begun with the trials that were kept.

    A trial that had not ended is one whose process was lost: it waits to be begun again,
    under its number.

    Args:
        spec: the study.
        trials: those that were kept, by number.
        attrs: what the sampler had kept with the study.
        numbered: False if the trials are some of the study's, to be looked at alone.
    """

    def __init__(
        self,
        spec: StudySpec,
        trials: Sequence[TrialRecord] = (),
        attrs: dict[str, Any] | None = None,
        *,
        numbered: bool = True,
    ) -> None:
        imported()  # which also keeps Optuna from telling of a study made in memory
        super().__init__()
        self.spec = spec
        self.reasons: dict[int, str] = {}
        """Why trials failed, by number."""
        self._attempts = {trial.number: trial.attempt for trial in trials}
        self._changed: set[int] = set()
        self._under_way: set[int] = set()
        self._attrs_changed = False
        directions = [StudyDirection[direction.upper()] for direction in spec.directions]
        self.study_id = self.create_new_study(directions, spec.name)
        for scope, keep in (
            (_USER, self.set_study_user_attr),
            (_SYSTEM, self.set_study_system_attr),
        ):
            for key, value in (attrs or {}).get(scope, {}).items():
                keep(self.study_id, key, value)
        by_number = {trial.number: trial for trial in trials}
        numbers = range(max(by_number, default=-1) + 1) if numbered else sorted(by_number)
        for number in numbers:
            found = by_number.get(number)
            if found is None or not found.state.ended:
                self._attempts[number] = self._attempts.get(number, 0) + 1
                found = None
            self.create_new_trial(self.study_id, _frozen(found))
        self._changed.clear()
        self._attrs_changed = False

    def study(self, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> Study:
        """Optuna's study on this storage."""
        return Study(self.spec.name, self, sampler, pruner)

    def next_number(self) -> int:
        """The number of the trial that ``Study.ask`` begins next: a lost one before a new one."""
        with self._lock:
            trials = self.get_all_trials(self.study_id, deepcopy=False)
            waiting = (trial.number for trial in trials if trial.state is State.WAITING)
            return next(waiting, len(trials))

    def n_ended(self) -> int:
        """How many trials have ended."""
        trials = self.get_all_trials(self.study_id, deepcopy=False)
        return sum(trial.state.is_finished() for trial in trials)

    def take_changed(self, *, under_way: bool = True) -> tuple[list[TrialRecord], dict[str, Any]]:
        """The trials and attributes that have changed since the last time; {} if none have.

        Args:
            under_way: False to leave what trials say between their beginning and their end for
                another time.
        """
        with self._lock:
            if under_way:
                self._changed |= self._under_way
            self._under_way -= self._changed
            trials = [self.record(number) for number in sorted(self._changed)]
            attrs = {}
            if self._attrs_changed:
                attrs = {
                    _USER: dict(self.get_study_user_attrs(self.study_id)),
                    _SYSTEM: dict(self.get_study_system_attrs(self.study_id)),
                }
            self._changed.clear()
            self._attrs_changed = False
        return trials, attrs

    def put_back(self, trials: Sequence[TrialRecord], attrs: dict[str, Any]) -> None:
        """What was taken could not be kept: it has still changed."""
        with self._lock:
            self._changed |= {trial.number for trial in trials}
            self._attrs_changed |= bool(attrs)

    def record(self, number: int) -> TrialRecord:
        """A trial as it is kept."""
        found = self.get_trial(self.get_trial_id_from_study_id_trial_number(self.study_id, number))
        return TrialRecord(
            number=number,
            state=_RECORDED[found.state],
            attempt=self._attempts.get(number, 1),
            values=None if found.values is None else tuple(found.values),
            params=dict(found.params),
            distributions={
                name: distribution_to_json(one) for name, one in found.distributions.items()
            },
            intermediate=dict(found.intermediate_values),
            constraints=dict(found.constraints),
            user_attrs=dict(found.user_attrs),
            system_attrs=dict(found.system_attrs),
            reason=self.reasons.get(number, ""),
            started_at=_aware(found.datetime_start),
            ended_at=_aware(found.datetime_complete),
        )

    # What Optuna writes.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """See ``BaseStorage``."""
        with self._lock:
            trial_id = super().create_new_trial(study_id, template_trial)
            self._touch(trial_id)
            return trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """See ``BaseStorage``."""
        with self._lock:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
            self._under_way.add(self._get_trial(trial_id).number)

    def set_trial_state_values(
        self, trial_id: int, state: State, values: Sequence[float] | None = None
    ) -> bool:
        """See ``BaseStorage``."""
        with self._lock:
            done = super().set_trial_state_values(trial_id, state, values)
            self._touch(trial_id)
            return done

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """See ``BaseStorage``."""
        with self._lock:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
            self._under_way.add(self._get_trial(trial_id).number)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``; raises InvalidInput for what is no JSON."""
        _check_json(key, value)
        with self._lock:
            super().set_trial_user_attr(trial_id, key, value)
            self._under_way.add(self._get_trial(trial_id).number)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``."""
        with self._lock:
            super().set_trial_system_attr(trial_id, key, value)
            self._under_way.add(self._get_trial(trial_id).number)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``; raises InvalidInput for what is no JSON."""
        _check_json(key, value)
        with self._lock:
            super().set_study_user_attr(study_id, key, value)
            self._attrs_changed = True

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """See ``BaseStorage``."""
        with self._lock:
            super().set_study_system_attr(study_id, key, value)
            self._attrs_changed = True

    def _touch(self, trial_id: int) -> None:
        trial = self._get_trial(trial_id)
        if trial.state is not State.WAITING:
            self._changed.add(trial.number)


def _frozen(record: TrialRecord | None) -> FrozenTrial:
    """A kept trial as Optuna has it; one that waits if there is none."""
    if record is None:
        return FrozenTrial(
            trial_id=-1, number=-1, state=State.WAITING, value=None, params={}, distributions={},
            user_attrs={}, system_attrs={}, intermediate_values={}, datetime_start=None,
            datetime_complete=None,
        )  # fmt: skip
    return FrozenTrial(
        trial_id=-1,
        number=record.number,
        state=_STATES[record.state],
        value=None,
        values=record.values,
        params=dict(record.params),
        distributions={
            name: json_to_distribution(text) for name, text in record.distributions.items()
        },
        user_attrs=dict(record.user_attrs),
        system_attrs=dict(record.system_attrs),
        intermediate_values=dict(record.intermediate),
        datetime_start=_naive(record.started_at),
        datetime_complete=_naive(record.ended_at),
    )


def _check_json(key: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"The attribute {key!r} cannot be kept: {error}.",
            hint="Give text, numbers, and lists and dicts of them.",
        ) from None


def _aware(at: datetime | None) -> datetime | None:
    """Optuna's instants are the machine's local time, without a zone."""
    return None if at is None else at.astimezone(UTC)


def _naive(at: datetime | None) -> datetime | None:
    return None if at is None else at.astimezone().replace(tzinfo=None)
