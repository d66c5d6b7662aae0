"""Attacks on models of a running platform, over HTTPS: bundles, pickles, archives, secrets.

The platform has a model in production. Whoever attacks owns its database or its data folder;
what the control plane does then is asked by an engineer from afar.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from falaj.models.bundles import MODEL
from falaj.models.tables import version_rows
from falaj.testing.installations import ControlPlane, client
from falaj.testing.pickles import malicious
from falaj.testing.planted import PLANTED
from falaj.testing.smallbundles import FILES
from falaj.trust.audit_tables import audit_records


class Served:
    """A platform with a model, its control plane, and its owner's token."""

    def __init__(self, shipped: Any, installation: ControlPlane) -> None:
        self.shipped = shipped
        self.premises = shipped.premises
        self.installation = installation

    def post(self, path: str, body: Any) -> Any:
        """The answer to the owner, who has a fresh factor."""
        token = self.shipped.world.token(self.shipped.world.caller())
        with client(self.installation.control, self.installation.ca, token) as web:
            return web.post(f"/api{path}", json=body)

    def newest(self, action: str) -> dict[str, Any]:
        """The newest record of an action, as `falaj audit search` shows it."""
        token = self.shipped.world.token(self.shipped.world.caller())
        with client(self.installation.control, self.installation.ca, token) as web:
            asked = {"action": action, "limit": 1}
            found: list[dict[str, Any]] = web.get("/api/audit/records", params=asked).json()[
                "records"
            ]
        return found[0]

    def bundle(self) -> str:
        """The digest of the approved version's bundle."""
        with self.premises.database.reading() as connection:
            wanted = (version_rows.c.model == "late") & (version_rows.c.version == 1)
            return str(connection.execute(select(version_rows.c.bundle).where(wanted)).scalar_one())

    def put(self, bundle: str) -> None:
        """Another bundle under the approved version."""
        wanted = (version_rows.c.model == "late") & (version_rows.c.version == 1)
        with self.premises.database.transaction() as connection:
            connection.execute(update(version_rows).where(wanted).values(bundle=bundle))


@pytest.fixture(scope="module")
def served(shipped: Any) -> Iterator[Served]:
    ports = {"FALAJ_HTTP__PORT": "0", "FALAJ_INFERENCE__PORT": "0"}
    installation = ControlPlane(shipped.world.folder, variables=ports)
    installation.up()
    yield Served(shipped, installation)
    installation.stop()


def replaced(it: Served, envelope: dict[str, Any]) -> None:
    envelope["blobs"][MODEL] = it.premises.blobs.keep(b"another model")


def added(it: Served, envelope: dict[str, Any]) -> None:
    envelope["blobs"]["more.bin"] = it.premises.blobs.keep(b"more")


def removed(_it: Served, envelope: dict[str, Any]) -> None:
    del envelope["blobs"]["attestation.json"]


def unsigned(_it: Served, envelope: dict[str, Any]) -> None:
    envelope["signatures"] = []


@pytest.mark.parametrize("change", [replaced, added, removed, unsigned])
def test_a_changed_bundle_is_not_deployed(
    served: Served, change: Callable[[Served, dict[str, Any]], None]
) -> None:
    before = served.bundle()
    envelope = json.loads(served.premises.blobs.fetch(before))
    change(served, envelope)
    served.put(served.premises.blobs.keep(json.dumps(envelope).encode()))
    try:
        answer = served.post("/endpoints/late/releases", {})
    finally:
        served.put(before)
    assert answer.status_code == 500
    assert "under problem_" in answer.json()["hint"]  # the reason is for the operator's log
    record = served.newest("endpoints.deploy")
    assert (record["outcome"], record["details"]["error"]) == ("failed", answer.json()["code"])


