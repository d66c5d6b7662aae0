"""Experiments and runs, as MLflow's client asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from falaj.interfaces.mlflow import trackinglogs, trackingmetrics
from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.routes import Route
from falaj.interfaces.mlflow.trackingwords import (
    DEFAULT_ID,
    DEFAULT_NAME,
    Document,
    checked_id,
    default_id,
    experiment_document,
    experiment_id,
    info_document,
    instant,
    run_document,
    run_id,
    stage_of,
    state_of,
    tags_of,
    texts,
)
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.training.model import ExperimentPage, Run, RunPage
from falaj.training.tracking.experiments import LONGEST_TAG as LONGEST_EXPERIMENT_TAG

LARGEST_PAGE = 50_000
_encoded = msgspec.json.Encoder().encode


def _create_experiment(asked: Asked) -> Document:
    location = asked.text("artifact_location", "")
    if location and not location.startswith("mlflow-artifacts:"):
        raise InvalidInput(
            "Invalid value for parameter 'artifact_location': Falaj keeps artifacts itself,"
            " encrypted.",
            hint="Leave it out.",
        )
    tags = tags_of(asked, longest=LONGEST_EXPERIMENT_TAG)
    made = asked.call(
        "experiments.create", name=asked.text("name"), workspace=asked.workspace, tags=tags
    )
    return {"experiment_id": made.id}


def _get_experiment(asked: Asked) -> Document:
    found = asked.call(
        "experiments.get", experiment=experiment_id(asked, make=True), workspace=asked.workspace
    )
    return {"experiment": experiment_document(found)}


def _named_experiment(asked: Asked) -> Document:
    name = asked.text("experiment_name")
    found = asked.call("experiments.named", name=name, workspace=asked.workspace)
    return {"experiment": experiment_document(found)}


def _search_experiments(asked: Asked) -> Document:
    found: ExperimentPage = asked.call(
        "experiments.search",
        filter=asked.text("filter", ""),
        order_by=texts(asked, "order_by"),
        stage=stage_of(asked, "view_type"),
        limit=_page_size(asked, 1_000),
        page=asked.text("page_token", "") or None,
        workspace=asked.workspace,
    )
    documents = [experiment_document(one) for one in found.experiments]
    return _page("experiments", documents, found.next_page)


def _rename_experiment(asked: Asked) -> Document:
    asked.call(
        "experiments.rename",
        experiment=experiment_id(asked),
        name=asked.text("new_name"),
        workspace=asked.workspace,
    )
    return {}


def _delete_experiment(asked: Asked) -> Document:
    asked.call("experiments.delete", experiment=experiment_id(asked), workspace=asked.workspace)
    return {}


def _restore_experiment(asked: Asked) -> Document:
    asked.call("experiments.restore", experiment=experiment_id(asked), workspace=asked.workspace)
    return {}


def _tag_experiment(asked: Asked) -> Document:
    value = asked.text("value", "")[:LONGEST_EXPERIMENT_TAG]
    asked.call(
        "experiments.tag",
        experiment=experiment_id(asked, make=True),
        tags={asked.text("key"): value},
        workspace=asked.workspace,
    )
    return {}


def _untag_experiment(asked: Asked) -> Document:
    asked.call(
        "experiments.untag",
        experiment=experiment_id(asked),
        key=asked.text("key"),
        workspace=asked.workspace,
    )
    return {}


def _search_datasets(asked: Asked) -> Document:
    ids = [checked_id(one) for one in texts(asked, "experiment_ids")]
    found = asked.call("experiments.datasets", experiments=ids, workspace=asked.workspace)
    summaries = [
        {
            "experiment_id": one.experiment_id,
            "name": one.name,
            "digest": one.digest,
            **({"context": one.context} if one.context is not None else {}),
        }
        for one in found
    ]
    return {"dataset_summaries": summaries}


def _create_run(asked: Asked) -> bytes:
    given = asked.text("experiment_id", DEFAULT_ID) or DEFAULT_ID
    experiment = DEFAULT_NAME if given == DEFAULT_ID else checked_id(given)
    tags, name = tags_of(asked), asked.text("run_name", "")
    tagged = tags.get("mlflow.runName", "")
    if name and tagged and name != tagged:
        raise InvalidInput(
            f"Both 'run_name' ({name[:100]!r}) and the tag 'mlflow.runName' ({tagged[:100]!r})"
            " are given, and differ.",
            hint="Give one of them.",
        )
    begun = asked.number("start_time", 0)
    run: Run = asked.call(
        "runs.start",
        experiment=experiment,
        name=name,
        tags=tags,
        workspace=asked.workspace,
        started_at=instant(begun, "start_time") if begun else None,
        open_ended=True,
        said_user=asked.text("user_id", "") or None,
    )
    return _encoded({"run": run_document(run)})


def _get_run(asked: Asked) -> bytes:
    run = asked.call("runs.get", run=run_id(asked), workspace=asked.workspace)
    return _encoded({"run": run_document(run)})


def _update_run(asked: Asked) -> Document:
    ended = asked.number("end_time", -1)
    run = asked.call(
        "runs.update",
        run=run_id(asked),
        name=asked.text("run_name", "") or None,
        state=state_of(asked.text("status", "")),
        ended_at=instant(ended, "end_time") if ended >= 0 else None,
        workspace=asked.workspace,
    )
    return {"run_info": info_document(run)}


def _delete_run(asked: Asked) -> Document:
    asked.call("runs.delete", run=run_id(asked), workspace=asked.workspace)
    return {}


def _restore_run(asked: Asked) -> Document:
    asked.call("runs.restore", run=run_id(asked), workspace=asked.workspace)
    return {}


def _search_runs(asked: Asked) -> bytes:
    experiments = [one for one in map(_known(asked), texts(asked, "experiment_ids")) if one]
    if not experiments:
        return b'{"runs":[]}'
    found: RunPage = asked.call(
        "runs.search",
        filter=asked.text("filter", ""),
        order_by=texts(asked, "order_by"),
        experiments=experiments,
        stage=stage_of(asked, "run_view_type"),
        limit=_page_size(asked, 1_000),
        page=asked.text("page_token", "") or None,
        workspace=asked.workspace,
    )
    return _encoded(_page("runs", [run_document(one) for one in found.runs], found.next_page))


def _known(asked: Asked) -> Any:
    """Takes the id of an experiment to the one that it has here, or None if there is none."""

    def known(given: str) -> str | None:
        if given != DEFAULT_ID:
            return given
        try:
            return default_id(asked, make=False)
        except NotFound:
            return None

    return known


def _page(name: str, documents: list[Document], token: str | None) -> Mapping[str, Any]:
    return {name: documents, **({"next_page_token": token} if token else {})}


def _page_size(asked: Asked, otherwise: int) -> int:
    asked_for = asked.number("max_results", otherwise)
    if not 1 <= asked_for <= LARGEST_PAGE:
        raise InvalidInput(
            f"Invalid value {asked_for} for parameter 'max_results'.",
            hint=f"It is a number from 1 to {LARGEST_PAGE}.",
        )
    return asked_for


ROUTES = (
    Route("POST", "mlflow/experiments/create", _create_experiment),
    Route("GET", "mlflow/experiments/get", _get_experiment),
    Route("GET", "mlflow/experiments/get-by-name", _named_experiment),
    Route("POST", "mlflow/experiments/search", _search_experiments),
    Route("GET", "mlflow/experiments/search", _search_experiments),
    Route("POST", "mlflow/experiments/update", _rename_experiment),
    Route("POST", "mlflow/experiments/delete", _delete_experiment),
    Route("POST", "mlflow/experiments/restore", _restore_experiment),
    Route("POST", "mlflow/experiments/set-experiment-tag", _tag_experiment),
    Route("POST", "mlflow/experiments/delete-experiment-tag", _untag_experiment),
    Route("POST", "mlflow/experiments/search-datasets", _search_datasets),
    Route("POST", "mlflow/runs/create", _create_run),
    Route("GET", "mlflow/runs/get", _get_run),
    Route("POST", "mlflow/runs/update", _update_run),
    Route("POST", "mlflow/runs/delete", _delete_run),
    Route("POST", "mlflow/runs/restore", _restore_run),
    Route("POST", "mlflow/runs/search", _search_runs),
    *trackinglogs.ROUTES,
    *trackingmetrics.ROUTES,
)
