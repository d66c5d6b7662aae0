"""The settings of the page on provisioning are settings, its jobs are whole jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from falaj.interfaces.cli import app
from falaj.kernel.settings import Settings
from falaj.testing.pages import blocks
from falaj.trust.ci import rules_of
from falaj.trust.provisioning_roles import RoleMap

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "provisioning.md"


def test_the_settings_of_the_page_are_taken(tmp_path: Path) -> None:
    examples = [block.text for block in blocks(PAGE) if block.language == "toml"]
    (tmp_path / "falaj.toml").write_text("\n".join(examples), encoding="utf-8")
    settings = Settings.read(tmp_path)
    assert len(RoleMap(settings.provisioning.groups)) == 2
    rules = {rule.name: rule for rule in rules_of(settings.ci.rules)}
    github = {"repository": "corp/models", "ref": "refs/heads/main"}
    assert rules["models-main"].fits(github)
    assert not rules["models-main"].fits({**github, "ref": "refs/pull/1/merge"})
    gitlab = {"project_path": "corp/models", "ref_protected": "true", "ref": "main"}
    assert rules["models-gitlab"].fits(gitlab)


def jobs() -> dict[str, Any]:
    return {
        block.value: yaml.safe_load(block.text) for block in blocks(PAGE) if block.mark == "job"
    }


def test_the_job_for_github_may_ask_for_its_token() -> None:
    job = jobs()["github"]
    assert job["permissions"] == {"contents": "read", "id-token": "write"}
    assert set(job["jobs"]) == {"apply"}


def test_the_job_for_gitlab_has_a_token_for_the_platform_it_speaks_to() -> None:
    job = jobs()["gitlab"]["falaj"]
    assert job["id_tokens"]["FALAJ_ID_TOKEN"]["aud"] == job["variables"]["FALAJ_URL"]


@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_the_commands_of_the_jobs_are_commands(system: str) -> None:
    job = jobs()[system]
    lines = (
        [step.get("run", "") for step in job["jobs"]["apply"]["steps"]]
        if system == "github"
        else job["falaj"]["script"]
    )
    group = get_command(app)
    named = [name for line in lines for name in re.findall(r"\bfalaj ([a-z]+)", line)]
    assert {"login", "plan", "apply"} <= set(named)
    assert all(group.get_command(None, name) is not None for name in named)
    assert "--ci" in " ".join(lines)