def test_a_bundle_of_an_unknown_signer_is_not_deployed(
    served: Served, tmp_path: Path, kept_in: Any
) -> None:
    before = served.bundle()
    stranger = kept_in(tmp_path)
    manifest = served.premises.bundles.open_bundle(before).manifest
    theirs = json.loads(stranger.blobs.fetch(stranger.bundles.keep(manifest, FILES)))
    for digest in theirs["blobs"].values():
        served.premises.blobs.keep(stranger.blobs.fetch(digest))
    served.put(served.premises.blobs.keep(json.dumps(theirs).encode()))
    try:
        answer = served.post("/endpoints/late/releases", {})
    finally:
        served.put(before)
    assert answer.json()["code"] == "unknown-key"
    assert served.newest("endpoints.deploy")["details"]["error"] == "unknown-key"


def test_the_bundle_that_was_signed_is_deployed(served: Served) -> None:
    """Without this the others could fail for any reason."""
    assert served.post("/endpoints/late/releases", {}).status_code == 200
    assert served.newest("endpoints.deploy")["outcome"] == "done"


def brought(served: Served, name: str, data: bytes, model_format: str) -> Any:
    (served.premises.settings.data_folders[0] / name).write_bytes(data)
    inputs = [{"name": one} for one in ("signal", "mean_2d", "count_2d")]
    body = {"file": name, "model_format": model_format, "inputs": inputs}
    return served.post("/models/late/bringings", body)


@pytest.mark.parametrize("model_format", ["pickle", "onnx", "lightgbm", "torch", "python"])
def test_a_malicious_pickle_is_not_taken(served: Served, tmp_path: Path, model_format: str) -> None:
    for one in malicious(tmp_path)[:8]:
        answer = brought(served, "evil.bin", one.data, model_format)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-input"), one.name
        record = served.newest("models.bring")
        assert (record["outcome"], record["details"]["error"]) == ("failed", "invalid-input")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "../../evil.py", "/etc/evil.py", "a/../../evil.py", "..\\evil.py",
     "C:\\evil.py", "./../evil.py", "a\x00/../evil.py"],
)  # fmt: skip
def test_an_archive_that_leads_out_is_not_taken(served: Served, name: str) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("model.py", "class Model:\n    def __init__(self, folder): ...\n")
        archive.writestr(name, "raise SystemExit\n")
    folder = served.premises.settings.data_folders[0]
    before = set(folder.parent.rglob("evil*"))
    answer = brought(served, "archive.zip", sink.getvalue(), "python")
    if answer.status_code == 200:  # it is looked into by the job
        served.shipped.run_jobs()
        with served.premises.database.reading() as connection:
            job = served.premises.jobs.get(connection, answer.json()["id"])
        assert job.state.value == "failed", name
    else:
        assert answer.status_code == 422, answer.text
        assert served.newest("models.bring")["outcome"] == "failed"
    assert set(folder.parent.rglob("evil*")) == before


def test_a_link_in_an_archive_is_not_taken(served: Served) -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("model.py", "class Model:\n    def __init__(self, folder): ...\n")
        link = zipfile.ZipInfo("keys")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(served.installation.home / "keys"))
    answer = brought(served, "linked.zip", sink.getvalue(), "python")
    if answer.status_code == 200:
        served.shipped.run_jobs()
        with served.premises.database.reading() as connection:
            job = served.premises.jobs.get(connection, answer.json()["id"])
        assert job.state.value == "failed"
    else:
        assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("kind", "secret"), [(kind, texts[0]) for kind, texts in PLANTED.items()][:6]
)
def test_a_planted_secret_is_refused_and_repeated_nowhere(
    served: Served, kind: str, secret: str
) -> None:
    code = f"class Model:\n    def __init__(self, folder): ...\n# {secret}\n".encode()
    definition = {"kind": "entity", "name": "planted", "keys": {"a": "string"},
                  "description": f"Key: {secret}"}  # fmt: skip
    answers = [
        brought(served, "planted.py", code, "python"),
        served.post("/definitions", {"documents": [definition]}),
    ]
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (422, "secret-found")
        assert secret not in answer.text
        assert kind in answer.text
    for action in ("models.bring", "definitions.apply"):
        assert served.newest(action)["details"]["error"] == "secret-found"
    with served.premises.database.reading() as connection:
        everything = connection.execute(select(audit_records.c.body)).scalars().all()
    assert secret not in "\n".join(everything)
    assert secret not in served.installation.told()
