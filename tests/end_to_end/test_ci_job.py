"""A CI job from its own token to applied definitions: real processes, TLS, no secret of ours."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from falaj.kernel.database import Database
from falaj.testing.ciissuers import Issuer, issuing
from falaj.testing.installations import SURROUNDINGS, Installation, falaj_command
from falaj.trust.audit_tables import audit_records

pytestmark = pytest.mark.nightly
DEFINITIONS = """
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
        'account = "deployer"\nclaims = { repository = "corp/models" }\n'
    )
    made.init()
    settings = made.folder / "falaj.toml"
    told = f'\n[ci]\nca_file = "{issuer.ca}"\n[[ci.rules]]\n{rule}'
    settings.write_text(settings.read_text(encoding="utf-8") + told, encoding="utf-8")
    made.up()
    try:
        with made.near(stepped_up=True) as owner:
            owner.accounts.create_service("deployer", roles=("ml_engineer",))
        yield made
    finally:
        made.stop()


def job(platform: Installation, token: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a job of the page on provisioning runs, in a place of its own."""
    (folder / "definitions").mkdir(exist_ok=True)
    (folder / "definitions" / "shop.py").write_text(DEFINITIONS, encoding="utf-8")
    plan, apply = (
        shlex.join(falaj_command(folder, verb, str(folder / "definitions")))
        for verb in ("plan", "apply")
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FALAJ_", "ACTIONS_"))}
    program = falaj_command(folder, "login", "--ci", "--", "sh", "-c", f"{plan} && {apply}")
    return subprocess.run(
        program,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={
            **kept,
            **SURROUNDINGS,
            "FALAJ_URL": platform.control,
            "FALAJ_CA": str(platform.ca),
            "FALAJ_ID_TOKEN": token,
            "FALAJ_CREDENTIALS": str(folder / "credentials.json"),
            "HOME": str(folder),
        },
    )


def records(platform: Installation, action: str) -> list[dict[str, Any]]:
    database = Database(platform.settings.database_url)
    try:
        with database.reading() as connection:
            query = select(audit_records).where(audit_records.c.action == action)
            rows = connection.execute(query.order_by(audit_records.c.seq)).all()
    finally:
        database.close()
    return [{"outcome": row.outcome, "principal": row.principal, **json.loads(row.body)}
            for row in rows]  # fmt: skip


def test_a_job_plans_and_applies_with_its_own_token_alone(
    platform: Installation, issuer: Issuer, tmp_path: Path
) -> None:
    token = issuer.token()
    done = job(platform, token, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "service:deployer" in done.stderr
    assert "shop" in done.stdout
    applied = records(platform, "definitions.apply")[-1]
    assert (applied["outcome"], applied["principal"]) == ("done", "service:deployer")
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not any("credentials" in name for name in left)
    assert "eyJ" not in done.stdout + done.stderr
    again = job(platform, token, tmp_path)
    assert again.returncode != 0
    assert records(platform, "auth.exchange")[-1]["reasons"] == ["replayed"]


def test_a_job_of_a_fork_applies_nothing(
    platform: Installation, issuer: Issuer, tmp_path: Path
) -> None:
    before = len(records(platform, "definitions.apply"))
    done = job(platform, issuer.token(repository="evil/models"), tmp_path)
    assert done.returncode != 0
    assert "not taken" in done.stdout + done.stderr
    assert len(records(platform, "definitions.apply")) == before
    assert records(platform, "auth.exchange")[-1]["reasons"] == ["no-rule"]
