"""Experiments and runs in the words of MLflow's API, and its words in ours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from falaj.interfaces.mlflow.asked import Asked
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.ids import is_id
from falaj.kernel.numbers import written
from falaj.training.model import DatasetInput, Experiment, Run, RunState, Stage
from falaj.training.tracking.values import LONGEST_PARAM, LONGEST_TAG, NAME_TAG, PARENT_TAG

Document = Mapping[str, Any]
DEFAULT_ID, DEFAULT_NAME = "0", "Default"
"""What a client means that names no experiment."""
LATEST_MS = 253_402_300_799_000
"""The end of the year 9999."""
_STAGES = {
    "ACTIVE_ONLY": Stage.ACTIVE, "DELETED_ONLY": Stage.DELETED, "ALL": Stage.ALL,
    "1": Stage.ACTIVE, "2": Stage.DELETED, "3": Stage.ALL, "": Stage.ACTIVE,
}  # fmt: skip


def artifact_uri(run: Run) -> str:
    """Where a run's artifacts are, as clients address them."""
    return f"mlflow-artifacts:/{run.experiment_id}/{run.id}/artifacts"


def milliseconds(at: datetime) -> int:
    """Unix milliseconds."""
    return microseconds(at) // 1000


def instant(value: int, name: str) -> datetime:
    """The instant of Unix milliseconds; raises InvalidInput outside the years 1970 to 9999."""
    if not 0 <= value <= LATEST_MS:
        raise InvalidInput(
            f"Invalid value {value} for parameter {name!r}.",
            hint="It is an instant in milliseconds since 1970.",
        )
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=value)


def experiment_document(experiment: Experiment) -> Document:
    """An experiment."""
    changed = experiment.updated_at or experiment.created_at
    return {
        "experiment_id": experiment.id,
        "name": experiment.name,
        "artifact_location": f"mlflow-artifacts:/{experiment.id}",
        "lifecycle_stage": "active" if experiment.deleted_at is None else "deleted",
        "creation_time": milliseconds(experiment.created_at),
        "last_update_time": milliseconds(changed),
        "tags": _pairs(experiment.tags),
    }


def info_document(run: Run) -> Document:
    """What a run is."""
    info: dict[str, Any] = {
        "run_id": run.id,
        "run_uuid": run.id,
        "run_name": run.name,
        "experiment_id": run.experiment_id,
        "user_id": run.said_user or run.started_by.partition(":")[2],
        "status": run.state.value.upper(),
        "start_time": milliseconds(run.started_at),
        "artifact_uri": artifact_uri(run),
        "lifecycle_stage": "active" if run.deleted_at is None else "deleted",
    }
    if run.ended_at is not None:
        info["end_time"] = milliseconds(run.ended_at)
    return info


def run_document(run: Run) -> Document:
    """A run with what it carries."""
    tags = {**run.tags, NAME_TAG: run.name}
    if run.parent is not None:
        tags[PARENT_TAG] = run.parent
    metrics = []
    for key, value in run.metrics.items():
        step, at = run.measured[key]
        metrics.append(
            {"key": key, "value": written(value), "timestamp": milliseconds(at), "step": step}
        )
    return {
        "info": info_document(run),
        "data": {"metrics": metrics, "params": _pairs(run.params), "tags": _pairs(tags)},
        "inputs": {
            "dataset_inputs": [_dataset_document(one) for one in run.datasets],
            "model_inputs": [{"model_id": one} for one in run.input_models],
        },
        "outputs": {
            "model_outputs": [{"model_id": one.id, "step": one.step} for one in run.output_models]
        },
    }


def _dataset_document(dataset: DatasetInput) -> Document:
    told: dict[str, Any] = {
        "name": dataset.name,
        "digest": dataset.digest,
        "source_type": dataset.source_type,
        "source": dataset.source,
    }
    if dataset.columns is not None:
        told["schema"] = dataset.columns
    if dataset.profile is not None:
        told["profile"] = dataset.profile
    return {"dataset": told, "tags": _pairs(dataset.tags)}


def _pairs(texts: Mapping[str, str]) -> list[Document]:
    return [{"key": key, "value": value} for key, value in texts.items()]


def run_id(asked: Asked) -> str:
    """The run that a request names, by either of its names."""
    return asked.text("run_id", "") or asked.text("run_uuid")


def state_of(text: str) -> RunState | None:
    """The state of a status; None for none. Raises InvalidInput for an unknown word."""
    if not text:
        return None
    try:
        return RunState(text.lower())
    except ValueError:
        known = ", ".join(state.value.upper() for state in RunState)
        raise InvalidInput(
            f"Invalid value {text[:100]!r} for parameter 'status'.", hint=f"Use one of {known}."
        ) from None


def stage_of(asked: Asked, name: str) -> Stage:
    """Which of the kept and the deleted are asked for."""
    value = asked.fields.get(name)
    text = str(value[0] if isinstance(value, list) and value else value or "")
    found = _STAGES.get(text.upper())
    if found is None:
        raise InvalidInput(
            f"Invalid value {text[:100]!r} for parameter {name!r}.",
            hint="Use ACTIVE_ONLY, DELETED_ONLY or ALL.",
        )
    return found


def texts(asked: Asked, name: str) -> list[str]:
    """A field that is a list of texts."""
    found = asked.several(name)
    if not all(isinstance(one, str) for one in found):
        raise InvalidInput(f"Invalid value for parameter {name!r}.", hint="It is a list of texts.")
    return found


def tags_of(asked: Asked, name: str = "tags", longest: int = LONGEST_TAG) -> dict[str, str]:
    """A field that is a list of keys and values, cut as MLflow's server cuts them."""
    return {
        one.text("key"): one.text("value", "")[:longest]
        for one in (asked.within(item, name) for item in asked.several(name))
    }


def params_of(asked: Asked, name: str = "params") -> dict[str, str]:
    """As ``tags_of``, of parameters; raises InvalidInput if a key stands twice with two values."""
    found: dict[str, str] = {}
    for one in (asked.within(item, name) for item in asked.several(name)):
        key, value = one.text("key"), one.text("value", "")[:LONGEST_PARAM]
        if found.setdefault(key, value) != value:
            raise InvalidInput(
                f"Duplicate parameter keys have been submitted: {key[:100]!r}.",
                hint="Give each parameter once.",
            )
    return found


def experiment_id(asked: Asked, *, make: bool = False) -> str:
    """The experiment that a request names; the default one by its id here.

    Args:
        make: whether the default experiment is made if it is not there yet.
    """
    given = asked.text("experiment_id")
    return default_id(asked, make=make) if given == DEFAULT_ID else checked_id(given)


def default_id(asked: Asked, *, make: bool) -> str:
    """The id of the workspace's default experiment."""
    try:
        found: Experiment = asked.call(
            "experiments.named", name=DEFAULT_NAME, workspace=asked.workspace
        )
    except NotFound:
        if not make:
            raise
        found = asked.call("experiments.create", name=DEFAULT_NAME, workspace=asked.workspace)
    return found.id


def checked_id(given: str) -> str:
    """The id, if an experiment can have it; raises NotFound."""
    if not is_id(given, "exp"):
        raise NotFound(f"No experiment with id {given[:100]!r} exists.")
    return given
