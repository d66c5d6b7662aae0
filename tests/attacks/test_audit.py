"""Attacks on the record of what was done: keeping out of it, filling its disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from sqlalchemy import text

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.kernel.errors import FalajError, LimitExceeded, Unavailable
from falaj.serving.adapters.grpc_messages import SERVICE
from falaj.testing.guarded import free_ports
from falaj.testing.installations import ControlPlane, Installation, client, eventually
from falaj.wiring.assembly import assemble


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A platform that runs, over HTTPS."""
    (grpc_port,) = free_ports(1)
    made = Installation(
        tmp_path_factory.mktemp("up") / "project",
        variables={"FALAJ_INFERENCE__GRPC_PORT": str(grpc_port)},
    )
    made.init()
    made.up()
    yield made
    made.stop()


def refused_tokens(up: Installation, via: str) -> list[Any]:
    """The records of requests without a good token, of one interface, newest first."""
    with up.near() as owner:
        found = owner.audit.search(action="auth.token", limit=1000).records
    return [record for record in found if record.via == via]


def test_a_caller_without_a_token_is_on_record_at_the_control_plane(up: Installation) -> None:
    with client(up.control, up.ca) as web:
        assert web.get("/api/models").status_code == 401
        assert web.get("/api/models", headers={"Authorization": "Bearer a.b.c"}).status_code == 401
    records = eventually(lambda: (found := refused_tokens(up, "http"))[1:] and found, seconds=20)
    told = {record.reasons[0]: record for record in records}
    assert set(told) >= {"unauthenticated", "invalid-token"}
    record = told["unauthenticated"]
    assert (record.outcome, record.principal, record.address) == ("refused", "unknown", "127.0.0.1")
    assert record.details["asked"] == "GET /api/models"


def test_a_caller_without_a_token_is_on_record_at_the_data_plane(up: Installation) -> None:
    with client(up.inference, up.ca) as web:
        path = "/v1/endpoints/late/predict"
        assert web.post(path, json={"inputs": []}).status_code == 401
    (record, *_) = eventually(lambda: refused_tokens(up, "inference"), seconds=20)
    assert (record.outcome, record.reasons) == ("refused", ["unauthenticated"])
    assert (record.address, record.details["asked"]) == ("127.0.0.1", path)


def test_a_caller_with_a_bad_token_is_on_record_over_grpc(up: Installation) -> None:
    address = f"127.0.0.1:{up.variables['FALAJ_INFERENCE__GRPC_PORT']}"
    trusted = grpc.ssl_channel_credentials(up.ca.read_bytes())
    with grpc.secure_channel(address, trusted) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ServerMetadata")
        with pytest.raises(grpc.RpcError) as raised:
            ask(b"", timeout=20, metadata=[("authorization", "Bearer a.b.c")])
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    asked = f"{SERVICE}/ServerMetadata"
    told = eventually(
        lambda: [
            one for one in refused_tokens(up, "inference") if one.details.get("asked") == asked
        ],
        seconds=20,
    )
    assert told[0].address == "127.0.0.1"


def test_a_flood_of_bad_tokens_fills_no_log(up: Installation) -> None:
    before = len(refused_tokens(up, "http"))
    with client(up.control, up.ca) as web:
        for number in range(100):
            bearer = {"Authorization": f"Bearer {number}.b.c"}
            assert web.get("/api/me", headers=bearer).status_code == 401
    assert len(refused_tokens(up, "http")) <= before + 2


