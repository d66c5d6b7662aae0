"""The command line as a process: what goes to standard output, and what does not."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from falaj.kernel.settings import Settings
from falaj.testing.programs import program_environment
from falaj.wiring.setup import initialise

DEFINITIONS = """
from falaj.declare import Source

sales = Source(name="sales", table="sales", path="sales.csv", columns={"id": "integer"})
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    initialise(Settings.read(folder), owner="maryam")
    (folder / "definitions").mkdir()
    (folder / "definitions" / "sales.py").write_text(DEFINITIONS, encoding="utf-8")
    run(folder, "apply")
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from falaj.interfaces.cli import main; main()", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=program_environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_job_that_fails_is_told_on_standard_error_without_a_traceback(project: Path) -> None:
    done = run(project, "--json", "sources", "load", "sales", "--wait")
    assert (done.returncode, done.stdout) == (1, "")
    assert "sales.csv" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_that_begins_a_job_follows_it_if_asked(project: Path) -> None:
    (project / "sales.csv").write_text("id\n1\n2\n", encoding="utf-8")
    begun = run(project, "--json", "sources", "load", "sales")
    assert json.loads(begun.stdout)["state"] == "waiting"
    done = run(project, "--only", "n_written", "sources", "load", "sales", "--wait")
    assert done.stdout == "2\n", done.stderr


def test_manifests_go_to_standard_output_and_nothing_else_does(project: Path) -> None:
    done = run(project, "render", "kubernetes", "--image", "falaj:1", "--gpus", "1")
    assert done.stdout.startswith("---\napiVersion: ")
    assert "nvidia.com/gpu" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("restart", "inference"), "falaj up inference"),
        (("up", "inference", "--workers", "4:1"), "--workers 1:4"),
    ],
)
def test_what_cannot_be_scaled_or_restarted_is_told_with_a_way_out(
    project: Path, arguments: tuple[str, ...], told: str
) -> None:
    done = run(project, *arguments)
    assert done.returncode == 1
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_audit_log_that_is_not_whole_fails_the_command(tmp_path: Path) -> None:
    initialise(Settings.read(tmp_path), owner="maryam")
    assert run(tmp_path, "audit", "verify").returncode == 0
    with sqlite3.connect(tmp_path / ".falaj" / "falaj.db") as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            database.execute(f'DROP TRIGGER "{name}"')
        database.execute("UPDATE audit_records SET principal = 'user:nobody' WHERE seq = 1")
    found = run(tmp_path, "--json", "audit", "verify")
    assert found.returncode == 1
    assert json.loads(found.stdout)["sound"] is False
