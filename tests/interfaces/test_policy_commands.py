"""Policies from files: planned, proposed, tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from falaj.testing.asked import falaj_here as run
from falaj.testing.installations import Installation

DECLARED = '''
from falaj.declare import Policy

night = Policy(name="night", text="""
@id("production-is-changed-with-a-factor-of-a-minute")
forbid (principal is User, action in Action::"engineer", resource)
when { context.environment == "production" }
unless { context has mfa_seconds && context.mfa_seconds <= 60 };
""")
'''
CASES = """
[[case]]
title = "an engineer with a fresh factor"
who = "user:ida"
roles = ["ml_engineer"]
action = "endpoints.activate"
what = "endpoint:late"
environment = "production"
factor_seconds = 20
expect = "permit"

[[case]]
who = "user:ida"
roles = ["ml_engineer"]
action = "endpoints.activate"
what = "endpoint:late"
environment = "production"
factor_seconds = 200
expect = "forbid"
because = ["production-is-changed-with-a-factor-of-a-minute"]

[[case]]
who = "user:ida"
roles = ["ml_engineer"]
action = "endpoints.activate"
what = "endpoint:late"
environment = "test"
expect = "permit"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "definitions").mkdir()
    (tmp_path / "definitions" / "policies.py").write_text(DECLARED)
    (tmp_path / "cases.toml").write_text(CASES)
    return tmp_path


def test_cases_are_judged_without_a_platform(folder: Path) -> None:
    done = run(folder, "policy", "test", str(folder / "cases.toml"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 cases hold" in done.stdout


def test_a_case_that_does_not_hold_is_named_and_fails(folder: Path) -> None:
    (folder / "definitions" / "policies.py").write_text("")
    done = run(folder, "policy", "test", str(folder / "cases.toml"))
    assert done.returncode == 1
    assert "case 2" in done.stdout
    assert "2 of 3 cases hold" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[case]]\nwho = 'x'", "case.1.who"),
        ("nonsense", "TOML"),
        (CASES.replace("endpoints.activate", "endpoints.abolish"), "no action"),
    ],
)
def test_a_malformed_case_is_named(folder: Path, text: str, said: str) -> None:
    (folder / "cases.toml").write_text(text)
    done = run(folder, "policy", "test", str(folder / "cases.toml"))
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_apply_proposes_a_policy_and_says_who_is_to_approve(folder: Path) -> None:
    installation = Installation(folder)
    installation.init()
    planned = run(folder, "plan")
    assert planned.returncode == 0, planned.stderr
    assert "night" in planned.stdout
    silent = run(folder, "apply")
    assert silent.returncode != 0
    assert "--reason" in silent.stderr + silent.stdout
    code = installation.recovery.pop()
    done = run(folder, "--code", code, "--json", "apply", "--reason", "Nights are quiet.")
    assert done.returncode == 0, done.stderr
    change = json.loads(done.stdout)
    assert (change["kind"], change["state"]) == ("policy", "waiting")
    assert change["payload"]["documents"][0]["name"] == "night"
    with installation.near() as owner:
        assert owner.definitions.list(kind="policy") == []


def test_the_commands_know_what_is_proposed_by_its_kind() -> None:
    from falaj.interfaces.workspace import PROPOSED
    from falaj.wiring.kinds import proposed_kinds

    assert set(PROPOSED) == set(proposed_kinds())
