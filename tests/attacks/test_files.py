"""Sources that try to read what is no data of theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from falaj.ingest.files import Files
from falaj.ingest.model import Source, SourceBroken
from falaj.kernel.jobs import JobState


def loaded(site: Any, name: str, path: str) -> str:
    """What the job of an engineer's source tells everybody who may see it."""
    engineer = site.caller("ml_engineer")
    source = {"kind": "source", "name": name, "table": name, "path": path, "format": "csv"}
    site.ask(engineer, "definitions.apply", documents=[{**source, "columns": {"a": "text"}}])
    job = site.ask(engineer, "sources.load", source=name)
    site.run_jobs()
    found = site.ask(engineer, "jobs.get", job_id=job.id)
    assert found.state is JobState.FAILED
    return str(found.error)


@pytest.mark.parametrize(
    "file", ["keys/machine.secret", "keys/keyring.json", "owner.key", "tls/ca.key.sealed"]
)
def test_a_source_cannot_read_the_platforms_own_keys(site: Any, file: str) -> None:
    secret = (site.folder / ".falaj" / file).read_text("latin-1").splitlines()[0]
    name = "own_" + file.replace("/", "_").replace(".", "_")
    told = loaded(site, name, f".falaj/{file}")
    assert "may not read" in told
    assert secret == "{" or secret not in told


def test_a_source_cannot_read_the_keys_through_a_link_or_a_wide_pattern(site: Any) -> None:
    (site.folder / "innocent.csv").symlink_to(site.folder / ".falaj" / "keys" / "machine.secret")
    assert "may not read" in loaded(site, "linked", "innocent.csv")
    assert "may not read" in loaded(site, "wide", ".falaj/**")


def source(path: str) -> Source:
    return Source.model_validate(
        {"name": "s", "table": "s", "path": path, "format": "csv", "columns": {"a": "text"}}
    )


@pytest.mark.parametrize("path", [".env", ".git/config", "data/.hidden.csv"])
def test_hidden_files_of_the_project_are_no_data(tmp_path: Path, path: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text("FALAJ_KEYRING_PASSPHRASE=x\n", encoding="utf-8")
    with pytest.raises(SourceBroken, match="may not read"):
        Files([tmp_path]).found(source(path))


def test_the_answer_does_not_tell_which_files_lie_outside(tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (tmp_path / "there").write_text("x", encoding="utf-8")
    told = set()
    for path in ("there", "missing"):
        for written in (f"../{path}", str(tmp_path / path)):
            with pytest.raises(SourceBroken) as caught:
                Files([root]).found(source(written))
            told.add(str(caught.value).replace(written, "…"))
    assert len(told) == 1


def test_a_wrong_header_is_told_in_short(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x" * 5_000 + "\n1\n", encoding="utf-8")
    files = Files([tmp_path])
    with pytest.raises(SourceBroken) as caught:
        files.read(source("a.csv"), files.found(source("a.csv")))
    assert len(caught.value.message) < 300
