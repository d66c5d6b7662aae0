"""What went into runs and came out: datasets, and logged models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.kernel.statements import Statement, json_text, marks
from falaj.training.tracking.texts import plain

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.training.model import DatasetInput, ModelMetric, OutputModel

_ADD_DATASET = Statement(
    "INSERT INTO run_datasets (experiment_id, name, digest, source_type, source, schema, profile)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (experiment_id, name, digest) DO NOTHING"
)
_ADD_INPUT = Statement(
    "INSERT INTO run_inputs (run_id, name, digest, context, tags) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (run_id, name, digest) DO NOTHING"
)
_ADD_MODEL = Statement(
    "INSERT INTO run_models (run_id, direction, model_id, step) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (run_id, direction, model_id) DO UPDATE SET step = excluded.step"
)

_SET_MODEL_METRIC = Statement(
    "INSERT INTO logged_model_metrics (model_id, run_id, key, dataset_name, dataset_digest, step,"
    " at, value, is_nan) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (model_id, run_id, key, dataset_name, dataset_digest) DO UPDATE"
    " SET step = excluded.step, at = excluded.at, value = excluded.value,"
    " is_nan = excluded.is_nan WHERE excluded.step > logged_model_metrics.step"
    " OR (excluded.step = logged_model_metrics.step AND excluded.at >= logged_model_metrics.at)"
)


@dataclass(frozen=True, slots=True)
class DatasetSummary:
    """One dataset that went into runs of an experiment, for one context."""

    experiment_id: str
    name: str
    digest: str
    context: str | None


def add_datasets(
    connection: Connection, experiment_id: str, run_id: str, datasets: Sequence[DatasetInput]
) -> None:
    """Keep that datasets went into a run; what is said of one again changes nothing.

    Raises:
        InvalidInput: a text cannot be kept.
    """
    for one in datasets:
        texts = (one.name, one.digest, one.source_type, one.source, one.columns or "",
                 one.profile or "", *one.tags, *one.tags.values())  # fmt: skip
        if not all(map(plain, texts)):
            raise InvalidInput(
                f"The description of the dataset {one.name!r} holds a NUL or half a surrogate"
                " pair.",
                hint="Use text that is valid Unicode.",
            )
    _ADD_DATASET.many(
        connection,
        [
            (experiment_id, one.name, one.digest, one.source_type, one.source, one.columns,
             one.profile)
            for one in datasets
        ],
    )  # fmt: skip
    _ADD_INPUT.many(
        connection,
        [
            (run_id, one.name, one.digest, one.context, json_text(dict(one.tags)))
            for one in datasets
        ],
    )


def add_models(
    connection: Connection,
    run_id: str,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[OutputModel] = (),
) -> None:
    """Keep that logged models went into a run or came out of it.

    Raises:
        InvalidInput: an id cannot be kept.
    """
    rows = [(run_id, "input", model, 0) for model in inputs]
    rows += [(run_id, "output", model.id, model.step) for model in outputs]
    for _, _, model, step in rows:
        if not 0 < len(model) <= 64 or not plain(model):
            raise InvalidInput(f"{model[:100]!r} cannot be the id of a logged model.")
        if not -(2**63) <= step < 2**63:
            raise InvalidInput(f"The step {step} of a model does not fit 64 bits.")
    _ADD_MODEL.many(connection, rows)


def add_model_metrics(connection: Connection, run_id: str, metrics: Sequence[ModelMetric]) -> None:
    """Bring the last values of metrics of logged models up to date.

    Raises:
        InvalidInput: a text or a step cannot be kept.
    """
    rows = []
    for one in metrics:
        texts = (one.model, one.key, one.dataset_name, one.dataset_digest)
        if not all(map(plain, texts)) or not -(2**63) <= one.step < 2**63:
            raise InvalidInput(f"The metric {one.key!r} of the model {one.model!r} cannot be kept.")
        nan = math.isnan(one.value)
        rows.append(
            (one.model, run_id, *texts[1:], one.step, microseconds(one.at),
             0.0 if nan else one.value, nan)
        )  # fmt: skip
    _SET_MODEL_METRIC.many(connection, rows)


def summaries(connection: Connection, experiments: Sequence[str]) -> list[DatasetSummary]:
    """The datasets that went into the runs of these experiments, each context once."""
    if not experiments:
        return []
    query = (
        "SELECT DISTINCT r.experiment_id, i.name, i.digest, i.context FROM run_inputs i"
        " JOIN runs r ON r.id = i.run_id WHERE r.deleted_at IS NULL AND r.experiment_id IN"
        f" ({marks(len(experiments))}) ORDER BY 1, 2, 3, 4 LIMIT 1000"
    )
    return [DatasetSummary(*row) for row in Statement(query).all(connection, experiments)]
