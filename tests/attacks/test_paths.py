"""Paths that lead out of where they should: addresses, sources, links, archives; over HTTPS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falaj.testing.installations import eventually

TRAVERSALS = {
    "parents": "../../../falaj.toml",
    "parents, percent-encoded": "%2e%2e/%2e%2e/%2e%2e/falaj.toml",
    "parents and slashes, percent-encoded": "..%2f..%2f..%2ffalaj.toml",
    "encoded twice": "..%252f..%252f..%252ffalaj.toml",
    "backslashes": "..\\..\\..\\falaj.toml",
    "backslashes, percent-encoded": "..%5c..%5c..%5cfalaj.toml",
    "overlong UTF-8": "%c0%ae%c0%ae%c0%af%c0%ae%c0%ae%c0%affalaj.toml",
    "doubled, for those who cut once": "....//....//....//falaj.toml",
    "parameters of a segment": "..;/..;/falaj.toml",
    "a NUL behind": "../../../falaj.toml%00.css",
    "from the root": "//etc/passwd",
    "from the root, percent-encoded": "%2fetc%2fpasswd",
    "by an address of its own": "https://localhost/etc/passwd",
}
INSIDE = (b"[http]", b"root:", b"BEGIN ", b"machine.secret")
READS = ("/static/", "/api/tables/", "/api/assets/source/", "/api/audit/records/")


@pytest.mark.parametrize("asked", list(TRAVERSALS.values()), ids=list(TRAVERSALS))
def test_no_address_leads_to_a_file(running: Any, asked: str) -> None:
    token = running.somebody("idris").token
    for prefix in READS:
        head = (
            f"GET {prefix}{asked} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"authorization: Bearer {token}\r\n\r\n"
        )
        told = running.raw(head.encode())
        status = told[9:12]
        assert status in (b"400", b"401", b"403", b"404", b"405", b"422"), told[:200]
        assert [word for word in INSIDE if word in told] == []


@pytest.fixture(scope="module")
def outside(running: Any) -> Iterator[Path]:
    """A file beside the project, and a link to it inside."""
    folder = running.installation.folder
    planted = folder.parent / "planted.csv"
    planted.write_text("a\nplanted-secret\n", encoding="utf-8")
    (folder / "innocent.csv").symlink_to(planted)
    (folder / "inner").mkdir()
    (folder / "inner" / "linked").symlink_to(folder.parent)
    (folder / "keys.csv").symlink_to(running.installation.home / "keys" / "keyring.json")
    yield planted


def test_no_source_leads_out_of_the_project(running: Any, outside: Path) -> None:
    """Eight ways and the platform's own folder, in one load each; every one fails on record."""
    home = running.installation.home
    paths = {
        "parent": "../planted.csv",
        "parents_within": "inner/../../planted.csv",
        "absolute": str(outside),
        "home_of_user": "~/planted.csv",
        "pattern": "../*.csv",
        "link": "innocent.csv",
        "linked_folder": "inner/linked/planted.csv",
        "backslash": "..\\planted.csv",
        "url": "file://" + str(outside),
        "package": "package:falaj/../../../../planted.csv",
        "own_keys": ".falaj/keys/keyring.json",
        "own_keys_absolute": str(home / "keys" / "machine.secret"),
        "link_to_keys": "keys.csv",
        "metadata_address": "http://169.254.169.254/latest/meta-data/",
        "own_address": f"{running.installation.control}/healthz",
    }
    documents = [
        {"kind": "source", "name": name, "table": name, "path": path, "format": "csv",
         "columns": {"a": "text"}}
        for name, path in paths.items()
    ]  # fmt: skip
    jobs = {}
    with running.as_("idris") as web:
        for document in documents:
            applied = web.post("/api/definitions", json={"documents": [document]})
            if applied.status_code != 200:  # refused when it is declared: so much the better
                assert applied.status_code in (403, 422), applied.text
                continue
            asked = web.post(f"/api/sources/{document['name']}/loads", json={})
            if asked.status_code == 200:
                jobs[document["name"]] = asked.json()["id"]
            else:
                assert asked.status_code in (403, 404, 422), asked.text

        def ended() -> dict[str, Any]:
            found = {name: web.get(f"/api/jobs/{job}").json() for name, job in jobs.items()}
            return found if all(j["state"] in ("failed", "done") for j in found.values()) else {}

        if jobs:
            states = eventually(ended, seconds=60, what="the loads")
            assert {
                name: job["state"] for name, job in states.items() if job["state"] != "failed"
            } == {}
            for name, job in states.items():
                told = str(job["error"])
                assert "planted-secret" not in told and "meta-data" not in told.replace(
                    paths[name], ""
                )
        for name in paths:
            rows = web.get(f"/api/tables/{name}/rows")
            assert rows.status_code == 404 or rows.json().get("rows", []) == [], name


@pytest.mark.parametrize(
    "name", ["../../evil", "..", "/etc/passwd", "a/../../b", "a\x00b", "C:\\x"]
)
def test_no_upload_is_kept_under_a_path(running: Any, name: str) -> None:
    """Names of things become files and tables: those that are paths are refused."""
    before = sorted(running.installation.folder.parent.iterdir())
    with running.as_("idris") as web:
        document = {"kind": "source", "name": name, "table": name, "path": "a.csv",
                    "format": "csv", "columns": {"a": "text"}}  # fmt: skip
        answer = web.post("/api/definitions", json={"documents": [document]})
        assert answer.status_code == 422, answer.text
        # An experiment's name becomes no file: it may look like a path.
        experiment = web.post("/api/experiments", json={"name": name})
        assert experiment.status_code in (200, 409, 422)
    assert sorted(running.installation.folder.parent.iterdir()) == before
    record = running.on_record("definitions.apply", lambda r: r["principal"] == "user:idris")
    assert record["outcome"] == "failed"
