"""MLflow's routes of registered models: create, get, search, tags, aliases, deletion."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from falaj.interfaces.mlflow.asked import Asked
from falaj.interfaces.mlflow.registrydocuments import (
    check_no_prompt,
    latest_of,
    model_document,
    model_name,
    stage_of,
    tags_of,
    version_document,
    workspace_of,
)
from falaj.interfaces.mlflow.routes import Route
from falaj.kernel.errors import Conflict, InvalidInput
from falaj.models.aliases import AliasGuarded, AliasWaits
from falaj.models.finding import MOST_LISTED
from falaj.models.model import Model

BY_CLIENT = "Asked for through MLflow's API."
"""The reason that stands where MLflow's client can give none."""
_MOST_MODELS = 1_000


def _create(asked: Asked) -> Mapping[str, Any]:
    made = asked.call(
        "models.create",
        name=model_name(asked),
        description=asked.text("description", ""),
        tags=tags_of(asked),
    )
    return {"registered_model": model_document(asked, made, ())}


def _get(asked: Asked) -> Mapping[str, Any]:
    return _told(asked, asked.call("models.show", name=model_name(asked)))


def _told(asked: Asked, model: Model) -> Mapping[str, Any]:
    latest = latest_of(asked.call("models.versions", name=model.name))
    return {"registered_model": model_document(asked, model, latest)}


def _update(asked: Asked) -> Mapping[str, Any]:
    said = asked.text("description", "")
    return _told(asked, asked.call("models.describe", name=model_name(asked), description=said))


def _rename(asked: Asked) -> Mapping[str, Any]:
    name, new = model_name(asked), model_name(asked, "new_name")
    asked.call("models.show", name=name)
    raise Conflict(
        f"The model {name!r} cannot be renamed to {new!r}: its name stands in signed bundles, "
        "approvals and prediction logs.",
        hint=f"Create {new!r}, and register versions there with the source models:/{name}/VERSION.",
    )


def _delete(asked: Asked) -> Mapping[str, Any]:
    asked.call("models.delete", name=model_name(asked), reason=BY_CLIENT)
    return {}


def _search(asked: Asked) -> Mapping[str, Any]:
    page = asked.call(
        "models.search",
        filter=asked.text("filter", ""),
        order_by=texts(asked, "order_by"),
        limit=limit_of(asked, 100, _MOST_MODELS),
        page=asked.text("page_token", "") or None,
        workspace=workspace_of(asked),
    )
    latest = defaultdict(list)
    if page.models:
        names = [model_document(asked, one, ())["name"] for one in page.models]
        quoted = ", ".join(f"'{name}'" for name in names)
        found = asked.call(
            "models.search_versions",
            filter=f"name IN ({quoted})",
            limit=MOST_LISTED,
            workspace=workspace_of(asked),
        )
        for one in found.versions:
            latest[one.model].append(one)
    document: dict[str, Any] = {
        "registered_models": [
            model_document(asked, one, latest_of(latest[one.name])) for one in page.models
        ]
    }
    if page.next_page:
        document["next_page_token"] = page.next_page
    return document


def _latest_versions(asked: Asked) -> Mapping[str, Any]:
    stages = {stage_of(one) for one in texts(asked, "stages")}
    found = latest_of(asked.call("models.versions", name=model_name(asked)))
    return {
        "model_versions": [
            version_document(asked, one) for one in found if not stages or one.stage in stages
        ]
    }


def _set_tag(asked: Asked) -> Mapping[str, Any]:
    tags = {asked.text("key"): asked.text("value", "")}
    check_no_prompt(tags)
    asked.call("models.tag", name=model_name(asked), tags=tags)
    return {}


def _delete_tag(asked: Asked) -> Mapping[str, Any]:
    asked.call("models.untag", name=model_name(asked), keys=[asked.text("key")])
    return {}


def _set_alias(asked: Asked) -> Mapping[str, Any]:
    name, alias, version = model_name(asked), asked.text("alias"), asked.number("version")
    try:
        asked.call("models.set_alias", name=name, alias=alias, version=version, reason=BY_CLIENT)
    except AliasGuarded:
        _propose(asked, name, alias, version)
    return {}


def _delete_alias(asked: Asked) -> Mapping[str, Any]:
    name, alias = model_name(asked), asked.text("alias")
    try:
        asked.call("models.remove_alias", name=name, alias=alias, reason=BY_CLIENT)
    except AliasGuarded:
        _propose(asked, name, alias, None)
    return {}


def _propose(asked: Asked, name: str, alias: str, version: int | None) -> None:
    """Ask for a guarded alias; the client's answer has no room for a word, so it is an error."""
    change = asked.call(
        "models.propose_alias", name=name, alias=alias, version=version, reason=BY_CLIENT
    )
    raise AliasWaits(
        f"The alias {alias!r} of {name} stands where it stood: {change.id} waits for another "
        "person's approval.",
        hint=f"`falaj changes approve {change.id}` moves it.",
        change=change.id,
    )


def _by_alias(asked: Asked) -> Mapping[str, Any]:
    found = asked.call("models.resolve", name=model_name(asked), alias=asked.text("alias"))
    return {"model_version": version_document(asked, found)}


def texts(asked: Asked, name: str) -> list[str]:
    """A field that is a list of texts; raises InvalidInput."""
    found = asked.several(name)
    if not all(isinstance(one, str) for one in found):
        raise InvalidInput(f"Invalid value for parameter {name!r}.", hint="It is a list of texts.")
    return found


def limit_of(asked: Asked, usual: int, most: int) -> int:
    """How many are asked for; raises InvalidInput."""
    found = asked.number("max_results", usual)
    if not 1 <= found <= most:
        raise InvalidInput(
            f"Invalid value {found} for parameter 'max_results'.",
            hint=f"It is at least 1 and at most {most}.",
        )
    return found


_HERE = "mlflow/registered-models/"
ROUTES = (
    Route("POST", _HERE + "create", _create),
    Route("GET", _HERE + "get", _get),
    Route("PATCH", _HERE + "update", _update),
    Route("POST", _HERE + "rename", _rename),
    Route("DELETE", _HERE + "delete", _delete),
    Route("GET", _HERE + "search", _search),
    Route("GET", _HERE + "get-latest-versions", _latest_versions),
    Route("POST", _HERE + "get-latest-versions", _latest_versions),
    Route("POST", _HERE + "set-tag", _set_tag),
    Route("DELETE", _HERE + "delete-tag", _delete_tag),
    Route("POST", _HERE + "alias", _set_alias),
    Route("DELETE", _HERE + "alias", _delete_alias),
    Route("GET", _HERE + "alias", _by_alias),
)
