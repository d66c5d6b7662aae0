"""People who give themselves more than they were given, and who look at what is not theirs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from falaj.kernel.call import Principal, PrincipalKind
from falaj.testing.installations import PASSWORD
from falaj.wiring.assembly import assemble

GUESSED = "0" * 32


def refusal(running: Any, action: str, principal: str) -> dict[str, Any]:
    """The newest refused call of somebody, as the log shows it."""
    found: dict[str, Any] = running.on_record(action, lambda r: r["principal"] == principal)
    return found


def test_nobody_registers_oneself(running: Any) -> None:
    running.forgiven()
    with running.web() as web:
        wanted = {"secret": "A" * 43, "name": "eve", "password": PASSWORD}
        assert web.post("/auth/enrol", json=wanted).status_code == 401
        for path in ("/api/accounts", "/api/accounts/eve/invitations", "/api/accounts/eve/service"):
            answer = web.post(path, json={"roles": ["administrator"]})
            assert answer.json()["code"] in ("unauthenticated", "method-not-allowed"), path
    refusal(running, "auth.enrol", "unknown")
    running.forgiven()
    with running.as_("adam") as web:
        assert web.get("/api/accounts/eve").status_code == 404


@pytest.mark.parametrize("name", ["salma", "idris", "sara", "noor"])
def test_nobody_without_the_duty_invites_or_promotes(running: Any, name: str) -> None:
    with running.as_(name) as web:
        for path in (f"/api/accounts/{name}/roles", "/api/accounts/eve/invitations",
                     "/api/accounts/robot/service"):  # fmt: skip
            answer = web.post(path, json={"roles": ["administrator"]})
            assert answer.status_code in (403, 404), path
        assert "administrator" not in web.get("/api/me").json()["roles"]
    for action in ("accounts.set_roles", "accounts.invite", "accounts.create_service"):
        assert refusal(running, action, f"user:{name}")["outcome"] == "refused"


def test_an_administrator_gives_no_role_to_the_own_account(running: Any) -> None:
    with running.as_("adam") as web:
        for roles in (["administrator", "auditor"], ["approver"]):
            answer = web.post("/api/accounts/adam/roles", json={"roles": roles})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert web.get("/api/me").json()["roles"] == ["administrator"]
    record = refusal(running, "accounts.set_roles", "user:adam")
    assert record["reasons"] == ["nobody-grants-to-oneself"]


@pytest.fixture(scope="module")
def issued(running: Any) -> Iterator[Any]:
    """Issues tokens with the platform's own keys, as if somebody had signed in before."""
    premises = assemble(running.installation.settings, process="issuer")

    def issue(name: str, roles: tuple[str, ...], *, factor_age: timedelta | None) -> str:
        now = datetime.now(UTC)
        with premises.database.reading() as connection:
            account = premises.authentication.accounts.get(connection, name)
        token, _ = premises.tokens.issue(
            Principal(f"user:{name}", PrincipalKind.USER, roles),
            session="session_of_an_attack",
            account_epoch=account.epoch,
            mfa_at=None if factor_age is None else now - factor_age,
            now=now,
        )
        return token

    yield issue
    premises.close()


@pytest.mark.parametrize("age", [None, timedelta(minutes=6), timedelta(minutes=-6)])
def test_an_old_factor_opens_nothing_sensitive(
    running: Any, issued: Any, age: timedelta | None
) -> None:
    running.somebody("adam")
    with running.web(issued("adam", ("administrator",), factor_age=age)) as web:
        assert web.get("/api/accounts/salma").status_code == 200
        for path in ("/api/accounts/salma/roles", "/api/accounts/eve/invitations"):
            answer = web.post(path, json={"roles": ["administrator"]})
            assert (answer.status_code, answer.json()["code"]) == (403, "step-up-required")
    record = refusal(running, "accounts.invite", "user:adam")
    assert record["reasons"] == ["sensitive-actions-need-a-fresh-factor"]
    with running.web(issued("adam", ("administrator",), factor_age=timedelta(seconds=5))) as web:
        answer = web.post("/api/accounts/fresh/invitations", json={"roles": ["viewer"]})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/api/jobs/job_{GUESSED}",
        f"/api/runs/run_{GUESSED}",
        f"/api/changes/change_{GUESSED}",
        f"/api/incidents/incident_{GUESSED}",
        f"/api/training/sets/set_{GUESSED}",
        "/api/accounts/adam",
        "/api/accounts/adam/sessions",
        "/api/accounts/adam/factors",
        "/api/audit/records/1",
        "/api/keys",
        "/api/policy/decisions/user:adam/accounts.me/platform:*",
    ],
)
def test_a_guessed_id_shows_nothing(running: Any, path: str) -> None:
    with running.as_("salma") as web:
        answer = web.get(path)
        nobody = web.get(path.replace("adam", "nobody-here"))
    assert answer.status_code in (403, 404)
    assert answer.text.replace("adam", "nobody-here") == nobody.text  # as if there were none
    found = running.found("*", principal="user:salma", limit=50)
    assert any(r["outcome"] != "done" for r in found[:10])


