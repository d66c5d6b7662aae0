"""The script of the GitLab workflow, run as GitLab would run it, against a real platform."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from falaj.interfaces.ci.templates import WORKFLOWS, Places
from falaj.testing.ciissuers import Issuer, issuing
from falaj.testing.installations import SURROUNDINGS, Installation, falaj_command
from falaj.testing.world import definitions, training_spec, write_flights
from falaj.wiring.assembly import assemble

pytestmark = pytest.mark.nightly
STEPS = ("plan", "apply", "gate", "propose", "deploy")
SHOP = """
from falaj import declare as of

shop = of.Entity(name="shop", keys={"shop": "string"})
"""


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    with issuing(tmp_path_factory.mktemp("issuer")) as made:
        yield made


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("platform"))
    rule = (
        f'name = "main"\nissuer = "{issuer.url}"\naudience = "https://falaj.corp.ae"\n'
        'account = "ci"\nclaims = { repository = "corp/models" }\n'
    )
    made.init()
    settings = made.folder / "falaj.toml"
    told = f'\n[ci]\nca_file = "{issuer.ca}"\n[[ci.rules]]\n{rule}'
    settings.write_text(settings.read_text(encoding="utf-8") + told, encoding="utf-8")
    write_flights(made.folder / "flights.csv")
    made.up()
    try:
        with made.near(stepped_up=True) as owner:
            owner.ci.deploy_key("ci", STEPS)
            owner.definitions.apply([one.document() for one in definitions()])
            owner.wait(owner.sources.load("flights"))
            owner.wait(owner.features.materialize("recent"))
            small = {"n_trees": 15, "num_leaves": 7, "num_threads": 1}
            asked = {"model": "late", "spec": training_spec(), "params": small}
            owner.wait(owner.training.train(asked))
        yield made
    finally:
        made.stop()


def script(job: str) -> str:
    """What a job of the workflow runs, but for the note on GitLab, which is not here."""
    places = Places("https://falaj.corp.ae", "late", "late")
    found: dict[str, Any] = yaml.safe_load(WORKFLOWS["gitlab"].text(places))
    lines = [line for line in found[job]["script"] if not line.startswith("falaj ci comment")]
    return "\n".join(lines)


def run(
    platform: Installation, issuer: Issuer, folder: Path, job: str
) -> subprocess.CompletedProcess[str]:
    """Run a job's script in a checkout of its own, with a token of its own."""
    (folder / "definitions").mkdir(exist_ok=True)
    (folder / "definitions" / "shop.py").write_text(SHOP, encoding="utf-8")
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "falaj"
    program.write_text(
        f'#!/bin/sh\nexec {shlex.join(falaj_command(folder))} "$@"\n', encoding="utf-8"
    )
    program.chmod(0o755)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FALAJ_", "ACTIONS_"))}
    return subprocess.run(
        ["sh", "-ec", script(job)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={
            **kept,
            **SURROUNDINGS,
            "PATH": f"{programs}:{kept['PATH']}",
            "FALAJ_URL": platform.control,
            "FALAJ_CA": str(platform.ca),
            "FALAJ_ID_TOKEN": issuer.token(),
            "FALAJ_CREDENTIALS": str(folder / "credentials.json"),
            "HOME": str(folder),
            "CI_COMMIT_SHA": "0123abc",
        },
    )


def test_the_jobs_plan_apply_judge_propose_and_deploy_what_a_person_has_approved(
    platform: Installation, issuer: Issuer, tmp_path: Path
) -> None:
    done = run(platform, issuer, tmp_path, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "entity `shop`" in (tmp_path / "plan.md").read_text(encoding="utf-8")
    early = run(platform, issuer, tmp_path, "deploy")
    assert early.returncode != 0, "nothing was approved yet"
    done = run(platform, issuer, tmp_path, "propose")
    assert done.returncode == 0, done.stdout + done.stderr
    with platform.near(stepped_up=True) as owner:
        assert owner.definitions.get("entity", "shop").by == "service:ci"
        (change,) = [one for one in owner.changes.list() if one.state == "waiting"]
        assert (change.requested_by, change.reason) == ("service:ci", "0123abc")
    made = assemble(platform.settings)
    try:
        with made.calls.opened("changes.approve", "user:omar") as call:
            made.changes.approve(call, change.id, "The gates passed.")
    finally:
        made.close()
    done = run(platform, issuer, tmp_path, "deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    with platform.near(stepped_up=True) as owner:
        assert owner.endpoints.history("late")
