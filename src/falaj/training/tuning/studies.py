"""Studies and trials in the metadata database, beside the runs that show them.

One process at a time works on a study: it holds a lease, which each of its messages renews.
A trial is one row, written again as a whole until it has ended, and not after: a message that
comes twice, or a trial that is begun again, changes nothing that was counted.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import func, insert, select, update

from falaj.kernel.errors import AlreadyExists, Conflict, NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.training.model import MetricPoint, RunState
from falaj.training.tuning.model import (
    STATE_TAG,
    STUDY_TAG,
    TRIAL_TAG,
    Study,
    StudySpec,
    StudyTaken,
    TrialRecord,
    TrialState,
    best_of,
)
from falaj.training.tuning.tables import study_rows, trial_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Row

    from falaj.kernel.call import Call
    from falaj.training.tracking.runs import Runs

LEASE = timedelta(seconds=30)
ERROR_TAG, BEST_TAG = "falaj.error", "falaj.best_trial"
_LOST = "The study was ended before this trial."
_LONGEST_REASON = 2_000
_LONGEST_TAG = 8_000
_ENDS = {
    TrialState.COMPLETE: RunState.FINISHED,
    TrialState.PRUNED: RunState.FINISHED,
    TrialState.FAILED: RunState.FAILED,
}


class Studies:
    """Studies, their trials, and the nested run of each trial.

    Args:
        runs: where the runs are kept; all functions work in the caller's transaction.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def begin(
        self,
        call: Call,
        spec: StudySpec,
        tuner: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        training_set: str | None = None,
    ) -> Study:
        """Make a study and its run; the tuner holds it.

        Raises:
            AlreadyExists: there is a study of that name.
            NotFound: the parent is no run, or there is no such training set.
        """
        if spec.seed is None:
            spec = spec.model_copy(update={"seed": secrets.randbelow(2**31)})
        run = self._runs.start(
            call,
            experiment=spec.experiment or spec.name,
            name=spec.name,
            parent=parent,
            params=_told(spec),
            tags={**(tags or {}), STUDY_TAG: spec.name},
            training_set=training_set,
            open_ended=True,  # a study may get more trials later
        )
        made = insert_if_absent(
            call.connection,
            study_rows,
            {
                "run_id": run.id,
                "name": spec.name,
                "spec": spec.model_dump(mode="json"),
                "attrs": {},
                "created_at": call.now,
                "created_by": call.principal.id,
                "tuner": tuner,
                "tuner_until": call.now + LEASE,
            },
        )
        if not made:
            raise AlreadyExists(
                f"There is a study {spec.name!r} already.",
                hint="Take another name, or take that one up.",
            )
        call.note(study=run.id)
        return self.get(call.connection, run.id)

    def take(
        self, call: Call, run: str, spec: StudySpec, tuner: str, *, instead_of: str | None = None
    ) -> Study:
        """Take a study up: its lease, and how many trials it shall have.

        Args:
            instead_of: a tuner that is known to have ended, though its lease runs on.

        Raises:
            NotFound: no such study. StudyTaken: another tuner works on it.
            Conflict: it looks for something else than ``spec``.
        """
        row = self._row(call.connection, run, locked=True)
        held = row.tuner is not None and row.tuner_until > call.now
        if held and row.tuner not in (tuner, instead_of):
            raise StudyTaken(
                f"{row.tuner} works on the study {row.name!r}.",
                hint=f"Wait until it has ended; if it was lost, for {LEASE.seconds} s.",
                tuner=row.tuner,
            )
        kept = StudySpec.model_validate(row.spec)
        for what in ("metrics", "directions"):
            if getattr(kept, what) != getattr(spec, what):
                raise Conflict(
                    f"The study {row.name!r} has the {what} {', '.join(getattr(kept, what))}.",
                    hint="Take another name for what is another study.",
                )
        seed = kept.seed if spec.seed is None else spec.seed
        spec = spec.model_copy(update={"seed": seed, "experiment": kept.experiment})
        call.connection.execute(
            update(study_rows)
            .where(study_rows.c.run_id == run)
            .values(spec=spec.model_dump(mode="json"), tuner=tuner, tuner_until=call.now + LEASE)
        )
        return self.get(call.connection, run)

    def keep(
        self,
        call: Call,
        run: str,
        tuner: str,
        trials: Sequence[TrialRecord],
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep trials as they stand now, with their runs; renews the lease.

        Raises:
            NotFound: no such study. StudyTaken: this tuner does not hold it any more.
        """
        row = self._row(call.connection, run, locked=True)
        if row.tuner != tuner:
            raise StudyTaken(
                f"The study {row.name!r} is no longer held by {tuner}.",
                hint="Another process has taken it up; leave it to that one.",
            )
        values: dict[str, Any] = {"tuner_until": call.now + LEASE}
        if attrs:
            values["attrs"] = {**row.attrs, **attrs}
        call.connection.execute(
            update(study_rows).where(study_rows.c.run_id == run).values(**values)
        )
        spec = StudySpec.model_validate(row.spec)
        numbers = [trial.number for trial in trials]
        rows = call.connection.execute(
            select(trial_rows).where(trial_rows.c.study == run, trial_rows.c.number.in_(numbers))
        )
        known = {found.number: found for found in rows}
        for trial in trials:
            self._keep_trial(call, run, spec, trial, known.get(trial.number))

    def leave(
        self, call: Call, run: str, tuner: str, state: RunState | None, reason: str = ""
    ) -> Study:
        """Give a study back; a study that nobody holds any more is left as it is.

        Args:
            state: how its run ends; None if it shall be taken up again.
            reason: why it was left before its end.
        """
        row = self._row(call.connection, run, locked=True)
        if row.tuner != tuner:
            return self.get(call.connection, run)
        call.connection.execute(
            update(study_rows)
            .where(study_rows.c.run_id == run)
            .values(tuner=None, tuner_until=None)
        )
        if reason:
            self._runs.tag(call, run, {ERROR_TAG: reason[:_LONGEST_REASON]})
        best = best_of(StudySpec.model_validate(row.spec), self.trials(call.connection, run))
        if best:
            self._runs.tag(call, run, {BEST_TAG: ",".join(str(one.number) for one in best)[:200]})
        if state is not None:
            self._end_lost(call, run)
        running = self._runs.get(call.connection, run).state is RunState.RUNNING
        if state is not None and running:
            self._runs.finish(call, run, state)
        return self.get(call.connection, run)

    def get(self, connection: Connection, run: str) -> Study:
        """One study; raises NotFound."""
        return self._study(connection, self._row(connection, run))

    def listed(
        self, connection: Connection, *, name: str | None = None, limit: int = 100
    ) -> list[Study]:
        """The newest studies first, or the one of that name."""
        query = select(study_rows).order_by(study_rows.c.created_at.desc()).limit(limit)
        if name is not None:
            query = query.where(study_rows.c.name == name)
        return [self._study(connection, row) for row in connection.execute(query)]

    def trials(self, connection: Connection, run: str) -> list[TrialRecord]:
        """The trials of a study by number; raises NotFound."""
        self._row(connection, run)
        rows = connection.execute(
            select(trial_rows).where(trial_rows.c.study == run).order_by(trial_rows.c.number)
        )
        return [_record(row) for row in rows]

    @staticmethod
    def missing(run: str) -> NoReturn:
        """Raise that there is no such study (or none that may be seen)."""
        raise NotFound(f"There is no study {run!r}.", hint="`falaj studies list` shows all.")

    def _keep_trial(
        self, call: Call, run: str, spec: StudySpec, trial: TrialRecord, known: Row[Any] | None
    ) -> None:
        if known is not None and TrialState(known.state).ended:
            return
        if known is None:
            nested = self._runs.start(
                call,
                experiment=spec.experiment or spec.name,
                name=f"{spec.name}-{trial.number}",
                parent=run,
                tags={STUDY_TAG: spec.name, TRIAL_TAG: str(trial.number)},
                started_at=trial.started_at,
            ).id
        else:
            nested = known.run_id
        if trial.state.ended:
            self._end_run(call, nested, spec, trial)
        document = trial.model_copy(update={"run": nested}).model_dump(mode="json")
        values = {"state": trial.state, "run_id": nested, "document": document}
        if known is None:
            call.connection.execute(
                insert(trial_rows).values(study=run, number=trial.number, **values)
            )
        else:
            call.connection.execute(
                update(trial_rows)
                .where(trial_rows.c.study == run, trial_rows.c.number == trial.number)
                .values(**values)
            )

    def _end_lost(self, call: Call, run: str) -> None:
        """End the trials that the study's end has left without one."""
        for trial in self.trials(call.connection, run):
            if trial.state.ended or trial.run is None:
                continue
            self._runs.tag(call, trial.run, {STATE_TAG: TrialState.FAILED, ERROR_TAG: _LOST})
            self._runs.finish(call, trial.run, RunState.KILLED)
            ended = trial.model_copy(
                update={"state": TrialState.FAILED, "reason": _LOST, "ended_at": call.now}
            )
            document = ended.model_dump(mode="json")
            call.connection.execute(
                update(trial_rows)
                .where(trial_rows.c.study == run, trial_rows.c.number == trial.number)
                .values(state=ended.state, document=document)
            )

    def _end_run(self, call: Call, nested: str, spec: StudySpec, trial: TrialRecord) -> None:
        """What a trial was and gave, in its run: at its end, and so once."""
        at = trial.ended_at
        points = [
            MetricPoint(key=spec.metrics[0], value=value, step=step, at=at)
            for step, value in sorted(trial.intermediate.items())
        ]
        last = max(trial.intermediate, default=-1)
        if trial.state is TrialState.COMPLETE:
            points += [
                MetricPoint(key=metric, value=value, step=last + 1, at=at)
                for metric, value in zip(spec.metrics, trial.values or (), strict=True)
            ]
        points += [
            MetricPoint(key=f"constraint/{name}", value=value, at=at)
            for name, value in trial.constraints.items()
        ]
        self._runs.log(call, nested, params=trial.params, metrics=points)
        tags = {name: str(value)[:_LONGEST_TAG] for name, value in trial.user_attrs.items()}
        tags[STATE_TAG] = str(trial.state)
        if trial.reason:
            tags[ERROR_TAG] = trial.reason[:_LONGEST_REASON]
        self._runs.tag(call, nested, tags)
        self._runs.finish(call, nested, _ENDS[trial.state])

    def _row(self, connection: Connection, run: str, *, locked: bool = False) -> Row[Any]:
        query = select(study_rows).where(study_rows.c.run_id == run)
        row = connection.execute(query.with_for_update() if locked else query).first()
        if row is None:
            self.missing(run)
        return row

    def _study(self, connection: Connection, row: Row[Any]) -> Study:
        counted = connection.execute(
            select(trial_rows.c.state, func.count())
            .where(trial_rows.c.study == row.run_id)
            .group_by(trial_rows.c.state)
        )
        return Study(
            run=row.run_id,
            spec=StudySpec.model_validate(row.spec),
            created_at=row.created_at,
            created_by=row.created_by,
            tuner=row.tuner,
            n_trials={str(state): int(n) for state, n in counted},
            attrs=row.attrs,
        )


def _told(spec: StudySpec) -> dict[str, Any]:
    """What the run of a study shows as its parameters."""
    shown = {
        "metrics": ",".join(spec.metrics),
        "directions": ",".join(spec.directions),
        "sampler": spec.sampler,
        "pruner": spec.pruner.kind,
        "seed": spec.seed,
    }
    return {f"study.{name}": value for name, value in shown.items()}


def _record(row: Row[Any]) -> TrialRecord:
    return TrialRecord.model_validate(row.document)
