"""A CI job is let in by its own token, and works as a service account for a quarter of an hour."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from falaj.interfaces.cilogin import exchanged, job_token, run_with
from falaj.interfaces.client import RemoteDoor
from falaj.interfaces.doctor_programs import OutOfStep, ci, provisioning
from falaj.kernel.errors import InvalidInput, StepUpRequired, Unauthenticated, Unavailable
from falaj.kernel.settings_ci import CiRule, CiSettings
from falaj.testing.ciissuers import AUDIENCE, Issuer, issuing
from falaj.testing.provisioners import ProvisionedSite
from falaj.trust.ci_exchange import GRANT, TOKEN_TYPES
from falaj.trust.tokens import LONGEST


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as made:
        yield made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[ProvisionedSite]:
    rules = [
        issuer.rule(purpose="Deploying models.", minutes=10),
        issuer.rule(name="models-any", account="planner", roles=[],
                    claims={"repository": "corp/models"}),
    ]  # fmt: skip
    made = ProvisionedSite(
        tmp_path_factory.mktemp("exchanging"), ci={"rules": rules, "ca_file": issuer.ca}
    )
    for name, roles in (("deployer", ("ml_engineer", "operator")), ("planner", ("viewer",))):
        made.ask("accounts.create_service", name=name, roles=roles)
    yield made
    made.premises.close()


def sent(site: ProvisionedSite, token: str, **more: Any) -> httpx.Response:
    form = {"grant_type": GRANT, "subject_token": token, "subject_token_type": TOKEN_TYPES[0]}
    return site.web.post("/auth/exchange", data={**form, **more})


def test_a_job_becomes_the_service_account_of_its_rule(
    site: ProvisionedSite, issuer: Issuer
) -> None:
    answer = sent(site, issuer.token())
    found = answer.json()
    assert answer.status_code == 200
    assert (found["token_type"], found["expires_in"]) == ("Bearer", 600)
    assert found["issued_token_type"] == "urn:ietf:params:oauth:token-type:access_token"
    headers = {"Authorization": f"Bearer {found['access_token']}"}
    me = site.web.get("/api/me", headers=headers).json()
    assert (me["principal"], me["roles"]) == ("service:deployer", ["ml_engineer"])
    assert (me["mfa_at"], me["stepped_up"]) == (None, False)
    record = site.records("auth.exchange")[-1]
    assert (record["outcome"], record["principal"]) == ("done", "service:deployer")
    assert record["details"]["rule"] == "models-main"
    assert record["details"]["claims"]["repository"] == "corp/models"
    (session, *_) = site.ask("accounts.sessions", name="deployer")
    assert session.id == found["session"]
    assert session.client.startswith("ci models-main: repo:corp/models")


def test_a_body_of_json_is_taken_as_well(site: ProvisionedSite, issuer: Issuer) -> None:
    body = {"grant_type": GRANT, "subject_token": issuer.token(),
            "subject_token_type": TOKEN_TYPES[1], "scope": "all", "account": "planner"}  # fmt: skip
    answer = site.web.post("/auth/exchange", json=body)
    assert (answer.status_code, answer.json()["account"]) == (200, "planner")


def test_the_purpose_of_a_rule_is_that_of_all_that_its_jobs_ask(
    site: ProvisionedSite, issuer: Issuer
) -> None:
    token = sent(site, issuer.token()).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}", "Falaj-Purpose": "Something else"}
    site.web.get("/api/assets", headers=headers)
    assert site.records("assets.search")[-1]["details"]["purpose"] == "Deploying models."


def test_no_token_lasts_longer_than_a_quarter_of_an_hour(
    site: ProvisionedSite, issuer: Issuer
) -> None:
    found = sent(site, issuer.token(), account="planner").json()
    ends = datetime.fromisoformat(found["expires_at"]) - site.premises.clock.now()
    assert ends <= LONGEST == timedelta(minutes=15)
    assert ends > timedelta(minutes=14)


def test_a_jobs_token_is_no_second_factor(site: ProvisionedSite, issuer: Issuer) -> None:
    token = sent(site, issuer.token()).json()["access_token"]
    action = site.premises.backend.services.actions["models.promote"]
    with pytest.raises(StepUpRequired):
        RemoteDoor(site.web, lambda: token).call(
            action, {"name": "late", "version": 1, "to": "production", "reason": "CI says so."}
        )
    stepped = site.web.post("/auth/step-up", json={"code": "123456"},
                            headers={"Authorization": f"Bearer {token}"})  # fmt: skip
    assert stepped.status_code == 403


def test_a_jobs_token_ends_with_its_account(site: ProvisionedSite, issuer: Issuer) -> None:
    from falaj.testing.installations import eventually

    token = sent(site, issuer.token(), account="planner").json()["access_token"]
    assert site.status(token) == 200
    site.ask("accounts.revoke_sessions", name="planner")
    eventually(lambda: site.status(token) == 401, seconds=5)


def test_a_new_key_of_the_issuer_is_found_when_it_is_needed(
    site: ProvisionedSite, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sent(site, issuer.token()).status_code == 200
    monkeypatch.setattr("falaj.trust.adapters.ci_issuers.ASKED_AGAIN_AFTER", timedelta(0))
    old = issuer.keys
    issuer.rotate("k2")
    try:
        assert sent(site, issuer.token()).status_code == 200
    finally:
        issuer.keys = old
    monkeypatch.undo()
    before = len(issuer.asked)
    for n in range(3):
        assert sent(site, issuer.token(header={"kid": f"made-up{n}"})).status_code == 401
    assert len(issuer.asked) <= before + 2  # one look, of a document and of keys
    site.forgiven()
    monkeypatch.setattr("falaj.trust.adapters.ci_issuers.ASKED_AGAIN_AFTER", timedelta(0))
    assert sent(site, issuer.token()).status_code == 200


class GitHub:
    """The part of GitHub Actions that gives a job its token."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.headers["authorization"] != "Bearer of-the-job":
            return httpx.Response(403)
        audience = request.url.params["audience"]
        return httpx.Response(200, json={"value": self._issuer.token(aud=audience)})


