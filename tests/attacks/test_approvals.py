"""Attacks on approvals and policies of a running platform, over HTTPS; each leaves its record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from falaj.testing.installations import Installation, Person, client, eventually

ROLES = {
    "adam": ["administrator"],
    "anna": ["approver", "auditor"],
    "eve": ["ml_engineer"],
}
FOR_EVE = '@id("for-eve") permit (principal == User::"user:eve", action, resource);'
NOT_EVE = '@id("not-eve") forbid (principal == User::"user:eve", action, resource);'


class Up:
    """A platform that runs, and three people on it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        with installation.near(stepped_up=True) as owner:
            links = {
                name: owner.accounts.invite(name, roles).secret.get_secret_value()
                for name, roles in ROLES.items()
            }
        self.people: dict[str, Person] = {
            name: installation.enrolled(name, link) for name, link in links.items()
        }

    def post(self, who: str, path: str, body: Any, **headers: str) -> Any:
        """The answer of the control plane to somebody."""
        with self.people[who].client() as web:
            return web.post(f"/api{path}", json=body, headers=headers)

    def get(self, who: str, path: str) -> Any:
        with self.people[who].client() as web:
            return web.get(f"/api{path}")

    def refusals(self, action: str, principal: str) -> int:
        """How many refused calls of somebody the audit log shows, asked as an auditor."""
        with self.people["anna"].client() as web:
            asked = {"action": action, "principal": principal, "outcome": "refused", "limit": 500}
            return len(web.get("/api/audit/records", params=asked).json()["records"])

    def proposed(self, who: str, text: str, name: str) -> Any:
        documents = [{"kind": "policy", "name": name, "text": text}]
        return self.post(who, "/policy/proposals", {"documents": documents, "reason": "Try it."})


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    installation = Installation(tmp_path_factory.mktemp("approvals") / "project")
    installation.init()
    installation.up()
    yield Up(installation)
    installation.stop()


def test_an_engineer_neither_proposes_nor_applies_a_policy(up: Up) -> None:
    before = up.refusals("policy.propose", "user:eve")
    assert up.proposed("eve", FOR_EVE, "for-eve").status_code == 403
    assert up.refusals("policy.propose", "user:eve") == before + 1
    documents = [{"kind": "policy", "name": "for-eve", "text": FOR_EVE}]
    answer = up.post("eve", "/definitions", {"documents": documents})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert up.get("eve", "/definitions?kind=policy").json() == []


def test_an_administrator_does_not_approve_the_own_policy(up: Up) -> None:
    change = up.proposed("adam", FOR_EVE.replace("eve", "adam"), "for-adam").json()["id"]
    for decision in ("approval", "rejection"):
        answer = up.post("adam", f"/changes/{change}/{decision}", {"reason": "Mine."})
        assert answer.status_code in (403, 404)
    assert up.refusals("changes.approve", "user:adam") == 1
    assert up.post("adam", f"/changes/{change}/withdrawal", {}).status_code in (200, 403, 404)


def test_identity_headers_of_a_client_make_nobody_somebody_else(up: Up) -> None:
    change = up.proposed("adam", FOR_EVE, "for-eve").json()["id"]
    claimed = {
        "X-Forwarded-User": "anna",
        "X-Remote-User": "anna",
        "X-Auth-Request-User": "anna",
        "Falaj-Principal": "user:anna",
        "X-Roles": "approver",
    }
    answer = up.post("eve", f"/changes/{change}/approval", {"reason": "As Anna."}, **claimed)
    assert answer.status_code in (403, 404)
    with client(up.installation.control, up.installation.ca) as web:
        bare = web.post(f"/api/changes/{change}/approval", json={"reason": "x"}, headers=claimed)
    assert bare.status_code == 401
    assert up.post("anna", f"/changes/{change}/rejection", {"reason": "No."}).status_code == 200


def test_a_guessed_change_is_neither_shown_nor_decided(up: Up) -> None:
    guessed = "change_" + "0" * 32
    assert up.post("anna", f"/changes/{guessed}/approval", {"reason": "x"}).status_code == 404
    assert up.get("eve", f"/changes/{guessed}").status_code == 404


def test_an_approved_policy_is_in_force_on_both_servers(up: Up) -> None:
    eve = up.people["eve"]
    assert up.get("eve", "/me").status_code == 200

    def on_the_data_plane() -> int:
        with eve.client(up.installation.inference) as web:
            return web.get("/metrics").status_code

    before = on_the_data_plane()
    change = up.proposed("adam", NOT_EVE, "not-eve").json()["id"]
    assert up.get("eve", "/me").status_code == 200  # proposed is not in force
    assert up.post("anna", f"/changes/{change}/approval", {"reason": "Go."}).status_code == 200
    eventually(lambda: up.get("eve", "/me").status_code in (403, 404), seconds=20)
    assert before == 200
    eventually(lambda: on_the_data_plane() in (403, 404), seconds=20)
    why = up.get("anna", "/policy/decisions/user:eve/accounts.me/platform:*").json()
    assert (why["allowed"], why["reasons"]) == (False, ["not-eve"])
    assert up.refusals("accounts.me", "user:eve") >= 1


def test_a_policy_that_locks_out_is_refused_over_https(up: Up) -> None:
    text = '@id("none") forbid (principal, action in Action::"approve", resource);'
    answer = up.proposed("adam", text, "none")
    assert answer.status_code == 422 or answer.status_code == 400
    assert "nobody could" in answer.json()["detail"]
