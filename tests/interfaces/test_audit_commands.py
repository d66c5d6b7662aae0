"""``falaj audit export`` and ``check-proof``: the log for others' eyes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from falaj.testing.asked import falaj_here
from falaj.testing.installations import Installation


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """A platform on which a few things were done and signed."""
    made = Installation(tmp_path_factory.mktemp("audit") / "project")
    made.init()
    with made.near(stepped_up=True) as owner:
        for name in ("one", "two"):
            owner.accounts.create_service(name, roles=["viewer"])
        owner.audit.checkpoint()
    return made


def run(installed: Installation, *arguments: str) -> subprocess.CompletedProcess[str]:
    return falaj_here(installed.folder, *arguments)


def test_export_writes_each_record_once_and_says_how_to_go_on(installed: Installation) -> None:
    done = run(installed, "audit", "export")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["seq"] for one in records] == list(range(1, len(records) + 1))
    assert "accounts.create_service" in {one["action"] for one in records}
    assert f"--after {len(records)}" in done.stderr
    file = installed.folder / "audit.cef"
    more = run(
        installed, "audit", "export", "--format", "cef", "--after", str(len(records)),
        "--to", str(file),
    )  # fmt: skip
    assert more.returncode == 0, more.stderr
    lines = file.read_text().splitlines()
    assert lines
    assert all(line.startswith("CEF:0|Falaj|") for line in lines)


def test_an_unknown_format_is_named(installed: Installation) -> None:
    done = run(installed, "audit", "export", "--format", "xml")
    assert done.returncode != 0
    assert "xml" in done.stderr + done.stdout


def proof_of(installed: Installation, file: Path) -> dict[str, object]:
    done = run(installed, "--json", "audit", "proof", "2")
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_proof_is_checked_without_a_platform(installed: Installation, tmp_path: Path) -> None:
    proof = proof_of(installed, tmp_path / "proof.json")
    elsewhere = Installation(tmp_path / "empty")
    elsewhere.folder.mkdir()
    key = str(proof["public_key"])
    done = run(elsewhere, "audit", "check-proof", str(tmp_path / "proof.json"), "--key", key)
    assert done.returncode == 0, done.stderr
    assert "stands in the log" in done.stdout
    assert "with the key that you gave" in done.stdout


def test_a_changed_proof_or_another_key_is_refused(installed: Installation, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    proof = proof_of(installed, file)
    assert run(installed, "audit", "check-proof", str(file), "--key", "00" * 32).returncode != 0
    file.write_text(json.dumps({**proof, "record": str(proof["record"]).replace("owner", "omar")}))
    done = run(installed, "audit", "check-proof", str(file))
    assert done.returncode != 0
    assert "stands in the log" not in done.stdout
    file.write_text("{}")
    assert run(installed, "audit", "check-proof", str(file)).returncode != 0
