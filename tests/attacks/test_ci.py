"""Jobs that are not ours: other repositories, forks, old tokens, forged ones, strange issuers."""

from __future__ import annotations

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from falaj.interfaces.certificatesource import new_request
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Unavailable
from falaj.kernel.outgoing import OutgoingRefused
from falaj.kernel.settings_people import OutgoingSettings
from falaj.testing.ciissuers import Issuer, issuing
from falaj.testing.provisioners import ProvisionedSite
from falaj.trust.adapters.ci_issuers import HttpsIssuers
from falaj.trust.ci_exchange import GRANT, TOKEN_TYPES


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as made:
        yield made


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[ProvisionedSite]:
    rules = [
        issuer.rule(),
        issuer.rule(name="team", claims={"repository": "corp/team-*", "ref": "refs/heads/main"}),
        issuer.rule(name="lost", account="lost", claims={"repository": "corp/lost"}),
        issuer.rule(name="dead", issuer="https://localhost:1"),
        issuer.rule(name="roleless", roles=["steward"], claims={"repository": "corp/roleless"}),
    ]
    folder = tmp_path_factory.mktemp("jobs")
    made = ProvisionedSite(folder, ci={"rules": rules, "ca_file": issuer.ca})
    made.ask("accounts.create_service", name="deployer", roles=("ml_engineer", "operator"))
    yield made
    made.premises.close()


@pytest.fixture(autouse=True)
def _forgiven(jobs: ProvisionedSite) -> None:
    jobs.forgiven()


def exchange(jobs: ProvisionedSite, token: str, **more: Any) -> Any:
    form = {"grant_type": GRANT, "subject_token": token, "subject_token_type": TOKEN_TYPES[0]}
    return jobs.web.post("/auth/exchange", data={**form, **more})


def refused(jobs: ProvisionedSite, token: str, reason: str, **more: Any) -> dict[str, Any]:
    """The audit record of the refusal of a token."""
    before = len(jobs.records("auth.exchange"))
    answer = exchange(jobs, token, **more)
    assert answer.status_code == 401, answer.text
    assert (answer.json()["code"], answer.json()["details"]["reason"]) == (
        "exchange-refused", reason)  # fmt: skip
    records = jobs.records("auth.exchange")
    assert len(records) == before + 1
    assert (records[-1]["outcome"], records[-1]["reasons"]) == ("refused", [reason])
    assert "access_token" not in answer.text
    return records[-1]


@pytest.mark.parametrize(
    "changes",
    [
        {"repository": "evil/models", "sub": "repo:evil/models:ref:refs/heads/main"},
        {"repository": "corp/models-evil"},
        {"repository": "evil/corp/models"},
        {"repository": "Corp/Models"},
        {"repository": "corp/models "},
        {"repository": "corp/models\n"},
        {"repository": ["corp/models"]},
        {"repository": None},
        {"repository": "corp/team-a/evil"},
        {"repository": "corp/team"},
        {"ref": "refs/heads/feature"},
        {"ref": "refs/heads/main-evil"},
        {"ref": "refs/pull/7/merge", "event_name": "pull_request"},
        {"ref": None},
    ],
)
def test_another_repository_a_fork_or_another_branch_is_refused(
    jobs: ProvisionedSite, issuer: Issuer, changes: dict[str, Any]
) -> None:
    record = refused(jobs, issuer.token(**changes), "no-rule")
    assert record["principal"] == "unknown"
    assert record["details"]["issuer"] == issuer.url


def test_what_a_believed_token_said_stands_in_the_record_of_its_refusal(
    jobs: ProvisionedSite, issuer: Issuer
) -> None:
    record = refused(jobs, issuer.token(repository="evil/models"), "no-rule")
    assert record["details"]["claims"]["repository"] == "evil/models"
    assert "eyJ" not in json.dumps(record)


@pytest.mark.parametrize(
    "audience",
    [
        "https://other.corp.ae",
        "https://falaj.corp.ae/",
        None,
        ["https://falaj.corp.ae", "https://other.corp.ae"],
    ],
)
def test_a_token_for_another_audience_is_refused(
    jobs: ProvisionedSite, issuer: Issuer, audience: Any
) -> None:
    refused(jobs, issuer.token(aud=audience), "audience")


def test_a_token_is_good_once(jobs: ProvisionedSite, issuer: Issuer) -> None:
    token = issuer.token()
    assert exchange(jobs, token).status_code == 200
    refused(jobs, token, "replayed")
    same_id = issuer.claims()["jti"]
    assert exchange(jobs, issuer.token(jti=same_id)).status_code == 200
    refused(jobs, issuer.token(jti=same_id, run_id="2"), "replayed")


