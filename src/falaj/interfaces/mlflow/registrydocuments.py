"""Registered models and versions in the words of MLflow's client, and names of workspaces."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from falaj.interfaces.mlflow.asked import DEFAULT_WORKSPACE, Asked
from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.models.finding import PROMPT_TAG, WORKSPACE_MARK
from falaj.models.model import Model, ModelVersion, Stage

LONGEST_NAME = 200
LOGGED_MODEL = "models:/m-"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_. \-]*[A-Za-z0-9_.\-])?")
STAGES = {
    Stage.DEVELOPMENT: "None",
    Stage.STAGING: "Staging",
    Stage.PRODUCTION: "Production",
    Stage.ARCHIVED: "Archived",
}
"""MLflow's word for each stage."""
_STAGE_OF = {name.lower(): stage for stage, name in STAGES.items()}


def model_name(asked: Asked, field: str = "name") -> str:
    """The name of a model as Falaj keeps it, from the name that a client gives.

    Raises:
        InvalidInput: it is missing, or has letters that no name here has.
    """
    given = asked.text(field)
    if not given.strip():
        raise InvalidInput(f"Missing value for required parameter {field!r}.")
    whole = given if not _prefix(asked) else _prefix(asked) + given
    if _NAME.fullmatch(given) is None or WORKSPACE_MARK in given or len(whole) > LONGEST_NAME:
        raise InvalidInput(
            f"Invalid model name: {given[:100]!r}.",
            hint=f"Names here have up to {LONGEST_NAME} letters of A-Z and a-z, digits, '_', '-', "
            "single '.' and spaces between them, and begin with a letter or digit.",
        )
    return whole


def workspace_of(asked: Asked) -> str:
    """The workspace as the search takes it: the empty text for the default one."""
    return "" if asked.workspace == DEFAULT_WORKSPACE else asked.workspace


def _prefix(asked: Asked) -> str:
    workspace = workspace_of(asked)
    return workspace + WORKSPACE_MARK if workspace else ""


def stage_of(text: str) -> Stage:
    """The stage that a client names, in any case of letters; raises InvalidInput."""
    found = _STAGE_OF.get(text.lower())
    if found is None:
        raise InvalidInput(
            f"Invalid Model Version stage: {text[:50]!r}.",
            hint=f"Value must be one of {', '.join(STAGES.values())}.",
        )
    return found


def tags_of(asked: Asked) -> dict[str, str]:
    """The tags that a request carries as a list of keys and values.

    Raises:
        InvalidInput: one of them is none, or says that this is a prompt.
    """
    found = {}
    for one in asked.several("tags"):
        tag = asked.within(one, "tags")
        found[tag.text("key")] = tag.text("value", "")
    check_no_prompt(found)
    return found


def check_no_prompt(tags: Mapping[str, str]) -> None:
    """Return unless tags say that what they are of is a prompt; raises InvalidInput."""
    if tags.get(PROMPT_TAG, "false").lower() != "false":
        raise InvalidInput(
            "Falaj keeps models, not prompts.", hint="Keep prompts in a repository of code."
        )


def model_document(asked: Asked, model: Model, latest: Iterable[ModelVersion]) -> dict[str, Any]:
    """A registered model as MLflow's client reads it.

    Args:
        latest: its newest version in each stage.
    """
    return {
        "name": model.name.removeprefix(_prefix(asked)),
        "creation_timestamp": milliseconds(model.created_at),
        "last_updated_timestamp": milliseconds(model.updated_at or model.created_at),
        "description": model.description,
        "tags": _pairs(model.tags),
        "aliases": [
            {"alias": alias, "version": str(version)} for alias, version in model.aliases.items()
        ],
        "latest_versions": [version_document(asked, one) for one in latest],
    }


def version_document(asked: Asked, version: ModelVersion, message: str = "") -> dict[str, Any]:
    """A version as MLflow's client reads it.

    Args:
        message: stands in its ``status_message``.
    """
    document: dict[str, Any] = {
        "name": version.model.removeprefix(_prefix(asked)),
        "version": str(version.version),
        "creation_timestamp": milliseconds(version.created_at),
        "last_updated_timestamp": milliseconds(version.updated_at or version.created_at),
        "user_id": version.created_by,
        "current_stage": STAGES[version.stage],
        "description": version.description,
        "source": version.source,
        "status": "READY",
        "tags": _pairs(version.tags),
        "aliases": list(version.aliases),
    }
    run = version.source_run or version.run
    for name, value in (("run_id", run), ("run_link", version.run_link),
                        ("status_message", message)):  # fmt: skip
        if value:
            document[name] = value
    if version.source.startswith(LOGGED_MODEL):
        document["model_id"] = version.source.removeprefix("models:/")
    return document


def latest_of(versions: Iterable[ModelVersion]) -> list[ModelVersion]:
    """The newest version in each stage, the oldest first."""
    newest: dict[Stage, ModelVersion] = {}
    for one in sorted(versions, key=lambda one: one.version):
        newest[one.stage] = one
    return sorted(newest.values(), key=lambda one: one.version)


def milliseconds(at: Any) -> int:
    """An instant in milliseconds since 1970."""
    return microseconds(at) // 1000


def _pairs(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in values.items()]
