"""What MLflow's client logs to runs: metrics, parameters, tags, inputs and outputs.

A batch of a thousand metrics is read into columns at once, and goes through the door as such.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Route
from falaj.interfaces.mlflow.trackingwords import (
    LATEST_MS,
    Document,
    run_id,
    tags_of,
)
from falaj.kernel.clock import from_microseconds
from falaj.kernel.errors import InvalidInput, LimitExceeded, NotFound
from falaj.training.model import DatasetInput, ModelMetric, OutputModel, Run
from falaj.training.tracking.points import Points
from falaj.training.tracking.values import LONGEST_PARAM, LONGEST_TAG

MOST_METRICS, MOST_PARAMS, MOST_TAGS, MOST_TOGETHER = 1_000, 100, 100, 1_000
LARGEST_BATCH = 1_000_000
LOGGED_MODELS_TAG = "mlflow.log-model.history"
_NOTHING = b"{}"
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_NAMES = {"nan", "inf", "infinity", "-inf", "-infinity"}


class _Metric(msgspec.Struct):
    key: str
    value: float | str
    timestamp: int | str
    step: int | str | None = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


class _Pair(msgspec.Struct):
    key: str
    value: str | None = ""


class _Batch(msgspec.Struct):
    run_id: str
    metrics: list[_Metric] | None = None
    params: list[_Pair] | None = None
    tags: list[_Pair] | None = None


_read_batch = msgspec.json.Decoder(_Batch).decode
_read_metric = msgspec.convert


def _log_batch(asked: Asked) -> bytes:
    if len(asked.body) > LARGEST_BATCH:
        raise LimitExceeded(
            f"A batch has {len(asked.body)} bytes.",
            hint=f"Send at most {LARGEST_BATCH} at once.",
            refused="body-too-large",
        )
    try:
        batch = _read_batch(asked.body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"Invalid value for a parameter of the batch: {error}.",
            hint="It has run_id, and lists of metrics, params and tags.",
        ) from None
    metrics, params, tags = batch.metrics or [], batch.params or [], batch.tags or []
    _check_size("metrics", len(metrics), MOST_METRICS)
    _check_size("params", len(params), MOST_PARAMS)
    _check_size("tags", len(tags), MOST_TAGS)
    _check_size("metrics, params and tags", len(metrics) + len(params) + len(tags), MOST_TOGETHER)
    texts: dict[str, str] = {}
    for one in params:
        value = (one.value or "")[:LONGEST_PARAM]
        if texts.setdefault(one.key, value) != value:
            raise InvalidInput(
                f"Duplicate parameter keys have been submitted: {one.key[:100]!r}.",
                hint="Give each parameter once.",
            )
    asked.call(
        "runs.log",
        run=batch.run_id,
        params=texts,
        metrics=_points(metrics),
        tags={one.key: (one.value or "")[:LONGEST_TAG] for one in tags},
        of_models=_of_models(metrics),
        workspace=asked.workspace,
    )
    return _NOTHING


def _log_metric(asked: Asked) -> bytes:
    try:
        metric = _read_metric(asked.fields, _Metric)
    except msgspec.ValidationError as error:
        raise InvalidInput(
            f"Invalid value for a parameter of the metric: {error}.",
            hint="It has run_id, key, value, timestamp and step.",
        ) from None
    asked.call(
        "runs.log",
        run=run_id(asked),
        metrics=_points([metric]),
        of_models=_of_models([metric]),
        workspace=asked.workspace,
    )
    return _NOTHING


def _log_parameter(asked: Asked) -> bytes:
    value = asked.text("value", "")[:LONGEST_PARAM]
    asked.call(
        "runs.log",
        run=run_id(asked),
        params={asked.text("key"): value},
        workspace=asked.workspace,
    )
    return _NOTHING


def _set_tag(asked: Asked) -> bytes:
    value = asked.text("value", "")[:LONGEST_TAG]
    asked.call(
        "runs.log",
        run=run_id(asked),
        tags={asked.text("key"): value},
        workspace=asked.workspace,
    )
    return _NOTHING


def _delete_tag(asked: Asked) -> bytes:
    asked.call("runs.untag", run=run_id(asked), key=asked.text("key"), workspace=asked.workspace)
    return _NOTHING


def _log_inputs(asked: Asked) -> bytes:
    datasets: dict[tuple[str, str], DatasetInput] = {}
    for item in asked.several("datasets"):
        given = asked.within(item, "datasets")
        told = given.within(given.part("dataset"), "dataset")
        key = (told.text("name"), told.text("digest"))
        # As a plain document: the action checks it, and says what is wrong with it.
        datasets.setdefault(
            key,
            {  # type: ignore[arg-type]
                "name": key[0],
                "digest": key[1],
                "source_type": told.text("source_type", ""),
                "source": told.text("source", ""),
                "columns": told.text("schema", "") or None,
                "profile": told.text("profile", "") or None,
                "tags": tags_of(given),
            },
        )
    models = [asked.within(one, "models").text("model_id") for one in asked.several("models")]
    asked.call(
        "runs.add_inputs",
        run=run_id(asked),
        datasets=list(datasets.values()),
        input_models=models,
        workspace=asked.workspace,
    )
    return _NOTHING


def _log_outputs(asked: Asked) -> bytes:
    given = [asked.within(one, "models") for one in asked.several("models")]
    outputs = [OutputModel(id=one.text("model_id"), step=one.number("step", 0)) for one in given]
    asked.call(
        "runs.add_inputs", run=run_id(asked), output_models=outputs, workspace=asked.workspace
    )
    return _NOTHING


def _log_model(asked: Asked) -> Document:
    """Models of clients before 3.0: a list in a tag of the run."""
    run, text = run_id(asked), asked.text("model_json")
    try:
        model: Any = json.loads(text)
    except (ValueError, RecursionError):
        model = None
    needed = {"artifact_path", "flavors", "utc_time_created", "run_id"}
    if not isinstance(model, dict) or needed - set(model):
        raise InvalidInput(
            "Invalid value for parameter 'model_json'.",
            hint=f"It is a JSON object with {', '.join(sorted(needed))}.",
        )
    kept: Run = asked.call("runs.get", run=run, workspace=asked.workspace)
    history = json.loads(kept.tags.get(LOGGED_MODELS_TAG, "[]"))
    if not isinstance(history, list):
        raise NotFound(f"The tag {LOGGED_MODELS_TAG} of the run holds no list of models.")
    asked.call(
        "runs.log",
        run=run,
        tags={LOGGED_MODELS_TAG: json.dumps([*history, model])},
        workspace=asked.workspace,
    )
    return {}


def _check_size(what: str, n: int, most: int) -> None:
    if n > most:
        raise InvalidInput(
            f"A batch can contain at most {most} {what}. Got {n}.", hint="Send it in parts."
        )


def _points(metrics: Sequence[_Metric]) -> Points:
    """Metrics as columns; raises InvalidInput for numbers that cannot be kept."""
    at = [_whole(one.timestamp, "timestamp") for one in metrics]
    if at and not (min(at) >= 0 and max(at) <= LATEST_MS):
        raise InvalidInput(
            "Invalid value for parameter 'timestamp' of a metric.",
            hint="It is an instant in milliseconds since 1970.",
        )
    return Points.of(
        [one.key for one in metrics],
        [_whole(one.step or 0, "step") for one in metrics],
        [one * 1000 for one in at],
        [one.value if type(one.value) is float else _real(one.value) for one in metrics],
    )


def _of_models(metrics: Sequence[_Metric]) -> list[ModelMetric]:
    """Those that say of which logged model they are."""
    return [
        ModelMetric(
            model=one.model_id,
            key=one.key,
            value=_real(one.value),
            step=_whole(one.step or 0, "step"),
            at=from_microseconds(_whole(one.timestamp, "timestamp") * 1000),
            dataset_name=(one.dataset_name or "") if one.dataset_digest else "",
            dataset_digest=(one.dataset_digest or "") if one.dataset_name else "",
        )
        for one in metrics
        if one.model_id
    ]


def _whole(value: int | str, name: str) -> int:
    if type(value) is int:
        return value
    text = str(value)
    if text.lstrip("+-").isdecimal() and len(text) <= 20:
        return int(text)
    raise InvalidInput(
        f"Invalid value {text[:100]!r} for parameter {name!r} of a metric.",
        hint="It is a whole number.",
    )


def _real(value: float | str) -> float:
    if not isinstance(value, str):
        return float(value)
    named = value.lower() in _NAMES
    number = float(value) if named or _NUMBER.fullmatch(value) else None
    if number is None or (math.isinf(number) and not named):
        raise InvalidInput(
            f"Invalid value {value[:100]!r} for parameter 'value' of a metric.",
            hint="It is a number.",
        )
    return number


ROUTES = (
    Route("POST", "mlflow/runs/log-batch", _log_batch, reads_body=True),
    Route("POST", "mlflow/runs/log-metric", _log_metric),
    Route("POST", "mlflow/runs/log-parameter", _log_parameter),
    Route("POST", "mlflow/runs/set-tag", _set_tag),
    Route("POST", "mlflow/runs/delete-tag", _delete_tag),
    Route("POST", "mlflow/runs/log-inputs", _log_inputs),
    Route("POST", "mlflow/runs/outputs", _log_outputs),
    Route("POST", "mlflow/runs/log-model", _log_model),
)