def test_the_command_line_finds_the_token_that_github_gives(
    site: ProvisionedSite, issuer: Issuer
) -> None:
    outside = httpx.Client(transport=httpx.MockTransport(GitHub(issuer).answer))
    job = {"ACTIONS_ID_TOKEN_REQUEST_URL": "https://pipelines.example/token?api-version=2.0",
           "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "of-the-job"}  # fmt: skip
    token = job_token(AUDIENCE, job, outside)
    assert exchanged(site.web, token)["account"] == "deployer"
    plain = {**job, "ACTIONS_ID_TOKEN_REQUEST_URL": "http://pipelines.example/"}
    with pytest.raises(InvalidInput):
        job_token(AUDIENCE, plain, outside)
    with pytest.raises((Unauthenticated, Unavailable)):
        job_token(AUDIENCE, {**job, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": "x"}, outside)


def test_the_command_line_finds_the_token_that_gitlab_gives(
    site: ProvisionedSite, issuer: Issuer
) -> None:
    token = job_token(AUDIENCE, {"FALAJ_ID_TOKEN": issuer.token()}, httpx.Client())
    assert exchanged(site.web, token, account="planner")["account"] == "planner"
    with pytest.raises(Unauthenticated, match="no token"):
        job_token(AUDIENCE, {}, httpx.Client())


def test_a_command_is_run_with_the_token_and_without_those_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FALAJ_REQUIRE_SERVICES", raising=False)
    monkeypatch.setenv("FALAJ_ID_TOKEN", "of-the-job")
    told = tmp_path / "told.json"
    program = (
        "import json, os, sys\n"
        "kept = {k: v for k, v in os.environ.items() if k.startswith(('FALAJ_', 'ACTIONS_'))}\n"
        f"json.dump(kept, open({str(told)!r}, 'w'))\nsys.exit(7)"
    )
    command = [sys.executable, "-c", program]
    assert run_with("the-token", "https://falaj.corp.ae", "/ca.pem", command) == 7
    assert json.loads(told.read_text()) == {
        "FALAJ_TOKEN": "the-token", "FALAJ_URL": "https://falaj.corp.ae", "FALAJ_CA": "/ca.pem",
    }  # fmt: skip
    with pytest.raises(InvalidInput, match="cannot be run"):
        run_with("the-token", "https://falaj.corp.ae", None, [str(tmp_path / "nothing")])


def test_the_doctor_asks_every_issuer_and_looks_at_every_account(
    site: ProvisionedSite, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = site.premises
    assert ci(made).startswith("2 rules; 1 keys of https://localhost")
    assert provisioning(made) == "nobody provisions"
    site.provider("keeper")
    assert provisioning(made) == "keeper keeps 0 people; 5 groups give roles"
    for account, roles, told in (("not-there", ["viewer"], "not-there"),
                                 ("planner", ["steward"], "none of the roles")):  # fmt: skip
        rules = CiSettings(rules=(CiRule(**issuer.rule(account=account, roles=roles)),))
        changed = made.settings.model_copy(update={"ci": rules})
        with monkeypatch.context() as patched, pytest.raises(OutOfStep, match=told):
            patched.setattr(made, "settings", changed)
            ci(made)
