"""MLflow's routes of model versions: create, get, search, tags, stages, where the files lie."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from falaj.interfaces.mlflow.artifacts import model_location
from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.registry import BY_CLIENT, limit_of, texts
from falaj.interfaces.mlflow.registrydocuments import (
    LOGGED_MODEL,
    check_no_prompt,
    model_name,
    stage_of,
    tags_of,
    version_document,
    workspace_of,
)
from falaj.interfaces.mlflow.routes import Route
from falaj.kernel.errors import AlreadyExists, InvalidInput, NotFound
from falaj.models.finding import MOST_LISTED
from falaj.models.model import ModelVersion, Stage

CHANGE_TAG = "falaj.change"
"""Names, on a version, the change that a client's transition has opened."""
_MOST_VERSIONS = 200_000
"""As many as MLflow lets a client ask for; a page has fewer."""


def _create(asked: Asked) -> Mapping[str, Any]:
    source, run = asked.text("source"), asked.text("run_id", "")
    if not run and source.startswith(LOGGED_MODEL):
        logged = asked.call("loggedmodels.get", model=source.removeprefix("models:/"))
        run = logged.source_run or ""
    made = asked.call(
        "models.register_mlflow",
        name=model_name(asked),
        source=_source(asked, source),
        run=run,
        run_link=asked.text("run_link", ""),
        description=asked.text("description", ""),
        tags=tags_of(asked),
    )
    return {"model_version": version_document(asked, made)}


def _source(asked: Asked, source: str) -> str:
    """``models:/NAME/VERSION`` with the name as Falaj keeps it; all else as it is."""
    name, slash, version = source.removeprefix("models:/").partition("/")
    if not source.startswith("models:/") or not slash:
        return source
    return f"models:/{model_name(asked.within({'name': name}, 'source'))}/{version}"


def _found(asked: Asked) -> ModelVersion:
    found: ModelVersion = asked.call(
        "models.get", name=model_name(asked), version=asked.number("version")
    )
    return found


def _get(asked: Asked) -> Mapping[str, Any]:
    return {"model_version": version_document(asked, _found(asked))}


def _update(asked: Asked) -> Mapping[str, Any]:
    made = asked.call(
        "models.describe_version",
        name=model_name(asked),
        version=asked.number("version"),
        description=asked.text("description", ""),
    )
    return {"model_version": version_document(asked, made)}


def _delete(asked: Asked) -> Mapping[str, Any]:
    asked.call(
        "models.delete_version",
        name=model_name(asked),
        version=asked.number("version"),
        reason=BY_CLIENT,
    )
    return {}


def _search(asked: Asked) -> Mapping[str, Any]:
    limit = limit_of(asked, MOST_LISTED, _MOST_VERSIONS)
    page = asked.call(
        "models.search_versions",
        filter=asked.text("filter", ""),
        order_by=texts(asked, "order_by"),
        limit=min(limit, MOST_LISTED),
        page=asked.text("page_token", "") or None,
        workspace=workspace_of(asked),
    )
    document: dict[str, Any] = {
        "model_versions": [version_document(asked, one) for one in page.versions]
    }
    if page.next_page:
        document["next_page_token"] = page.next_page
    return document


def _download_uri(asked: Asked) -> Mapping[str, Any]:
    found = _found(asked)
    if not found.source:
        raise NotFound(
            f"Version {found.version} of {found.model} has no folder of MLflow's: it was trained "
            "or brought here.",
            hint="Take its bundle out with `falaj models export NAME VERSION FOLDER`.",
        )
    if not found.source.startswith(LOGGED_MODEL):
        return {"artifact_uri": found.source}
    logged = asked.call("loggedmodels.get", model=found.source.removeprefix("models:/"))
    return {"artifact_uri": model_location(logged.experiment_id, logged.id)}


def _set_tag(asked: Asked) -> Mapping[str, Any]:
    tags = {asked.text("key"): asked.text("value", "")}
    check_no_prompt(tags)
    version = asked.number("version")
    asked.call("models.tag_version", name=model_name(asked), version=version, tags=tags)
    return {}


def _delete_tag(asked: Asked) -> Mapping[str, Any]:
    version = asked.number("version")
    keys = [asked.text("key")]
    asked.call("models.untag_version", name=model_name(asked), version=version, keys=keys)
    return {}


def _transition(asked: Asked) -> Mapping[str, Any]:
    """Ask for a stage; the version stays where it is until another person approves."""
    to = stage_of(asked.text("stage"))
    if asked.truth("archive_existing_versions") and to is not Stage.PRODUCTION:
        raise InvalidInput(
            "archive_existing_versions is for the stage Production alone, which one version holds.",
            hint="Leave it out, and ask for each other version to be archived.",
        )
    found = _found(asked)
    if found.stage is to:
        return {"model_version": version_document(asked, found)}
    where = {"name": found.model, "version": found.version}
    try:
        change = asked.call("models.promote", **where, to=to, reason=BY_CLIENT)
    except AlreadyExists:
        told = "The same change waits already for another person's approval."
    else:
        told = f"{change.id} waits for another person's approval; until then the stage stays."
        found = asked.call("models.tag_version", **where, tags={CHANGE_TAG: change.id})
    return {"model_version": version_document(asked, found, told)}


_HERE = "mlflow/model-versions/"
ROUTES = (
    Route("POST", _HERE + "create", _create),
    Route("GET", _HERE + "get", _get),
    Route("PATCH", _HERE + "update", _update),
    Route("DELETE", _HERE + "delete", _delete),
    Route("GET", _HERE + "search", _search),
    Route("GET", _HERE + "get-download-uri", _download_uri),
    Route("POST", _HERE + "set-tag", _set_tag),
    Route("DELETE", _HERE + "delete-tag", _delete_tag),
    Route("POST", _HERE + "transition-stage", _transition),
)
