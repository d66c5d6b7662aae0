"""Runs: what was tried, with what, and what came of it.

All functions work in the caller's transaction. A run that has ended takes no more parameters,
metrics or artifacts, unless it was begun as ``open_ended``; tags may be set at any time. A run
that is deleted takes nothing until it is restored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.kernel.statements import Statement, json_text
from falaj.training.artifactbytes import log_to_run
from falaj.training.model import (
    DEFAULT_WORKSPACE,
    Artifact,
    CodeVersion,
    DatasetInput,
    Environment,
    Experiment,
    MetricPoint,
    ModelMetric,
    OutputModel,
    Run,
    RunDifference,
    RunState,
)
from falaj.training.tracking import histories, inputs, values
from falaj.training.tracking.experiments import Experiments
from falaj.training.tracking.points import Points
from falaj.training.tracking.reading import COLUMNS, FROM, assembled, run_of
from falaj.training.tracking.texts import check_key, plain
from falaj.training.tracking.values import LONGEST_PARAM, LONGEST_TAG, ParameterWritten

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call

_INSERT = Statement(
    "INSERT INTO runs (id, experiment_id, workspace, name, state, parent, started_at, started_by,"
    " training_set, snapshot, environment, code, open_ended, said_user)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_STANDING = Statement(
    "SELECT state, open_ended, deleted_at, workspace, experiment_id FROM runs WHERE id = ?"
)
_ONE = Statement(f"SELECT {COLUMNS} {FROM} WHERE r.id = ?")
_NEWEST = Statement(
    f"SELECT {COLUMNS} {FROM} WHERE r.deleted_at IS NULL"
    " ORDER BY r.started_at DESC, r.id DESC LIMIT ?"
)
_NEWEST_OF = Statement(
    f"SELECT {COLUMNS} {FROM} WHERE r.deleted_at IS NULL AND e.name = ?"
    " ORDER BY r.started_at DESC, r.id DESC LIMIT ?"
)
_STATE = Statement("UPDATE runs SET state = ?, ended_at = ? WHERE id = ?")
_NAME = Statement("UPDATE runs SET name = ? WHERE id = ?")
_DELETED = Statement("UPDATE runs SET deleted_at = ? WHERE id = ?")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands: what decides which changes it takes."""

    state: RunState
    open_ended: bool
    deleted: bool
    workspace: str
    experiment_id: str


