"""Runs as they are read: rows of several tables, put together."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from falaj.kernel.clock import from_microseconds
from falaj.kernel.statements import Statement, all_together, marks
from falaj.training.model import Artifact, DatasetInput, OutputModel, Run, RunState

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

COLUMNS = (
    "r.id, r.experiment_id, e.name, r.workspace, r.name, r.state, r.parent, r.started_at,"
    " r.ended_at, r.started_by, r.training_set, r.snapshot, r.environment, r.code, r.open_ended,"
    " r.said_user, r.deleted_at"
)
"""What ``assembled`` needs of ``runs r`` and ``experiments e``, in its order."""
FROM = "FROM runs r JOIN experiments e ON e.id = r.experiment_id"
_AT_ONCE = 500
"""So many runs are asked for in one statement: SQLite has a limit of values."""
_MOST_KEPT = 64

_statements: dict[tuple[str, int], Statement] = {}
_CHILDREN = {
    "params": "SELECT run_id, key, value FROM run_params WHERE run_id IN ({})",
    "tags": "SELECT run_id, key, value FROM run_tags WHERE run_id IN ({})",
    "metrics": (
        "SELECT run_id, key, value, is_nan, step, at FROM run_latest_metrics"
        " WHERE run_id IN ({}) ORDER BY run_id, key"
    ),
    "artifacts": (
        "SELECT run_id, path, digest, size FROM run_artifacts"
        " WHERE run_id IN ({}) ORDER BY run_id, path"
    ),
    "datasets": (
        "SELECT i.run_id, i.name, i.digest, d.source_type, d.source, d.schema, d.profile, i.tags"
        " FROM run_inputs i JOIN runs r ON r.id = i.run_id JOIN run_datasets d"
        " ON d.experiment_id = r.experiment_id AND d.name = i.name AND d.digest = i.digest"
        " WHERE i.run_id IN ({}) ORDER BY i.run_id, i.name, i.digest"
    ),
    "models": (
        "SELECT run_id, direction, model_id, step FROM run_models"
        " WHERE run_id IN ({}) ORDER BY run_id, direction, model_id"
    ),
}

_OF_LIST = {
    what: Statement(text.replace("IN ({})", "= ANY(?)")) for what, text in _CHILDREN.items()
}
"""For PostgreSQL: one text for any number of runs, so that it is planned once."""


def assembled(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> list[Run]:
    """Runs with all that they carry but the history of metrics, in the order of the rows."""
    ids = [row[0] for row in rows]
    children = _children(connection, ids)
    params: dict[str, dict[str, str]] = {run: {} for run in ids}
    tags: dict[str, dict[str, str]] = {run: {} for run in ids}
    for run, key, value in children["params"]:
        params[run][key] = value
    for run, key, value in children["tags"]:
        tags[run][key] = value
    metrics: dict[str, dict[str, float]] = {run: {} for run in ids}
    measured: dict[str, dict[str, Any]] = {run: {} for run in ids}
    for run, key, value, is_nan, step, at in children["metrics"]:
        metrics[run][key] = math.nan if is_nan else value
        measured[run][key] = (step, from_microseconds(at))
    artifacts: dict[str, list[Artifact]] = {}
    for run, path, digest, size in children["artifacts"]:
        artifacts.setdefault(run, []).append(
            Artifact.model_construct(path=path, digest=digest, size=size)
        )
    datasets = _datasets(children["datasets"])
    inputs: dict[str, list[str]] = {}
    outputs: dict[str, list[OutputModel]] = {}
    for run, direction, model, step in children["models"]:
        if direction == "input":
            inputs.setdefault(run, []).append(model)
        else:
            outputs.setdefault(run, []).append(OutputModel(id=model, step=step))
    return [
        run_of(
            row,
            params=params[row[0]],
            tags=tags[row[0]],
            metrics=metrics[row[0]],
            measured=measured[row[0]],
            artifacts=tuple(artifacts.get(row[0], ())),
            datasets=tuple(datasets.get(row[0], ())),
            input_models=tuple(inputs.get(row[0], ())),
            output_models=tuple(outputs.get(row[0], ())),
        )
        for row in rows
    ]


def run_of(row: tuple[Any, ...], **carried: Any) -> Run:
    """A run from its row (``COLUMNS``) and what it carries."""
    (run_id, experiment_id, experiment, workspace, name, state, parent, started_at, ended_at,
     started_by, training_set, snapshot, environment, code, open_ended, said_user,
     deleted_at) = row  # fmt: skip
    # Validating what this room has written costs more than reading it; only what is nested
    # is made through its model.
    made = Run if environment is not None or code is not None else Run.model_construct
    return made(
        id=run_id,
        experiment=experiment,
        experiment_id=experiment_id,
        workspace=workspace,
        name=name,
        state=RunState(state),
        parent=parent,
        started_at=from_microseconds(started_at),
        ended_at=None if ended_at is None else from_microseconds(ended_at),
        started_by=started_by,
        training_set=training_set,
        snapshot=snapshot,
        environment=_read(environment),
        code=_read(code),
        open_ended=bool(open_ended),
        said_user=said_user,
        deleted_at=None if deleted_at is None else from_microseconds(deleted_at),
        **carried,
    )


def _children(connection: Connection, ids: Sequence[str]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows of each kind that belong to these runs, each beginning with its run's id."""
    found: dict[str, list[tuple[Any, ...]]] = {what: [] for what in _CHILDREN}
    for start in range(0, len(ids), _AT_ONCE):
        some = list(ids[start : start + _AT_ONCE])
        asked: list[tuple[Statement, Sequence[Any]]]
        if connection.dialect.name == "postgresql":
            asked = [(statement, (some,)) for statement in _OF_LIST.values()]
        else:
            asked = [(_statement(what, len(some)), some) for what in _CHILDREN]
        for what, rows in zip(_CHILDREN, all_together(connection, asked), strict=True):
            found[what] += rows
    return found


def _statement(what: str, n: int) -> Statement:
    found = _statements.get((what, n))
    if found is None:
        if len(_statements) >= _MOST_KEPT:
            _statements.clear()
        found = _statements[what, n] = Statement(_CHILDREN[what].format(marks(n)))
    return found


def _datasets(rows: Sequence[tuple[Any, ...]]) -> dict[str, list[DatasetInput]]:
    found: dict[str, list[DatasetInput]] = {}
    for run, name, digest, source_type, source, schema, profile, tags in rows:
        found.setdefault(run, []).append(
            DatasetInput.model_construct(
                name=name,
                digest=digest,
                source_type=source_type,
                source=source,
                columns=schema,
                profile=profile,
                tags=_read(tags),
            )
        )
    return found


def _read(document: Any) -> Any:
    """A JSON column: SQLite's driver gives its text, PostgreSQL's has read it already."""
    return json.loads(document) if isinstance(document, str) else document
