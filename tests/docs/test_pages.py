"""The examples of README and guide are run; every kind of declaration has one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import falaj
from falaj.interfaces.declarations import declared
from falaj.interfaces.platform import Platform
from falaj.kernel.settings import Settings
from falaj.testing.pages import blocks
from falaj.testing.programs import program_environment
from falaj.wiring.kinds import definition_kinds
from falaj.wiring.setup import initialise

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "shop"
    folder.mkdir()
    initialise(Settings.read(folder), owner="maryam")
    return folder


@pytest.fixture
def platform(project: Path, tmp_path: Path) -> Iterator[Platform]:
    """On a copy: what is declared there, such as receivers without secrets, stays there."""
    with falaj.open(shutil.copytree(project, tmp_path / "copy")) as opened:
        yield opened


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=program_environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_declarations_of_the_guide_are_applied_and_leave_no_kind_out(
    platform: Platform, tmp_path: Path
) -> None:
    examples = [b.text for b in blocks(GUIDE / "declarations.md") if b.language == "python"]
    file = tmp_path / "examples.py"
    file.write_text("\n".join(examples), encoding="utf-8")
    found = declared(file)
    assert {one.kind for one in found} == set(definition_kinds())
    policies = [one.document() for one in found if one.proposed]
    others = [one.document() for one in found if not one.proposed]
    done = platform.definitions.apply(others)
    assert {item.name for item in done.effective()} == {one["name"] for one in others}
    assert not list(platform.definitions.plan(others).effective())
    planned = platform.policy.plan(policies)
    assert {item.name for item in planned.effective()} == {one["name"] for one in policies}


def test_the_example_of_the_readme_does_what_it_prints(project: Path) -> None:
    (project / "sales.csv").write_text(
        "id,shop,price\n1,al-khan,12.5\n2,majaz,free\n3,majaz,8\n", encoding="utf-8"
    )
    (example,) = [b.text for b in blocks(ROOT / "README.md") if b.language == "python"]
    assert run([sys.executable, "-c", example], project) == "2 rows written, 1 quarantined\n"


def test_the_near_example_of_the_guide_runs(project: Path) -> None:
    (example,) = [b.text for b in blocks(GUIDE / "door.md") if b.mark == "run"]
    assert "user:maryam" in run([sys.executable, "-c", example], project)


def test_a_platform_is_backed_up_and_restored_as_the_guide_says(project: Path) -> None:
    printed = ""
    for block in blocks(GUIDE / "operations.md"):
        if block.mark == "run":
            printed += run(["bash", "-eu", "-c", block.text], project)
    assert "ill" not in printed.split()
    assert "sound True" in " ".join(printed.split())