class Runs:
    """Runs in the metadata database; each run is an asset of the catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.experiments_kept = Experiments(catalog)

    def start(
        self,
        call: Call,
        *,
        experiment: str,
        workspace: str = DEFAULT_WORKSPACE,
        name: str = "",
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        training_set: str | None = None,
        snapshot: int | None = None,
        environment: Environment | None = None,
        code: CodeVersion | None = None,
        run_id: str | None = None,
        started_at: datetime | None = None,
        open_ended: bool = False,
        said_user: str | None = None,
    ) -> Run:
        """Begin a run; its experiment is made if it is new.

        Args:
            experiment: its name, or its id.
            run_id: an id made beforehand, for work that may be repeated.
            started_at: when it began, if that was not now.
            open_ended: it takes values after its end, and may be begun again.
            said_user: who the caller says that it works for.

        Raises:
            NotFound: the parent is not a run, or there is no such training set.
            Conflict: the experiment is deleted.
        """
        connection = call.connection
        if parent is not None:
            self.standing(connection, parent, workspace)
        tags = dict(tags or {})
        values.check_tags(tags)
        kept = self.experiments_kept.ensured(call, experiment, workspace)
        run_id = run_id or new_id("run")
        name = name or tags.get(values.NAME_TAG) or f"{kept.name[:190]}-{run_id[-6:]}"
        row = (
            run_id, kept.id, kept.name, kept.workspace, values.checked_name(name),
            RunState.RUNNING.value, parent or tags.get(values.PARENT_TAG),
            microseconds(started_at or call.now), None, call.principal.id, training_set, snapshot,
            environment.model_dump(mode="json") if environment else None,
            code.model_dump(mode="json") if code else None, open_ended, said_user, None,
        )  # fmt: skip
        _INSERT.run(connection, _inserted(row))
        written = values.add_params(connection, run_id, params or {}, new=True)
        others = {key: value for key, value in tags.items() if key not in values.COLUMN_TAGS}
        values.set_tags(connection, run_id, others)
        run = run_of(row, params=written, tags=others)
        self._describe(call, run)
        call.emit("run.started", run=run_id, experiment=kept.name)
        return run

    def log(
        self,
        call: Call,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[MetricPoint] | Points = (),
        artifacts: Iterable[Artifact] = (),
        of_models: Sequence[ModelMetric] = (),
        workspace: str | None = None,
    ) -> Standing:
        """Add parameters, metric points and artifacts; gives where the run stands.

        Raises:
            NotFound: there is no such run (in the workspace).
            Conflict: the run has ended or is deleted, or a parameter has another value already.
            InvalidInput: a name or a value cannot be kept.
        """
        connection = call.connection
        standing = self.open(connection, run_id, workspace)
        if params:
            values.add_params(connection, run_id, params)
        points = metrics if isinstance(metrics, Points) else Points.of_points(metrics, call.now)
        if len(points):
            for key in points.keys:
                check_key("metric", key)
            histories.append(connection, run_id, points)
            if points is not metrics:  # else the record of the call holds it among its arguments
                call.note(logged=points.recorded())
        inputs.add_model_metrics(connection, run_id, of_models)
        log_to_run(connection, run_id, artifacts)
        return standing

    def tag(
        self, call: Call, run_id: str, tags: Mapping[str, str], *, workspace: str | None = None
    ) -> None:
        """Set tags; an older value of the same key is replaced.

        Raises:
            NotFound, Conflict: there is no such run, or it is deleted.
            InvalidInput: a key or a value cannot be kept.
        """
        self.kept(call.connection, run_id, workspace)
        if tags:
            values.set_tags(call.connection, run_id, tags)

    def untag(self, call: Call, run_id: str, key: str, *, workspace: str | None = None) -> None:
        """Take a tag away.

        Raises:
            NotFound, Conflict: there is no such run or tag, or the run is deleted.
        """
        self.kept(call.connection, run_id, workspace)
        values.remove_tag(call.connection, run_id, key)

    def add_inputs(
        self,
        call: Call,
        run_id: str,
        *,
        datasets: Sequence[DatasetInput] = (),
        input_models: Sequence[str] = (),
        output_models: Sequence[OutputModel] = (),
        workspace: str | None = None,
    ) -> None:
        """Say what went into a run, and which logged models went in or came out.

        Raises:
            NotFound, Conflict: there is no such run, or it is deleted.
            InvalidInput: a description cannot be kept.
        """
        standing = self.kept(call.connection, run_id, workspace)
        inputs.add_datasets(call.connection, standing.experiment_id, run_id, datasets)
        inputs.add_models(call.connection, run_id, inputs=input_models, outputs=output_models)

    def finish(self, call: Call, run_id: str, state: RunState = RunState.FINISHED) -> Run:
        """End a run; ending it again in the same way does nothing.

        Raises:
            NotFound: there is no such run.
            Conflict: it ended in another way, or ``state`` is no end.
        """
        if not state.is_end:
            raise Conflict("A run cannot end as running.", hint="Name how it ended.")
        self._move(call, run_id, self.kept(call.connection, run_id), state, None)
        return self.get(call.connection, run_id)

    def update(
        self,
        call: Call,
        run_id: str,
        *,
        name: str | None = None,
        state: RunState | None = None,
        ended_at: datetime | None = None,
        workspace: str | None = None,
    ) -> Run:
        """Give a run another name, another state, or both.

        Raises:
            NotFound: there is no such run.
            Conflict: it is deleted; or it has ended, and is not open-ended.
        """
        standing = self.kept(call.connection, run_id, workspace)
        if name is not None:
            _NAME.run(call.connection, (values.checked_name(name), run_id))
        if state is not None or ended_at is not None:
            self._move(call, run_id, standing, state or standing.state, ended_at)
        return self.get(call.connection, run_id)

    def _move(
        self, call: Call, run_id: str, standing: Standing, state: RunState, at: datetime | None
    ) -> None:
        """Bring a run into a state, as of an instant."""
        if standing.state is state and (at is None or not standing.open_ended):
            return
        if standing.state.is_end and not standing.open_ended:
            raise Conflict(
                f"The run {run_id} ended as {standing.state} already.", hint="Start a new run."
            )
        ended_at = microseconds(at or call.now) if state.is_end else None
        _STATE.run(call.connection, (state.value, ended_at, run_id))
        if state.is_end:
            histories.settle(call.connection, run_id)
            call.emit("run.ended", run=run_id, state=str(state))

    def delete(self, call: Call, run_id: str, *, workspace: str | None = None) -> None:
        """Delete a run; it can be restored. What is deleted already stays as it is.

        Raises:
            NotFound: there is no such run.
        """
        if not self.standing(call.connection, run_id, workspace).deleted:
            _DELETED.run(call.connection, (microseconds(call.now), run_id))
            call.emit("run.deleted", run=run_id)

    def restore(self, call: Call, run_id: str, *, workspace: str | None = None) -> None:
        """Undo ``delete``.

        Raises:
            NotFound: there is no such run.
            Conflict: its experiment is deleted.
        """
        standing = self.standing(call.connection, run_id, workspace)
        if not standing.deleted:
            return
        experiment = self.experiments_kept.get(call.connection, standing.experiment_id)
        if experiment.deleted_at is not None:
            raise Conflict(
                f"The experiment {experiment.name!r} of the run {run_id} is deleted.",
                hint="Restore the experiment.",
            )
        _DELETED.run(call.connection, (None, run_id))
        call.emit("run.restored", run=run_id)

    def get(self, connection: Connection, run_id: str, workspace: str | None = None) -> Run:
        """One run with everything but the history of its metrics; raises NotFound."""
        row = _ONE.first(connection, (run_id,)) if plain(run_id) else None
        if row is None or workspace not in (None, row[3]):
            self.missing(run_id)
        return assembled(connection, [row])[0]

    def listed(
        self, connection: Connection, *, experiment: str | None = None, limit: int = 100
    ) -> list[Run]:
        """The newest runs first."""
        if experiment is None:
            rows = _NEWEST.all(connection, (limit,))
        else:
            rows = _NEWEST_OF.all(connection, (experiment, limit)) if plain(experiment) else []
        return assembled(connection, rows)

    def experiments(self, connection: Connection) -> list[Experiment]:
        """All experiments by name, with the number of their runs."""
        return self.experiments_kept.listed(connection)

    def history(self, connection: Connection, run_id: str, key: str) -> list[MetricPoint]:
        """All values of one metric by step, then by time; raises NotFound for the run."""
        return self.series(connection, run_id, key).objects()

    def series(
        self,
        connection: Connection,
        run_id: str,
        key: str,
        *,
        first_step: int = histories.SMALLEST_STEP,
        last_step: int = histories.GREATEST_STEP,
        workspace: str | None = None,
    ) -> Points:
        """The values of one metric in a range of steps, as columns; raises NotFound."""
        self.standing(connection, run_id, workspace)
        return histories.history(
            connection, run_id, key, first_step=first_step, last_step=last_step
        )

    def compare(self, connection: Connection, run_ids: Sequence[str]) -> RunDifference:
        """Runs side by side; only what differs, but for metrics, which all are shown."""
        runs = [self.get(connection, run_id) for run_id in run_ids]
        return RunDifference(
            runs=tuple(run.id for run in runs),
            params=_differing([run.params for run in runs]),
            metrics=_aligned([run.metrics for run in runs]),
            data=_differing(
                [
                    {
                        "training_set": run.training_set or "",
                        "snapshot": str(run.snapshot),
                        "code": run.code.content_hash if run.code else "",
                    }
                    for run in runs
                ]
            ),
            environment=_differing(
                [run.environment.packages if run.environment else {} for run in runs]
            ),
        )

    def standing(
        self, connection: Connection, run_id: str, workspace: str | None = None
    ) -> Standing:
        """Where a run stands; raises NotFound, also if it is of another workspace."""
        row = _STANDING.first(connection, (run_id,)) if plain(run_id) else None
        if row is None or workspace not in (None, row[3]):
            self.missing(run_id)
        state, open_ended, deleted_at, found_in, experiment_id = row
        return Standing(
            RunState(state), bool(open_ended), deleted_at is not None, found_in, experiment_id
        )

    def kept(self, connection: Connection, run_id: str, workspace: str | None = None) -> Standing:
        """Where a run stands that is not deleted; raises NotFound, Conflict."""
        standing = self.standing(connection, run_id, workspace)
        if standing.deleted:
            raise Conflict(
                f"The run {run_id} is deleted.", hint="Restore it, then repeat the call."
            )
        return standing

    def open(self, connection: Connection, run_id: str, workspace: str | None = None) -> Standing:
        """Where a run stands that takes values; raises NotFound, Conflict."""
        standing = self.kept(connection, run_id, workspace)
        if standing.state.is_end and not standing.open_ended:
            raise Conflict(
                f"The run {run_id} has ended ({standing.state}) and takes no more values.",
                hint="Start a new run, or set a tag.",
            )
        return standing

    def _describe(self, call: Call, run: Run) -> None:
        ref = AssetRef("run", run.id)
        attributes = {"experiment": run.experiment, "workspace": run.workspace}
        if run.code is not None:
            attributes["code"] = run.code.content_hash
        self._catalog.record_new(
            call,
            ref,
            description=f"{run.name} of experiment {run.experiment}",
            attributes=attributes,
        )
        if run.training_set is not None:
            source = AssetRef("training_set", run.training_set)
            self._catalog.link(call, source, ref, Relation.TRAINED)

    @staticmethod
    def missing(run_id: str) -> NoReturn:
        """Raise that there is no such run (or none that may be seen)."""
        raise NotFound(f"There is no run {run_id[:200]!r}.", hint="`falaj runs list` shows all.")


def _inserted(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of ``_INSERT`` from those of ``COLUMNS``."""
    (run_id, experiment_id, _experiment, workspace, name, state, parent, started_at, _ended_at,
     started_by, training_set, snapshot, environment, code, open_ended, said_user,
     _deleted) = row  # fmt: skip
    if said_user is not None and (len(said_user) > 256 or not plain(said_user)):
        raise InvalidInput(f"{said_user[:100]!r} cannot be the name of a user.")
    return (
        run_id, experiment_id, workspace, name, state, parent, started_at, started_by,
        training_set, snapshot, None if environment is None else json_text(environment),
        None if code is None else json_text(code), open_ended, said_user,
    )  # fmt: skip


def _aligned(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = sorted({key for one in dictionaries for key in one})
    return {key: tuple(one.get(key) for one in dictionaries) for key in keys}


def _differing(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: row for key, row in _aligned(dictionaries).items() if len(set(row)) > 1}


__all__ = ["LONGEST_PARAM", "LONGEST_TAG", "ParameterWritten", "Runs", "Standing"]