def test_a_token_that_was_refused_is_not_used_up(jobs: ProvisionedSite, issuer: Issuer) -> None:
    token = issuer.token()
    refused(jobs, token, "no-rule", account="somebody-else")
    assert exchange(jobs, token).status_code == 200


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": -60}, "expired"), ({"iat": 120, "nbf": 120}, "not-yet-valid"),
        ({"nbf": 120}, "not-yet-valid"), ({"exp": 200_000}, "lifetime"),
        ({"jti": None}, "no-token-id"),
        ({"exp": None}, "malformed"), ({"iat": None}, "malformed"), ({"exp": "soon"}, "malformed"),
        ({"exp": True}, "malformed"), ({"exp": 10**30}, "malformed"), ({"jti": ""}, "no-token-id"),
    ],
)  # fmt: skip
def test_a_token_whose_times_do_not_fit_is_refused(
    jobs: ProvisionedSite, issuer: Issuer, changes: dict[str, Any], reason: str
) -> None:
    now = int(time.time())
    moved = {
        name: now + value if isinstance(value, int) and not isinstance(value, bool) else value
        for name, value in changes.items()
    }
    if changes.get("exp") == -60:
        moved |= {"iat": now - 400, "nbf": now - 400}
    refused(jobs, issuer.token(**moved), reason)


def text(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS256", "", None, "RS1"])
def test_an_unsigned_token_is_refused(
    jobs: ProvisionedSite, issuer: Issuer, algorithm: Any
) -> None:
    for signature in ("", "x", issuer.token().split(".")[2]):
        token = f"{text({'alg': algorithm, 'kid': 'k1'})}.{text(issuer.claims())}.{signature}"
        refused(jobs, token, "algorithm" if signature else "malformed")


@pytest.mark.parametrize("algorithm", ["ES256", "Ed25519", "PS256"])
def test_a_key_of_another_kind_is_not_tried(
    jobs: ProvisionedSite, issuer: Issuer, algorithm: str
) -> None:
    head = {"alg": algorithm, "kid": "k1"}
    token = f"{text(head)}.{text(issuer.claims())}.{issuer.token().split('.')[2]}"
    refused(jobs, token, "signature" if algorithm == "PS256" else "unknown-key")


def test_a_public_key_is_taken_for_no_secret(jobs: ProvisionedSite, issuer: Issuer) -> None:
    refused(jobs, issuer.confused(), "algorithm")


def test_a_token_that_another_key_signed_is_refused(jobs: ProvisionedSite, issuer: Issuer) -> None:
    mine = RSAKey.generate_key(2048, {"kid": "k1"})
    forged = jwt.encode({"alg": "RS256", "kid": "k1"}, issuer.claims(), mine, algorithms=["RS256"])
    refused(jobs, forged, "signature")
    for header in ({"jwk": mine.as_dict(private=False)}, {"jku": f"{issuer.url}/jwks"},
                   {"x5u": "https://evil.example/c"}, {"crit": ["b64"], "b64": False}):  # fmt: skip
        head = {"alg": "RS256", "kid": "k1", **header}
        token = f"{text(head)}.{forged.split('.')[1]}.{forged.split('.')[2]}"
        refused(jobs, token, "header")


def test_a_token_of_which_one_letter_was_changed_is_refused(
    jobs: ProvisionedSite, issuer: Issuer
) -> None:
    head, _claims, signature = issuer.token().split(".")
    refused(jobs, f"{head}.{text(issuer.claims(run_id='9'))}.{signature}", "signature")


@pytest.mark.parametrize("kid", ["k9", "../k1", "K1"])
def test_a_key_that_the_issuer_does_not_publish_is_none(
    jobs: ProvisionedSite, issuer: Issuer, kid: str
) -> None:
    refused(jobs, issuer.token(header={"kid": kid}), "unknown-key")


@pytest.mark.parametrize(
    "issued_by",
    [
        "{url}/", "{url}/x", "https://token.actions.githubusercontent.com", "http://localhost",
        "https://LOCALHOST", "https://169.254.169.254", "file:///etc/passwd", "", 5, None,
        "{url}@evil.example", "{url}#",
    ],
)  # fmt: skip
def test_an_issuer_that_no_rule_names_to_the_letter_is_never_asked(
    jobs: ProvisionedSite, issuer: Issuer, issued_by: Any
) -> None:
    iss = issued_by.format(url=issuer.url) if isinstance(issued_by, str) else issued_by
    exchange(jobs, issuer.token())  # the keys are known
    jobs.forgiven()
    before = list(issuer.asked)
    refused(jobs, issuer.token(iss=iss), "unknown-issuer" if isinstance(iss, str) else "malformed")
    assert issuer.asked == before


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "e30.e30.e30", "é.é.é", "a" * 15_000])
def test_what_is_no_token_is_refused(jobs: ProvisionedSite, token: str) -> None:
    assert exchange(jobs, token).status_code in (401, 422)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grant_type", "client_credentials"), ("grant_type", "password"),
        ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"),
    ],
)  # fmt: skip
def test_another_grant_is_refused(
    jobs: ProvisionedSite, issuer: Issuer, field: str, value: str
) -> None:
    refused(jobs, issuer.token(), "not-an-exchange", **{field: value})