def test_a_path_with_line_breaks_begins_no_second_record(up: Installation) -> None:
    with httpx.Client(base_url=up.control, verify=False) as web:
        web.get("/api/%0d%0aforged%20record", headers={"Authorization": "Bearer x"})
    with up.near() as owner:
        assert owner.audit.verify().sound


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A disk of a few megabytes, or a skip where none can be made."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_audit_disk_stops_actions_and_loses_no_record(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 12) as disk:
        installation = Installation(disk / "project")
        installation.init()
        premises = assemble(installation.settings)
        try:
            caller = Caller(Principal("user:amina", PrincipalKind.USER, ("data_scientist",)))
            door = LocalDoor(premises.backend, caller)
            start = premises.backend.services.actions["runs.start"]
            door.call(start, {"experiment": "before"})
            ballast = disk / "ballast"
            with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            refused: list[FalajError] = []
            done = 1
            with ballast.open("rb+") as file:
                file.truncate(ballast.stat().st_size - 2 * 2**20)
            time.sleep(0.6)  # it looks twice a second
            for _ in range(3):
                with pytest.raises(LimitExceeded, match="nearly full"):
                    door.call(start, {"experiment": "nearly"})
            with premises.database.reading() as connection:
                query = "SELECT count(*) FROM audit_records WHERE action = 'runs.start' AND outcome"
                assert connection.execute(text(f"{query} = 'failed'")).scalar() == 3
            premises.backend.space = None  # and when even that is gone
            with ballast.open("ab", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
            for number in range(400):
                try:
                    door.call(start, {"experiment": f"full-{number}"})
                    done += 1
                except (LimitExceeded, Unavailable) as error:
                    refused.append(error)
                    break
            (error,) = refused
            assert "full" in str(error)
            assert "nothing was done" in str(error)
            for word in ("sqlite", "SQL", str(tmp_path), "INSERT", "malformed"):
                assert word not in str(error)
            ballast.unlink()
            with premises.database.reading() as connection:
                kept = connection.execute(text("SELECT count(*) FROM runs")).scalar()
                query = "SELECT count(*) FROM audit_records WHERE action = 'runs.start' AND outcome"
                recorded = connection.execute(text(f"{query} = 'done'")).scalar()
            assert kept == recorded == done
            door.call(start, {"experiment": "after"})
            with premises.database.reading() as connection:
                assert premises.audit_verifier.verify(connection).sound
        finally:
            premises.close()


def test_a_full_disk_stops_actions_with_a_clear_error_over_https(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32) as disk:
        installation = ControlPlane(disk / "project")
        installation.init()
        installation.up()
        ballast = disk / "ballast"
        try:
            with installation.near(stepped_up=True) as owner:
                link = owner.accounts.invite("sara", ["data_scientist", "auditor"])
            person = installation.enrolled("sara", link.secret.get_secret_value())
            with person.client() as web:

                def start(experiment: str) -> httpx.Response:
                    return web.post("/api/runs", json={"experiment": experiment})

                assert start("before").status_code == 200
                with (
                    ballast.open("wb", buffering=0) as file,
                    pytest.raises(OSError, match="No spa"),
                ):
                    while True:
                        file.write(bytes(4096))
                with ballast.open("rb+") as file:
                    file.truncate(ballast.stat().st_size - 2 * 2**20)
                refused = eventually(
                    lambda: (answer := start("full")).status_code != 200 and answer, seconds=10
                )
                assert (refused.status_code, refused.json()["code"]) == (429, "limit-exceeded")
                assert "nearly full" in refused.json()["detail"]
                assert str(tmp_path) not in refused.text
                asked = {"action": "runs.start", "outcome": "failed"}
                shown = web.get("/api/audit/records", params=asked).json()["records"]
                assert shown[0]["details"]["error"] == "limit-exceeded"
                ballast.unlink()
                eventually(lambda: start("after").status_code == 200, seconds=10)
                assert web.post("/api/audit/verifications", json={}).json()["sound"]
        finally:
            ballast.unlink(missing_ok=True)
            installation.stop()


@pytest.mark.parametrize(
    "role",
    ["viewer", "data_scientist", "ml_engineer", "approver", "steward", "operator", "service"],
)
@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("audit.search", {}),
        ("audit.lines", {"format": "cef"}),
        ("audit.get", {"seq": 1}),
        ("audit.proof", {"seq": 1}),
        ("audit.verify", {}),
        ("audit.checkpoint", {}),
    ],
)
def test_the_log_is_shown_to_auditors_alone(
    site: Any, role: str, action: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(FalajError) as raised:
        site.ask(site.caller(role, name="eve", factor=True), action, **arguments)
    assert raised.value.code in ("forbidden", "not-found")


def test_what_a_stranger_wrote_into_a_name_begins_no_line_of_an_export(site: Any) -> None:
    forged = "x\nCEF:0|Falaj|Falaj|1|accounts.set_roles|forged|3|suser=user:omar outcome=done"
    engineer = site.caller("ml_engineer", name="ida")
    with pytest.raises(FalajError):
        site.ask(engineer, "assets.get", kind="model", key=forged)
    auditor = site.caller("auditor", name="nora")
    for form in ("json", "cef", "ocsf"):
        lines = site.ask(auditor, "audit.lines", format=form, limit=1000).lines
        assert any("forged" in line for line in lines)
        assert all(len(line.splitlines()) == 1 for line in lines)
        assert not any(line.startswith("CEF:0|Falaj|Falaj|1|") for line in lines)
