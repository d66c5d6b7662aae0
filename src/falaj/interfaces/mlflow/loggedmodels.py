"""MLflow's routes of logged models: create, get, finish, delete, tags, parameters, files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from falaj.interfaces.mlflow.artifacts import file_document, model_location
from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Route
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.training.artifactpaths import artifact_path
from falaj.training.loggedmodels import LoggedMetric, LoggedModel, LoggedStatus

_STATUS = {
    LoggedStatus.PENDING: "LOGGED_MODEL_PENDING",
    LoggedStatus.READY: "LOGGED_MODEL_READY",
    LoggedStatus.FAILED: "LOGGED_MODEL_UPLOAD_FAILED",
}
_STATUS_OF = {name: status for status, name in _STATUS.items()}


def model_document(model: LoggedModel) -> dict[str, Any]:
    """A logged model as MLflow's client reads it."""
    info: dict[str, Any] = {
        "model_id": model.id,
        "experiment_id": model.experiment_id,
        "name": model.name,
        "creation_timestamp_ms": _milliseconds(model.created_at),
        "last_updated_timestamp_ms": _milliseconds(model.updated_at),
        "artifact_uri": model_location(model.experiment_id, model.id),
        "status": _STATUS[model.status],
        "tags": _pairs(model.tags),
    }
    for name, value in (
        ("model_type", model.model_type),
        ("source_run_id", model.source_run),
        ("status_message", model.status_message),
    ):
        if value is not None:
            info[name] = value
    data = {
        "params": _pairs(model.params),
        "metrics": [_metric(model.id, one) for one in model.metrics],
    }
    return {"info": info, "data": data}


def _metric(model: str, metric: LoggedMetric) -> dict[str, Any]:
    document: dict[str, Any] = {
        "key": metric.key,
        "value": metric.value,
        "timestamp": _milliseconds(metric.at),
        "step": metric.step,
        "model_id": model,
        "run_id": metric.run,
    }
    if metric.dataset:
        document["dataset_name"] = metric.dataset
    if metric.dataset_digest:
        document["dataset_digest"] = metric.dataset_digest
    return document


def _create(asked: Asked) -> Mapping[str, Any]:
    made = asked.call_here(
        "loggedmodels.create",
        experiment=asked.text("experiment_id"),
        name=asked.text("name", "") or None,
        model_type=asked.text("model_type", "") or None,
        source_run=asked.text("source_run_id", "") or None,
        params=_texts(asked, "params"),
        tags=_texts(asked, "tags"),
    )
    return {"model": model_document(made)}


def _get(asked: Asked) -> Mapping[str, Any]:
    deleted = asked.truth("allow_deleted")
    found = asked.call_here("loggedmodels.get", model=asked.path["model"], deleted=deleted)
    return {"model": model_document(found)}


def _finalize(asked: Asked) -> Mapping[str, Any]:
    named = asked.text("status")
    if named not in _STATUS_OF:
        raise InvalidInput(
            f"Invalid model status: {named[:50]!r}.", hint="It is one of " + ", ".join(_STATUS_OF)
        )
    made = asked.call_here(
        "loggedmodels.finish", model=asked.path["model"], status=_STATUS_OF[named]
    )
    return {"model": model_document(made)}


def _delete(asked: Asked) -> Mapping[str, Any]:
    asked.call_here("loggedmodels.delete", model=asked.path["model"])
    return {}


def _set_tags(asked: Asked) -> Mapping[str, Any]:
    model = asked.path["model"]
    asked.call_here("loggedmodels.tag", model=model, tags=_texts(asked, "tags"))
    return {"model": model_document(asked.call_here("loggedmodels.get", model=model))}


def _delete_tag(asked: Asked) -> Mapping[str, Any]:
    asked.call_here("loggedmodels.untag", model=asked.path["model"], key=asked.path["key"])
    return {}


def _add_params(asked: Asked) -> Mapping[str, Any]:
    params = _texts(asked, "params")
    asked.call_here("loggedmodels.add_params", model=asked.path["model"], params=params)
    return {}


def _files(asked: Asked) -> Mapping[str, Any]:
    model = asked.path["model"]
    folder = artifact_path(asked.text("artifact_directory_path", "").rstrip("/"), empty=True)
    entries = asked.call_here("loggedmodels.artifacts", model=model, path=folder)
    found = asked.call_here("loggedmodels.get", model=model)
    return {
        "root_uri": model_location(found.experiment_id, model),
        "files": [file_document(entry, entry.path) for entry in entries],
    }


def _texts(asked: Asked, name: str) -> dict[str, str]:
    """A list of ``{"key": …, "value": …}``; of a key that stands twice, the last one holds."""
    parts: Iterable[Asked] = (asked.within(part, name) for part in asked.several(name))
    return {part.text("key"): part.text("value", "") for part in parts}


def _pairs(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in sorted(texts.items())]


def _milliseconds(at: Any) -> int:
    return microseconds(at) // 1000


def _search(asked: Asked) -> Mapping[str, Any]:
    experiments = asked.several("experiment_ids")
    if not experiments:
        return {"models": []}
    page = asked.call_here(
        "loggedmodels.search",
        filter=asked.text("filter", ""),
        order_by=[_order(asked.within(one, "order_by")) for one in asked.several("order_by")],
        experiments=experiments,
        datasets=[_dataset(asked.within(one, "datasets")) for one in asked.several("datasets")],
        limit=asked.number("max_results", 0) or _PAGE,
        page=asked.text("page_token", "") or None,
    )
    document: dict[str, Any] = {"models": [model_document(one) for one in page.models]}
    if page.next_page:
        document["next_page_token"] = page.next_page
    return document


def _order(asked: Asked) -> dict[str, Any]:
    document: dict[str, Any] = {
        "by": asked.text("field_name"),
        "ascending": asked.truth("ascending", True),
    }
    if asked.text("dataset_name", ""):
        document["dataset"] = _dataset(asked)
    return document


def _dataset(asked: Asked) -> dict[str, Any]:
    return {"name": asked.text("dataset_name"), "digest": asked.text("dataset_digest", "") or None}


_PAGE = 100
_MODEL = "mlflow/logged-models/{model}"
ROUTES = (
    Route("POST", "mlflow/logged-models", _create),
    Route("POST", "mlflow/logged-models/search", _search),
    Route("GET", _MODEL, _get),
    Route("PATCH", _MODEL, _finalize),
    Route("DELETE", _MODEL, _delete),
    Route("PATCH", _MODEL + "/tags", _set_tags),
    Route("DELETE", _MODEL + "/tags/{key:path}", _delete_tag),
    Route("POST", _MODEL + "/params", _add_params),
    Route("GET", _MODEL + "/artifacts/directories", _files),
)