def test_sessions_of_others_are_not_ended_by_their_id(running: Any) -> None:
    with running.as_("noor") as web:
        theirs = web.get("/api/accounts/noor/sessions").json()[0]["id"]
    with running.as_("salma") as web:
        for name in ("noor", "salma"):
            answer = web.post(f"/api/accounts/{name}/sessions/revocation", json={"session": theirs})
            assert answer.status_code in (403, 404) or answer.json() == 0, name
    with running.as_("noor") as web:
        assert theirs in {one["id"] for one in web.get("/api/accounts/noor/sessions").json()}


SALARIES = {
    "kind": "source", "name": "salaries", "table": "salaries", "path": "salaries.csv",
    "format": "csv", "columns": {"name": "text", "salary": "integer"},
    "classification": "sensitive", "description": "What each of us earns.",
}  # fmt: skip


def test_listing_and_search_show_a_viewer_nothing_sensitive(running: Any) -> None:
    with running.as_("sami") as steward:
        answer = steward.post("/api/definitions", json={"documents": [SALARIES]})
        assert answer.status_code == 200, answer.text
        assert "salaries" in steward.get("/api/assets", params={"text": "salaries"}).text
    with running.as_("salma") as viewer:
        for path, asked in (
            ("/api/assets", {"text": "salaries"}),
            ("/api/assets", {"text": "earns"}),
            ("/api/assets", {"classification": "sensitive"}),
            ("/api/assets", {"kind": "source"}),
            ("/api/tables", {}),
            ("/api/definitions", {}),
            ("/api/features", {}),
            ("/api/models", {}),
        ):
            answer = viewer.get(path, params=asked)
            assert answer.status_code == 200, path
            assert "salaries" not in answer.text and "earns" not in answer.text, path
        hidden, missing = (
            viewer.get(f"/api/assets/source/{name}") for name in ("salaries", "nothing-here")
        )
        assert hidden.status_code == missing.status_code == 404
        same = hidden.text.replace("salaries", "nothing-here")
        assert same == missing.text
        for path in ("/api/tables/salaries/rows", "/api/tables/salaries",
                     "/api/lineage/source/salaries", "/api/asset-versions/source/salaries",
                     "/api/definitions/source/salaries",
                     "/api/definitions/source/salaries/versions"):  # fmt: skip
            answer = viewer.get(path)
            assert answer.status_code == 404, path
            assert "earns" not in answer.text
    refusal(running, "assets.get", "user:salma")


def test_somebody_who_asks_in_a_hurry_is_asked_who_it_is_each_time(running: Any) -> None:
    """One connection, two people: nothing of the first stays with the connection."""
    salma, adam = running.somebody("salma").token, running.somebody("adam").token
    with running.web() as web:

        def who(token: str | None) -> Any:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return web.get("/api/me", headers=headers)

        for _ in range(5):
            assert who(adam).json()["principal"] == "user:adam"
            assert who(None).status_code == 401
            assert who(salma).json()["principal"] == "user:salma"
        told: list[str] = []

        def ask(token: str, name: str) -> None:
            told.extend(name for _ in range(10) if who(token).json()["principal"] != name)

        threads = [threading.Thread(target=ask, args=pair)
                   for pair in ((salma, "user:salma"), (adam, "user:adam"))]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told == []
