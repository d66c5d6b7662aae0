"""The HTTP API and the far door, on a small service of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from pydantic import BaseModel, SecretStr
from starlette.testclient import TestClient

from falaj.interfaces.client import RemoteDoor
from falaj.interfaces.http import create_app
from falaj.interfaces.texts import from_text, to_text
from falaj.kernel.actions import Service, action
from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.door import Backend, Services, face
from falaj.kernel.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from falaj.kernel.outbox import Outbox
from falaj.kernel.telemetry import Telemetry
from falaj.testing.fakes import AllowAll, MemoryAudit, MemoryResources
from falaj.trust.bindings import NOTHING, Presented


class Parcel(BaseModel):
    weight: float
    labels: dict[str, int] = {}
    sent_at: datetime | None = None


class Post(Service):
    """Parcels to and fro."""

    name = "post"

    @action(post="/parcels/{town}", on="parcel")
    def send(self, town: str, parcel: Parcel, *, code: SecretStr | None = None) -> Parcel:
        """Send a parcel to a town."""
        if code is not None and code.get_secret_value() != "sesame":
            raise Conflict("The code is wrong.", hint="Say sesame.", town=town)
        return parcel

    @action(get="/parcels/{key:path}", on="parcel")
    def find(self, key: str, *, since: datetime | None = None, most: int = 3) -> dict[str, Any]:
        """Find parcels."""
        return {"key": key, "since": since.isoformat() if since else None, "most": most}

    @action(delete="/parcels/{town}", on="parcel")
    def burn(self, town: str, *, labels: list[str]) -> list[str]:
        """Burn parcels."""
        return [town, *labels]

    @action(post="/explosions")
    def explode(self) -> None:
        """Meet an error that nobody expects."""
        raise ZeroDivisionError("secret internals")


class World:
    def __init__(self, database: Database) -> None:
        self.audit = MemoryAudit()
        backend = Backend(
            services=Services([Post()]),
            database=database,
            policy=AllowAll(),
            audit=self.audit,
            resources=MemoryResources(),
            events=Outbox(),
            clock=SystemClock(),
            telemetry=Telemetry(),
        )
        app = create_app(backend, self, version="1", max_body_bytes=10_000)
        self.client = TestClient(app, base_url="https://falaj.test", raise_server_exceptions=False)
        self.door = RemoteDoor(self.client, lambda: "good", purpose="research")
        self.post = face(Post, self.door)

    revoked = False

    def at_hand(self, token: str) -> None:
        return None

    def still_good(self, token: str) -> None:
        if self.revoked:
            raise Unauthenticated("The session was revoked.", hint="Log in.")

    def verify(self, token: str, _presented: Presented = NOTHING) -> Caller:
        if token != "good":
            raise Unauthenticated("The token is wrong.", hint="Log in.")
        return Caller(Principal("user:amina", PrincipalKind.USER))


@pytest.fixture
def world(sqlite_database: Database) -> World:
    return World(sqlite_database)


def test_a_far_call_gives_the_same_typed_result(world: World) -> None:
    parcel = Parcel(weight=1.5, labels={"fragile": 1}, sent_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert world.post.send("Al Ain", parcel) == parcel
    (entry,) = world.audit.entries
    assert (entry.via, entry.resource, entry.principal) == ("http", "parcel:Al Ain", "user:amina")


def test_paths_may_hold_slashes_and_every_sign(world: World) -> None:
    since = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
    found = world.post.find("a/b c?d&e=ü", since=since, most=7)
    assert found == {"key": "a/b c?d&e=ü", "since": "2026-05-01T12:30:00+00:00", "most": 7}
    assert world.post.burn("x", labels=["1", "two"]) == ["x", "1", "two"]


def test_a_far_error_is_the_same_class_with_the_same_words(world: World) -> None:
    with pytest.raises(Conflict) as told:
        world.post.send("Dubai", Parcel(weight=1), code=SecretStr("open"))
    assert (told.value.message, told.value.hint) == ("The code is wrong.", "Say sesame.")
    assert told.value.details == {"town": "Dubai"}
    assert world.post.send("Dubai", Parcel(weight=1), code=SecretStr("sesame")).weight == 1


def test_wrong_arguments_are_refused_by_the_door_itself(world: World) -> None:
    with pytest.raises(InvalidInput, match=r"parcel\.weight"):
        world.door.call(next(Post.actions()), {"town": "x", "parcel": {"weight": "heavy"}})
    assert [entry.details for entry in world.audit.entries] == [
        {"purpose": "research", "error": "invalid-input"}
    ]


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Basic Zm9v"}, {"Authorization": "Bearer bad"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/parcels/x"), ("GET", "/api/parcels/x"), ("GET", "/metrics")],
)
def test_nothing_is_answered_without_a_good_token(
    world: World, header: dict[str, str], method: str, path: str
) -> None:
    answer = world.client.request(method, path, headers=header, content=b"not even JSON")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["code"] == "unauthenticated"
    assert world.audit.entries == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 422),
        (b"[]", 422),
        (b'{"parcel": {"weight": NaN}}', 422),
        (b"[" * 5_000, 422),
        (b'{"town": "y", "parcel": {"weight": 1}}', 422),
        (b" " * 10_001, 429),
        (b"\xff\xfe", 422),
    ],
)
def test_a_hostile_body_is_refused_in_words(world: World, body: bytes, status: int) -> None:
    answer = world.client.post(
        "/api/parcels/x", content=body, headers={"Authorization": "Bearer good"}
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"]


def test_a_doubled_query_argument_is_refused(world: World) -> None:
    answer = world.client.get(
        "/api/parcels/x?most=1&most=2", headers={"Authorization": "Bearer good"}
    )
    assert answer.status_code == 422


def test_an_unexpected_error_tells_nothing_of_the_inside(world: World) -> None:
    answer = world.client.post(
        "/api/explosions", headers={"Authorization": "Bearer good"}, content=b""
    )
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal"
    assert "secret internals" not in answer.text
    assert "ZeroDivision" not in answer.text


def test_unknown_routes_and_methods_are_problems_too(world: World) -> None:
    assert world.client.get("/api/nothing").json()["code"] == "not-found"
    assert world.client.put("/api/parcels/x").json()["code"] == "method-not-allowed"
    with pytest.raises(NotFound):
        raise _rebuilt(world.client.get("/api/nothing"))


def _rebuilt(answer: httpx.Response) -> Exception:
    from falaj.kernel.problems import rebuilt

    return rebuilt(answer.json())


def test_answers_carry_the_security_headers(world: World) -> None:
    answer = world.client.get("/healthz")
    assert answer.json() == {"status": "ok"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "max-age" in answer.headers["strict-transport-security"]


def test_metrics_are_for_those_with_a_token(world: World) -> None:
    world.post.burn("x", labels=[])
    answer = world.client.get("/metrics", headers={"Authorization": "Bearer good"})
    assert 'falaj_actions_total{action="post.burn",outcome="done"} 1.0' in answer.text


def test_the_openapi_document_describes_every_action(world: World) -> None:
    assert world.client.get("/api/openapi.json").status_code == 401
    token = {"Authorization": "Bearer good"}
    described = world.client.get("/api/openapi.json", headers=token).json()
    send = described["paths"]["/api/parcels/{town}"]["post"]
    body = send["requestBody"]["content"]["application/json"]["schema"]
    assert send["operationId"] == "post.send"
    assert send["x-permission"] == "post.send"
    assert sorted(body["properties"]) == ["code", "parcel"]
    assert body["required"] == ["parcel"]
    find = described["paths"]["/api/parcels/{key}"]["get"]
    assert [(item["name"], item["in"]) for item in find["parameters"]] == [
        ("key", "path"),
        ("since", "query"),
        ("most", "query"),
    ]
    assert "Parcel" in described["components"]["schemas"]


def test_a_server_that_is_away_is_unavailable() -> None:
    client = httpx.Client(base_url="https://127.0.0.1:1")
    post = face(Post, RemoteDoor(client, lambda: "good"))
    with pytest.raises(Unavailable, match="cannot be reached"):
        post.burn("x", labels=[])
    client.close()


def test_a_limit_is_told_as_such(world: World) -> None:
    with pytest.raises(LimitExceeded):
        world.post.send("x", Parcel(weight=1, labels={str(n): n for n in range(2_000)}))


def test_text_and_values_are_each_others_inverse() -> None:
    find, burn = list(Post.actions())[1:3]
    for act, name, value in [
        (find, "key", "3"),
        (find, "most", 3),
        (find, "since", "2026-01-01"),
        (burn, "labels", ["a", "b"]),
    ]:
        assert from_text(act, name, to_text(act, name, value)) == value
    assert from_text(find, "most", "many") == "many", "the door will say what is wrong with it"


def test_who_was_put_out_while_the_body_was_on_its_way_is_not_let_through(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    parcel = {"parcel": {"weight": 1}}
    headers = {"Authorization": "Bearer good"}
    world.revoked = True
    assert world.client.post("/api/parcels/Dubai", json=parcel, headers=headers).is_success
    monkeypatch.setattr("falaj.interfaces.http.SOON_SECONDS", -1.0)  # any body is a slow one
    answer = world.client.post("/api/parcels/Dubai", json=parcel, headers=headers)
    assert answer.status_code == 401
    assert len(world.audit.entries) == 1
