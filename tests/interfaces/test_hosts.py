"""Under which names the control plane answers, and what its errors tell strangers."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient

import falaj
from falaj.interfaces.hiding import Hiding
from falaj.interfaces.hosts import Addresses, HostCheck
from falaj.interfaces.http import DEEPEST, _teller, json_object, nested_deeper
from falaj.interfaces.routing import Application
from falaj.kernel.call import Call
from falaj.kernel.door import LocalDoor
from falaj.kernel.errors import (
    Corrupt,
    FalajError,
    InvalidInput,
    Unavailable,
    error_classes,
)
from falaj.kernel.jobs import Worker
from falaj.kernel.problems import _References, public_failure
from falaj.kernel.settings import Settings
from falaj.wiring.assembly import assemble
from falaj.wiring.setup import initialise, owner_key


def _known() -> dict[str, type[FalajError]]:
    """Every error class of the package: those modules are imported that define one."""
    root = Path(falaj.__file__).parent
    for module in sorted(root.rglob("*.py")):
        path = module.relative_to(root.parent).with_suffix("")
        if "testing" in path.parts or "migrations" in path.parts:
            continue
        if re.search(r"^    code = ", module.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(path.parts))
    return error_classes()


KNOWN = _known()
INSIDE = (
    "postgresql+psycopg://falaj@db-7.corp.internal:5432/falaj",
    "db-7.corp.internal",
    "redis-3.corp.internal",
    "10.3.3.3",
    "/srv/platform-a/.falaj/keys/keyring",
)
DRIVER = 'connection to server failed: FATAL: password authentication failed for user "falaj"'


def settings(folder: Path | None = None, **given: object) -> Settings:
    return Settings(home=folder or Path("/srv/platform-a/.falaj"), **given)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def web() -> Iterator[TestClient]:
    app = Application()
    known = settings(http={"names": ["falaj.example", "10.1.1.1", "::1"], "port": 8443})
    app.add_middleware(HostCheck, addresses=Addresses.of(known))

    async def there(_request: Request) -> Response:
        return JSONResponse({})

    for method, path in (("GET", "/x"), ("POST", "/x"), ("GET", "/healthz")):
        app.answer(method, path, there)
    with TestClient(app, base_url="https://falaj.example:8443") as client:
        yield client


@pytest.mark.parametrize("host", ["falaj.example", "FALAJ.example:9", "10.1.1.1:1", "[::1]:8443"])
def test_a_name_of_the_settings_is_answered(web: TestClient, host: str) -> None:
    assert web.get("/x", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "falaj.example.evil.example", "falaj.example@evil", "falaj.example:x", "",
     "falaj.example:80:80", "[::1", "[::1]x", "x falaj.example", "10.1.1.2"],
)  # fmt: skip
def test_another_name_is_misdirected(web: TestClient, host: str) -> None:
    answer = web.get("/x", headers={"host": host})
    assert answer.status_code == 421
    assert answer.json()["code"] == "wrong-host"
    assert "evil" not in answer.text


def test_probes_ask_by_any_name(web: TestClient) -> None:
    assert web.get("/healthz", headers={"host": "10.244.0.9:8443"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "https://falaj.example:8443"}, 200),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://falaj.example:9999"}, 403),
        ({"origin": "http://falaj.example:8443"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_a_page_of_another_site_changes_nothing(
    web: TestClient, headers: dict[str, str], status: int
) -> None:
    assert web.post("/x", headers=headers).status_code == status
    assert web.get("/x", headers=headers).status_code == 200


def test_addresses_come_from_the_settings() -> None:
    plain = Addresses.of(settings(), 9001)
    assert plain.origins == ("https://localhost:9001", "https://127.0.0.1:9001")
    assert plain.rp_id == "localhost"
    named = Addresses.of(settings(sign_in={"origins": ["https://ML.example.com"]}))
    assert named.origins == ("https://ml.example.com",)
    assert "ml.example.com" in named.hosts
    assert named.rp_id == "ml.example.com"
    assert Addresses.of(settings(http={"names": ["10.0.0.1"]})).rp_id == ""


def test_a_star_stands_for_one_label() -> None:
    found = Addresses.of(settings(http={"names": ["*.Falaj.example", "main.example."]}))
    assert found.origins == ("https://main.example:8443",)
    good = ["a.falaj.example", "main.example", "127.0.0.1"]
    bad = ["falaj.example", "a.b.falaj.example", "example", "", ".falaj.example.evil", "*"]
    assert [name for name in good if not found.is_for_us(name)] == []
    assert [name for name in bad if found.is_for_us(name)] == []
    only = Addresses.of(settings(http={"names": ["*.falaj.example"], "host": "10.0.0.5"}))
    assert only.origins == ("https://10.0.0.5:8443",)


@pytest.mark.parametrize("origin", ["http://x", "x.example", "https://x/path", "https://"])
def test_an_origin_that_is_none_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(ValueError, match="https://name"):
        settings(sign_in={"origins": [origin]})


@pytest.mark.parametrize("rp_id", ["10.0.0.1", "example.com", "x y", "evil-example.com"])
def test_a_domain_of_passkeys_that_no_page_lies_in_is_refused(rp_id: str) -> None:
    with pytest.raises(ValueError, match="domain"):
        settings(sign_in={"rp_id": rp_id, "origins": ["https://a.evil.com"]})
    settings(sign_in={"rp_id": "evil.com", "origins": ["https://a.evil.com", "https://evil.com"]})


def raised(error: Exception) -> str:
    """What a caller over HTTP reads of an error."""
    hiding = Hiding.of(
        settings(database=INSIDE[0], online="rediss://u@redis-3.corp.internal:6379/0",
                 event_log="kafkas://u@10.3.3.3:9093,10.3.3.4:9093")
    )  # fmt: skip
    app = Application()
    app.add_exception_handler(FalajError, _teller(hiding))

    async def fails(_request: Request) -> Response:
        raise error

    app.answer("GET", "/", fails)
    with TestClient(app, base_url="https://x") as client:
        return client.get("/").text


@pytest.mark.parametrize("code", sorted(KNOWN))
def test_no_error_class_shows_the_inside(code: str) -> None:
    kind = KNOWN[code]
    text = " ".join(INSIDE)
    told = raised(kind(f"Failed: {text}", hint=f"See {text}", where=list(INSIDE)))
    assert [word for word in INSIDE if word in told] == []
    assert kind.code in told


@pytest.mark.parametrize("code", sorted(c for c, kind in KNOWN.items() if not kind.shown))
def test_what_a_component_says_is_told_to_nobody_afar(code: str) -> None:
    told = raised(KNOWN[code](DRIVER, hint=DRIVER, driver=DRIVER))
    assert "FATAL" not in told
    assert "under problem_" in told


def test_components_that_fail_are_not_shown() -> None:
    hidden = {code for code, kind in KNOWN.items() if not kind.shown}
    assert {"unavailable", "component-refused", "corrupt", "storage-full"} <= hidden
    assert {"invalid-input", "not-found", "overloaded", "too-many-attempts"}.isdisjoint(hidden)


@pytest.mark.parametrize(
    "body",
    [b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65, b"[" * 70,
     b'{"a": "]", "b": ' + b"[" * 64 + b"]" * 64 + b"}"],
)  # fmt: skip
def test_json_that_is_nested_too_deep_is_not_parsed(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="nested deeper"):
        json_object(body)


def test_wide_json_is_not_deep() -> None:
    body = b'{"a": [' + b"{}," * 1_000 + b'{"b": "[[[[[[ \\" {{{{"}]}'
    assert not nested_deeper(body, DEEPEST)
    assert len(json_object(body)["a"]) == 1_001
    assert not nested_deeper(b"[" * 64 + b"]" * 64, 64)


def test_a_component_that_fails_does_not_flood_the_log() -> None:
    references = _References(most=3)
    told = [references.of(Unavailable("gone")) for _ in range(50)]
    assert len(set(told)) <= 6  # three in a second, and a second may end in between
    assert references.of(Corrupt("broken")) not in told


@pytest.mark.parametrize("code", [*sorted(KNOWN), "internal", "worker-lost"])
def test_a_jobs_failure_is_told_as_an_error_is(code: str) -> None:
    kept = {"code": code, "message": DRIVER, "hint": DRIVER}
    told = public_failure(kept, log="See the log.")
    known = KNOWN.get(code)
    hidden = code == "internal" or (known is not None and not known.shown)
    assert ("FATAL" in str(told)) is not hidden
    assert told["code"] == code
    assert not hidden or told["hint"] == "See the log."


def test_a_failed_job_shows_the_inside_to_nobody_afar(tmp_path: Path) -> None:
    initialise(Settings.read(tmp_path), owner="owner")
    premises = assemble(Settings.read(tmp_path))
    premises.handlers["fail"] = _fails  # type: ignore[index]
    try:
        owner = premises.authentication.by_key(owner_key(premises.settings))
        with premises.database.transaction() as connection:
            call = Call(owner, "test", premises.clock.now(), connection)
            job = premises.jobs.submit(call, "fail", {}, max_attempts=1)
        Worker(premises.jobs, premises.handlers, name="test").run_one()
        get = premises.backend.services.actions["jobs.get"]
        near, far = (
            LocalDoor(premises.backend, replace(owner, via=via)).call(get, {"job_id": job.id})
            for via in ("local", "http")
        )
    finally:
        premises.close()
    assert DRIVER in near.error["message"]
    assert "FATAL" not in str(far.error)
    assert (far.error["code"], near.state) == ("unavailable", far.state)


def _fails(_run: object, _arguments: object) -> None:
    raise Unavailable(DRIVER)
