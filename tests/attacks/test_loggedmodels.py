"""Attacks on logged models, and on files of runs that hold personal data."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from typing import Any

import pytest

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound, StepUpRequired
from falaj.training.model import ModelMetric, OutputModel
from falaj.training.tracking import pagetokens

RISK_IS_FOR_RANIA = """
@id("risk-is-for-rania")
forbid (principal, action, resource)
when { resource has workspace && resource.workspace == "risk" }
unless { principal == User::"user:rania" };
"""
OTHERS_MODELS = """
@id("others-models")
forbid (principal, action in Action::"experiment", resource)
when { resource.kind == "logged_model" && resource has owner && resource.owner != principal.id };
"""


@pytest.fixture
def guarded(site: Any) -> Iterator[Any]:
    """The site with these two policies of the operator."""
    policies = {"risk": RISK_IS_FOR_RANIA, "others": OTHERS_MODELS}
    documents = [{"kind": "policy", "name": name, "text": text} for name, text in policies.items()]
    put(site, documents)
    yield site
    put(site, [{**one, "enabled": False} for one in documents])


def put(site: Any, documents: list[dict[str, Any]]) -> None:
    """These policies are in force."""
    with site.premises.calls.opened("definitions.apply", "user:operator") as call:
        site.premises.definitions.apply(call, documents)
    site.premises.policy._fresh_until = 0.0


def scientist(site: Any, name: str) -> Any:
    return site.caller("data_scientist", name=name)


def logged(site: Any, who: Any, experiment: str, workspace: str = "default") -> Any:
    """A run of somebody, and a logged model of it."""
    run = site.ask(who, "runs.start", experiment=experiment, workspace=workspace)
    model = site.ask(
        who, "loggedmodels.create", experiment=run.experiment_id, source_run=run.id,
        workspace=workspace,
    )  # fmt: skip
    return run, model


def test_a_logged_model_of_a_workspace_is_guarded_by_the_policies_of_it(guarded: Any) -> None:
    rania, eve = scientist(guarded, "rania"), scientist(guarded, "eve")
    run, model = logged(guarded, rania, "fraud", "risk")
    for action, more in (
        ("get", {}),
        ("tag", {"tags": {"a": "b"}}),
        ("keep_artifact", {"path": "a", "content": b"x"}),
        ("delete", {}),
    ):
        with pytest.raises((NotFound, Forbidden)):
            guarded.ask(eve, f"loggedmodels.{action}", model=model.id, **more)
    found = guarded.ask(eve, "loggedmodels.search", workspace="risk")
    assert found.models == ()
    with pytest.raises(NotFound, match="experiment"):
        guarded.ask(eve, "loggedmodels.create", experiment=run.experiment_id, workspace="risk")
    assert guarded.ask(rania, "loggedmodels.get", model=model.id).id == model.id


def test_nobody_writes_metrics_or_outputs_onto_the_logged_model_of_another(guarded: Any) -> None:
    omar, eve = scientist(guarded, "omar"), scientist(guarded, "eve")
    _, theirs = logged(guarded, omar, "mine-and-theirs")
    run, own = logged(guarded, eve, "mine-and-theirs")
    now = guarded.premises.clock.now()

    def metric(model: str) -> dict[str, Any]:
        point = {"key": "auc", "value": 0.99, "step": 1, "at": now}
        given = ModelMetric(model=model, dataset_name="", dataset_digest="", **point)
        return {"metrics": [point], "of_models": [given]}

    for model, error in ((theirs.id, Forbidden), ("m-" + "0" * 32, NotFound)):
        with pytest.raises(error, match="logged model"):
            guarded.ask(eve, "runs.log", run=run.id, **metric(model))
        with pytest.raises(error, match="logged model"):
            outputs = [OutputModel(id=model, step=1)]
            guarded.ask(eve, "runs.add_inputs", run=run.id, output_models=outputs)
    assert guarded.ask(omar, "loggedmodels.get", model=theirs.id).metrics == ()
    guarded.ask(eve, "runs.log", run=run.id, **metric(own.id))
    guarded.ask(eve, "runs.add_inputs", run=run.id, output_models=[OutputModel(id=own.id, step=1)],
                input_models=[theirs.id])  # fmt: skip
    assert guarded.ask(eve, "loggedmodels.get", model=own.id).metrics[0].value == 0.99


@pytest.mark.parametrize("service", ["runs", "loggedmodels"])
def test_files_with_personal_data_need_a_purpose_and_a_fresh_factor(
    site: Any, service: str
) -> None:
    omar = scientist(site, "omar")
    made = dict(zip(("runs", "loggedmodels"), logged(site, omar, "personal"), strict=True))
    kind, named = {"runs": ("run", "run"), "loggedmodels": ("logged_model", "model")}[service]
    asset = {named: made[service].id}
    site.ask(omar, f"{service}.keep_artifact", path="rows.csv", content=b"name", **asset)

    def fetched(*roles: str, **more: Any) -> bytes:
        who = site.caller(*roles, name="omar", **more)
        return bytes(site.ask(who, f"{service}.fetch_artifact", path="rows.csv", **asset))

    readers = ("viewer", "data_scientist", "approver", "operator", "auditor", "administrator")
    assert {fetched(role) for role in readers} == {b"name"}
    with site.premises.calls.opened("assets.describe", "user:steward") as call:
        ref = AssetRef(kind, made[service].id)
        site.premises.catalog.describe(call, ref, classification="personal")
    with pytest.raises((Forbidden, StepUpRequired)):
        fetched("data_scientist")
    with pytest.raises((Forbidden, StepUpRequired)):
        fetched("data_scientist", purpose="debugging")
    with pytest.raises(Forbidden):
        fetched("data_scientist", factor=True)
    for role in ("approver", "operator", "auditor", "administrator"):
        with pytest.raises(Forbidden):
            fetched(role, factor=True, purpose="debugging")
    assert fetched("data_scientist", factor=True, purpose="debugging") == b"name"


HIDDEN_RUNS = """
@id("others-runs")
forbid (principal == User::"user:eve", action, resource)
when {
  ["run", "logged_model", "experiment"].contains(resource.kind) &&
  resource has owner && resource.owner != principal.id
};
"""


@pytest.mark.parametrize("service", ["runs", "loggedmodels", "experiments"])
def test_a_page_token_does_not_tell_how_much_is_hidden_from_its_reader(
    site: Any, service: str
) -> None:
    omar, eve = scientist(site, "omar"), scientist(site, "eve")
    workspace = f"oracle-{service}"
    policy = {"kind": "policy", "name": "others-runs", "text": HIDDEN_RUNS}
    for n in range(3):
        logged(site, omar if n == 1 else eve, f"kept-{n}", workspace)
    put(site, [policy])
    try:
        first = site.ask(eve, f"{service}.search", limit=1, workspace=workspace)
        try:
            told = json.loads(urlsafe_b64decode(first.next_page))
        except ValueError:
            told = None
        assert told is None, "the place stands in clear"
        second = site.ask(
            eve, f"{service}.search", limit=1, workspace=workspace, page=first.next_page
        )
        shown = [*getattr(first, _SHOWN[service]), *getattr(second, _SHOWN[service])]
        assert len({one.id for one in shown}) == 2
        forged = pagetokens.written(("any", "user:eve"), [0], site.premises.clock.now())
        with pytest.raises(InvalidInput, match="none of this platform's"):
            site.ask(eve, f"{service}.search", limit=1, workspace=workspace, page=forged)
    finally:
        put(site, [{**policy, "enabled": False}])


_SHOWN = {"runs": "runs", "loggedmodels": "models", "experiments": "experiments"}
