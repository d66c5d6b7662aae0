"""Runs: what was tried, with what, and what came of it.

All functions work in the caller's transaction. A run that has ended takes no more
parameters, metrics or artifacts; tags may be set at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from sqlalchemy import and_, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from falaj.catalog.model import Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.ids import new_id
from falaj.training.model import (
    Artifact,
    CodeVersion,
    Environment,
    Experiment,
    MetricPoint,
    Run,
    RunDifference,
    RunState,
)
from falaj.training.tables import (
    artifact_rows,
    experiment_rows,
    latest_metric_rows,
    metric_rows,
    param_rows,
    run_rows,
    tag_rows,
)

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.engine import Connection, Row

    from falaj.catalog.assets import Catalog
    from falaj.kernel.call import Call

LONGEST_PARAM = 6_000
LONGEST_TAG = 8_000


class Runs:
    """Experiments and runs in the metadata database; each run is an asset of the catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def start(
        self,
        call: Call,
        *,
        experiment: str,
        name: str = "",
        parent: str | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        training_set: str | None = None,
        snapshot: int | None = None,
        environment: Environment | None = None,
        code: CodeVersion | None = None,
        run_id: str | None = None,
    ) -> Run:
        """Begin a run; its experiment is made if it is new.

        Args:
            run_id: an id made beforehand, for work that may be repeated.

        Raises:
            NotFound: the parent is not a run, or there is no such training set.
        """
        connection = call.connection
        if parent is not None:
            self._row(connection, parent)
        run_id = run_id or new_id("run")
        connection.execute(
            insert(run_rows).values(
                id=run_id,
                experiment_id=self._experiment(call, experiment),
                name=name or f"{experiment}-{run_id[-6:]}",
                state=RunState.RUNNING,
                parent=parent,
                started_at=call.now,
                started_by=call.principal.id,
                training_set=training_set,
                snapshot=snapshot,
                environment=environment.model_dump(mode="json") if environment else None,
                code=code.model_dump(mode="json") if code else None,
            )
        )
        self._add_params(connection, run_id, params or {})
        self.tag(call, run_id, tags or {})
        run = self.get(connection, run_id)
        self._describe(call, run)
        call.emit("run.started", run=run_id, experiment=experiment)
        return run

    def log(
        self,
        call: Call,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[MetricPoint] = (),
        artifacts: Iterable[Artifact] = (),
    ) -> None:
        """Add parameters, metric points and artifacts.

        Raises:
            NotFound: there is no such run.
            Conflict: the run has ended, or a parameter has another value already.
        """
        self._running(call.connection, run_id)
        self._add_params(call.connection, run_id, params or {})
        self._add_metrics(call, run_id, metrics)
        for artifact in artifacts:
            self._upsert(
                call.connection,
                artifact_rows,
                {"run_id": run_id, "path": artifact.path},
                {"digest": artifact.digest, "size": artifact.size},
            )

    def tag(self, call: Call, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags; an older value of the same key is replaced."""
        self._row(call.connection, run_id)
        for key, value in tags.items():
            _check_text("tag", key, value, LONGEST_TAG)
            self._upsert(
                call.connection, tag_rows, {"run_id": run_id, "key": key}, {"value": value}
            )

    def finish(self, call: Call, run_id: str, state: RunState = RunState.FINISHED) -> Run:
        """End a run; ending it again in the same way does nothing.

        Raises:
            NotFound: there is no such run.
            Conflict: it ended in another way, or ``state`` is no end.
        """
        row = self._row(call.connection, run_id)
        if state is RunState.RUNNING:
            raise Conflict("A run cannot end as running.", hint="Name how it ended.")
        if row.state == state:
            return self.get(call.connection, run_id)
        if row.state != RunState.RUNNING:
            raise Conflict(
                f"The run {run_id} ended as {row.state} already.", hint="Start a new run."
            )
        call.connection.execute(
            update(run_rows).where(run_rows.c.id == run_id).values(state=state, ended_at=call.now)
        )
        call.emit("run.ended", run=run_id, state=str(state))
        return self.get(call.connection, run_id)

    def get(self, connection: Connection, run_id: str) -> Run:
        """One run with everything but the history of its metrics; raises NotFound."""
        return self._assembled(connection, [self._row(connection, run_id)])[0]

    def state(self, connection: Connection, run_id: str) -> RunState:
        """Whether a run goes on, or how it ended; raises NotFound."""
        return RunState(self._row(connection, run_id).state)

    def listed(
        self, connection: Connection, *, experiment: str | None = None, limit: int = 100
    ) -> list[Run]:
        """The newest runs first."""
        query = _RUNS.order_by(run_rows.c.started_at.desc(), run_rows.c.id.desc()).limit(limit)
        if experiment is not None:
            query = query.where(experiment_rows.c.name == experiment)
        return self._assembled(connection, list(connection.execute(query)))

    def experiments(self, connection: Connection) -> list[Experiment]:
        """All experiments by name, with the number of their runs."""
        counted = (
            select(run_rows.c.experiment_id, func.count().label("n_runs"))
            .group_by(run_rows.c.experiment_id)
            .subquery()
        )
        rows = connection.execute(
            select(experiment_rows, func.coalesce(counted.c.n_runs, 0).label("n_runs"))
            .outerjoin(counted, counted.c.experiment_id == experiment_rows.c.id)
            .order_by(experiment_rows.c.name)
        )
        return [
            Experiment(id=row.id, name=row.name, created_at=row.created_at, n_runs=row.n_runs)
            for row in rows
        ]

    def history(self, connection: Connection, run_id: str, key: str) -> list[MetricPoint]:
        """All values of one metric by step, then by time; raises NotFound for the run."""
        self._row(connection, run_id)
        rows = connection.execute(
            select(metric_rows)
            .where(metric_rows.c.run_id == run_id, metric_rows.c.key == key)
            .order_by(metric_rows.c.step, metric_rows.c.at, metric_rows.c.seq)
        )
        return [MetricPoint(key=key, value=_value(row), step=row.step, at=row.at) for row in rows]

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

    def _describe(self, call: Call, run: Run) -> None:
        ref = AssetRef("run", run.id)
        self._catalog.record(
            call,
            ref,
            description=f"{run.name} of experiment {run.experiment}",
            owner=call.principal.id,
            attributes={
                "experiment": run.experiment,
                "code": run.code.content_hash if run.code else None,
            },
        )
        if run.training_set is not None:
            source = AssetRef("training_set", run.training_set)
            self._catalog.link(call, source, ref, Relation.TRAINED)

    @staticmethod
    def missing(run_id: str) -> NoReturn:
        """Raise that there is no such run (or none that may be seen)."""
        raise NotFound(f"There is no run {run_id!r}.", hint="`falaj runs list` shows all.")

    def _experiment(self, call: Call, name: str) -> str:
        connection = call.connection
        wanted = select(experiment_rows.c.id).where(experiment_rows.c.name == name)
        found = connection.execute(wanted).scalar()
        if found is not None:
            return str(found)
        values = {
            "id": new_id("exp"),
            "name": name,
            "created_at": call.now,
            "created_by": call.principal.id,
        }
        statement = _dialect_insert(connection)(experiment_rows).values(**values)
        connection.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
        return str(connection.execute(wanted).scalar_one())

    def _row(self, connection: Connection, run_id: str) -> Row[Any]:
        row = connection.execute(_RUNS.where(run_rows.c.id == run_id)).first()
        if row is None:
            self.missing(run_id)
        return row

    def _running(self, connection: Connection, run_id: str) -> None:
        state = self._row(connection, run_id).state
        if state != RunState.RUNNING:
            raise Conflict(
                f"The run {run_id} has ended ({state}) and takes no more values.",
                hint="Start a new run, or set a tag.",
            )

    def _add_params(self, connection: Connection, run_id: str, params: Mapping[str, Any]) -> None:
        """Parameters are written once; the same value again is accepted."""
        texts = {key: _text(value) for key, value in params.items()}
        for key, value in texts.items():
            _check_text("parameter", key, value, LONGEST_PARAM)
        if not texts:
            return
        rows = connection.execute(
            select(param_rows.c.key, param_rows.c.value).where(
                param_rows.c.run_id == run_id, param_rows.c.key.in_(texts)
            )
        )
        known = {row.key: row.value for row in rows}
        for key, value in known.items():
            if texts[key] != value:
                raise Conflict(
                    f"The parameter {key!r} of {run_id} is {value!r} already.",
                    hint="A run's parameters are written once; start a new run.",
                )
        fresh = [
            {"run_id": run_id, "key": key, "value": value}
            for key, value in texts.items()
            if key not in known
        ]
        if fresh:
            connection.execute(insert(param_rows), fresh)

    def _add_metrics(self, call: Call, run_id: str, points: Sequence[MetricPoint]) -> None:
        if not points:
            return
        rows: list[dict[str, Any]] = [
            {
                "run_id": run_id,
                "key": point.key,
                "step": point.step,
                "at": point.at or call.now,
                "value": 0.0 if math.isnan(point.value) else point.value,
                "is_nan": math.isnan(point.value),
            }
            for point in points
        ]
        call.connection.execute(insert(metric_rows), rows)
        latest: dict[str, dict[str, Any]] = {}
        for row in rows:
            kept = latest.get(row["key"])
            if kept is None or (row["step"], row["at"]) >= (kept["step"], kept["at"]):
                latest[row["key"]] = row
        statement = _dialect_insert(call.connection)(latest_metric_rows)
        table, new = latest_metric_rows.c, statement.excluded
        call.connection.execute(
            statement.on_conflict_do_update(
                index_elements=["run_id", "key"],
                set_={name: new[name] for name in ("step", "at", "value", "is_nan")},
                where=or_(new.step > table.step, and_(new.step == table.step, new.at >= table.at)),
            ),
            list(latest.values()),
        )

    @staticmethod
    def _upsert(
        connection: Connection, table: Table, key: dict[str, Any], values: dict[str, Any]
    ) -> None:
        connection.execute(
            delete(table).where(*(table.c[name] == value for name, value in key.items()))
        )
        connection.execute(insert(table).values(**key, **values))

    def _assembled(self, connection: Connection, rows: Sequence[Row[Any]]) -> list[Run]:
        ids = [row.id for row in rows]
        params = _gathered(connection, param_rows, ids)
        tags = _gathered(connection, tag_rows, ids)
        metrics = _gathered(connection, latest_metric_rows, ids)
        artifacts = _gathered(connection, artifact_rows, ids)
        return [
            Run(
                id=row.id,
                experiment=row.experiment,
                name=row.name,
                state=RunState(row.state),
                parent=row.parent,
                started_at=row.started_at,
                ended_at=row.ended_at,
                started_by=row.started_by,
                training_set=row.training_set,
                snapshot=row.snapshot,
                environment=row.environment,
                code=row.code,
                params={found.key: found.value for found in params[row.id]},
                tags={found.key: found.value for found in tags[row.id]},
                metrics={found.key: _value(found) for found in metrics[row.id]},
                artifacts=tuple(
                    Artifact(path=found.path, digest=found.digest, size=found.size)
                    for found in sorted(artifacts[row.id], key=lambda found: found.path)
                ),
            )
            for row in rows
        ]


_RUNS = select(run_rows, experiment_rows.c.name.label("experiment")).join(
    experiment_rows, experiment_rows.c.id == run_rows.c.experiment_id
)


def _gathered(
    connection: Connection, table: Table, ids: Sequence[str]
) -> dict[str, list[Row[Any]]]:
    found: dict[str, list[Row[Any]]] = {run_id: [] for run_id in ids}
    if ids:
        for row in connection.execute(select(table).where(table.c.run_id.in_(ids))):
            found[row.run_id].append(row)
    return found


def _dialect_insert(connection: Connection) -> Any:
    """The ``insert`` that knows ``on conflict`` on this database."""
    return postgres_insert if connection.dialect.name == "postgresql" else sqlite_insert


def _value(row: Any) -> float:
    return math.nan if row.is_nan else float(row.value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _check_text(what: str, key: str, value: str, longest: int) -> None:
    if not key or len(key) > 250:
        raise InvalidInput(
            f"The name of a {what} has {len(key)} characters.", hint="Use 1 to 250 characters."
        )
    if len(value) > longest:
        raise InvalidInput(
            f"The {what} {key!r} has {len(value)} characters.",
            hint=f"Keep it under {longest}, or keep the text as an artifact.",
        )


def _aligned(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    keys = sorted({key for one in dictionaries for key in one})
    return {key: tuple(one.get(key) for one in dictionaries) for key in keys}


def _differing(dictionaries: Sequence[Mapping[str, Any]]) -> dict[str, tuple[Any, ...]]:
    return {key: row for key, row in _aligned(dictionaries).items() if len(set(row)) > 1}