def test_a_form_that_says_something_twice_is_refused(jobs: ProvisionedSite, issuer: Issuer) -> None:
    body = f"subject_token={issuer.token()}&subject_token=x&grant_type={GRANT}"
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert jobs.web.post("/auth/exchange", content=body, headers=headers).status_code == 422


def test_a_rule_gives_no_more_than_its_account_has(jobs: ProvisionedSite, issuer: Issuer) -> None:
    refused(jobs, issuer.token(repository="corp/roleless"), "no-role")
    refused(jobs, issuer.token(repository="corp/lost"), "no-account")
    jobs.ask("accounts.create_service", name="lost", roles=("service",))
    refused(jobs, issuer.token(repository="corp/lost"), "no-role")
    jobs.ask("accounts.deactivate", name="lost")
    refused(jobs, issuer.token(repository="corp/lost"), "no-account")


def test_a_job_gets_no_certificate_that_would_outlive_its_token(
    jobs: ProvisionedSite, issuer: Issuer
) -> None:
    token = exchange(jobs, issuer.token()).json()["access_token"]
    headers = {"Authorization": f"Bearer {token}"}
    request = {"request": new_request("deployer")[1]}
    answer = jobs.web.post("/api/certificates/deployer", json=request, headers=headers)
    assert answer.status_code == 403, answer.text
    assert jobs.records("certificates.issue")[-1]["outcome"] in ("refused", "failed")


def test_guesses_make_an_address_wait(jobs: ProvisionedSite, issuer: Issuer) -> None:
    statuses = [exchange(jobs, "a.b.c").status_code for _ in range(40)]
    assert (statuses[0], statuses[-1]) == (401, 429)


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Issuer]:
    with issuing(tmp_path / "strange") as made:
        yield made


def asked(issuer: Issuer, **outgoing: Any) -> HttpsIssuers:
    settings = OutgoingSettings(timeout_seconds=2, **outgoing)
    return HttpsIssuers([issuer.url], settings, clock=SystemClock(), ca_file=issuer.ca)


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1:{port}/jwks", "https://169.254.169.254/latest/meta-data",
        "https://[::1]/jwks", "https://10.0.0.1/jwks", "http://localhost:{port}/jwks",
        "file:///etc/passwd", "https://localhost:1/jwks",
    ],
)  # fmt: skip
def test_an_issuer_that_leads_inside_is_not_followed(strange: Issuer, address: str) -> None:
    port = strange.url.rpartition(":")[2]
    strange.discovery = {"jwks_uri": address.format(port=port)}
    with pytest.raises((OutgoingRefused, Unavailable, Exception)) as caught:
        asked(strange).keys(strange.url, "k1")
    assert getattr(caught.value, "code", "") in ("outgoing-refused", "invalid-input")
    assert strange.asked == ["/.well-known/openid-configuration"]


@pytest.mark.parametrize("discovery", [{"issuer": "https://other.example"}, {"issuer": None},
                                       {"jwks_uri": None}, {"jwks_uri": 5}])  # fmt: skip
def test_a_discovery_document_of_somebody_else_is_not_believed(
    strange: Issuer, discovery: dict[str, Any]
) -> None:
    strange.discovery = discovery
    with pytest.raises(Unavailable):
        asked(strange).keys(strange.url, "k1")


def test_an_issuer_that_does_not_answer_lets_nobody_in_and_is_not_asked_by_every_token(
    strange: Issuer,
) -> None:
    strange.status = 500
    issuers = asked(strange)
    for _ in range(3):
        with pytest.raises(Unavailable):
            issuers.keys(strange.url, "k1")
    assert len(strange.asked) == 1


def test_a_job_of_an_issuer_that_does_not_answer_is_refused_and_recorded(
    jobs: ProvisionedSite, issuer: Issuer
) -> None:
    answer = exchange(jobs, issuer.token(iss="https://localhost:1"))
    assert answer.status_code == 503
    record = jobs.records("auth.exchange")[-1]
    assert (record["outcome"], record["reasons"]) == ("refused", ["issuer-unavailable"])
    assert record["details"] == {"issuer": "https://localhost:1", "error": "unavailable"}


def test_an_issuer_without_a_trusted_certificate_is_not_believed(strange: Issuer) -> None:
    settings = OutgoingSettings(timeout_seconds=2)
    issuers = HttpsIssuers([strange.url], settings, clock=SystemClock())
    with pytest.raises(Unavailable):
        issuers.keys(strange.url, "k1")
    assert strange.asked == []
