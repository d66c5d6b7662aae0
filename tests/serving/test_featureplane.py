from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from falaj.catalog.model import Classification
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import Entity, Feature, FeatureService, FeatureView
from falaj.features.store import FeatureStore
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import LimitExceeded
from falaj.kernel.ports import Resource
from falaj.serving.compiler import PlanCompiler
from falaj.serving.featureplane import FEAST_PATH, FeatureReads, Judge, StreamEvents
from falaj.serving.featureservices import FeatureServices
from falaj.serving.inference import InferenceApp
from falaj.serving.meters import Meters
from falaj.serving.plans import Keeper, Plans
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.pushlog import TABLE as PUSHES
from falaj.serving.pushlog import PushLog
from falaj.serving.readlog import TABLE, ReadLog
from falaj.serving.routing import RoutingTable
from falaj.testing.fakes import RulePolicy
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.serving import MemorySpools, NamedTokens, fronted

NOW = datetime.now(UTC)
ARROW = "application/vnd.apache.arrow.stream"


def definitions(*, extra: bool = False) -> list[Any]:
    card = Entity(name="card", keys={"card": "string"})
    features = [Feature("amount", "float64"), Feature("holder", "string")]
    if extra:
        features.append(Feature("limit", "float64"))
    balance = FeatureView(
        name="balance", entity=card, source="accounts", event_time="at",
        ttl=timedelta(hours=1), features=features,
    )  # fmt: skip
    research = FeatureView(
        name="research", entity=card, source="studies", event_time="at", purposes=("research",),
        features=[Feature("score", "float64")],
    )  # fmt: skip
    return [
        card, balance, research,
        FeatureService(name="fraud", features=[balance]),
        FeatureService(name="study", features=[research]),
    ]  # fmt: skip


class State:
    """Stands for the metadata database: definitions that can be changed."""

    def __init__(self) -> None:
        self.given = GivenDefinitions(*definitions())
        self.version = 1

    def apply(self, *found: Any) -> None:
        self.given.found = {(item.kind, item.name): item for item in found}
        self.version += 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield None

    def load(self, _connection: Any, ref: Any) -> Resource:
        there = (ref.kind, ref.key) in self.given.found or ref.kind == "table"
        return Resource(ref, {"owner": "user:amina"}, exists=there)


@dataclass
class World:
    client: httpx.Client
    store: FeatureStore
    state: State
    spools: MemorySpools
    tokens: NamedTokens
    refused: set[str] = field(default_factory=set)
    planes: list[Any] = field(default_factory=list)

    def ask(self, path: str = "/v1/features/fraud/read", body: Any = None, **more: Any) -> Any:
        headers = {"authorization": "Bearer user:amina", **more.pop("headers", {})}
        given = {"content": body} if isinstance(body, bytes) else {"json": body}
        return self.client.post(path, headers=headers, **given, **more)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    state, spools, tokens = State(), MemorySpools(), NamedTokens()
    refused: set[str] = set()
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    store = FeatureStore(state.given, MemoryLake(), online, FixedSecrets(), SystemClock())
    policy = RulePolicy(
        lambda caller, action, _r, _s: f"{caller.principal.id} {action}" not in refused
    )
    table = RoutingTable(tmp_path / "routing")
    plans = Plans(table, PlanCompiler(None, [], None))  # type: ignore[arg-type]
    app = InferenceApp(
        plans=plans, keeper=Keeper(plans, table, worker="w0"), verifier=tokens, policy=policy,
        log=PredictionLog(spools), meters=Meters(tmp_path / "meters", "w0"),
    )  # fmt: skip
    aside = ThreadPoolExecutor(2)
    judge = Judge(policy, SystemClock())
    services = FeatureServices(
        lambda: store,
        state,
        state,
        lambda _: state.version,
        aside,  # type: ignore[arg-type]
    )
    log = ReadLog(spools, flush_seconds=0.05)
    planes: list[Any] = [
        FeatureReads(services, app.admission, judge, log, aside),
        FeatureReads(services, app.admission, judge, log, aside, prefix=FEAST_PATH),
        StreamEvents(
            lambda: store,
            lambda ref: state.load(None, ref),
            app.admission,
            judge,
            PushLog(spools, flush_seconds=0.05),
            aside,
        ),
    ]
    app.add(planes)
    rows = {"card": ["a", "b"], "at": [NOW - timedelta(minutes=5), NOW - timedelta(hours=2)],
            "amount": [12.5, 7.0], "holder": ["Amina", None]}  # fmt: skip
    store.push("accounts", pa.table(rows))
    with fronted(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield World(client, store, state, spools, tokens, refused, planes)
    table.close()
    online.close()
    aside.shutdown()


def test_rows_are_answered_as_rows(world: World) -> None:
    answer = world.ask(body={"rows": [{"card": "a"}, {"card": "z"}]})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "rows": [
            {"balance__amount": 12.5, "balance__holder": "Amina"},
            {"balance__amount": None, "balance__holder": None},
        ]
    }


def test_statuses_and_event_times_are_told_when_asked(world: World) -> None:
    answer = world.ask(
        body={"rows": [{"card": one} for one in "abz"]}, params={"explain": "status"}
    ).json()
    told = [row["statuses"]["balance__amount"] for row in answer["rows"]]
    assert told == ["present", "expired", "missing"]
    times = answer["rows"][0]["event_times"]
    assert datetime.fromisoformat(times["balance"]) == NOW - timedelta(minutes=5)


def test_columns_are_answered_as_columns(world: World) -> None:
    answer = world.ask(
        body={"columns": {"card": ["a", None, "b"]}}, params={"explain": "status"}
    ).json()
    assert answer["columns"]["balance__amount"] == [12.5, None, None]
    assert answer["statuses"]["balance__amount"] == ["present", "missing", "expired"]
    assert len(answer["event_times"]["balance"]) == 3


def test_many_rows_are_answered_in_order(world: World) -> None:
    cards = ["a", "z"] * 1000
    answer = world.ask(body={"columns": {"card": cards}}).json()
    assert answer["columns"]["balance__amount"] == [12.5, None] * 1000


def test_arrow_is_answered_with_arrow(world: World) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"card": ["a", "z"]})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    answer = world.ask(body=bytes(sink.getvalue()), headers={"content-type": ARROW})
    assert answer.headers["content-type"] == ARROW
    with pa.ipc.open_stream(answer.content) as reader:
        found = reader.read_all()
    assert found.to_pydict() == {
        "balance__amount": [12.5, None],
        "balance__holder": ["Amina", None],
    }
    from_json = world.ask(body={"rows": [{"card": "a"}]}, headers={"accept": ARROW})
    assert from_json.headers["content-type"] == ARROW


def test_feasts_shape_is_answered_on_feasts_path(world: World) -> None:
    body = {"feature_service": "fraud", "entities": {"card": ["a", "b", "z"]}}
    answer = world.ask("/get-online-features", body).json()
    assert answer["metadata"]["feature_names"] == ["card", "amount", "holder"]
    full = world.ask("/get-online-features", {**body, "full_feature_names": True}).json()
    assert full["metadata"]["feature_names"] == ["card", "balance__amount", "balance__holder"]
    assert full["results"] == answer["results"]
    amount = answer["results"][1]
    assert amount["values"] == [12.5, None, None]
    assert amount["statuses"] == ["PRESENT", "OUTSIDE_MAX_AGE", "NOT_FOUND"]
    refused = world.ask("/get-online-features", {"features": ["a:b"], "entities": {"card": ["a"]}})
    assert (refused.status_code, refused.json()["code"]) == (400, "bad-request")


def test_an_earlier_instant_can_be_asked_for(world: World) -> None:
    before = (NOW - timedelta(minutes=6)).isoformat()
    answer = world.ask(body={"rows": [{"card": "a"}], "at": before}).json()
    assert answer["rows"][0]["balance__amount"] is None


def test_a_changed_definition_answers_within_a_second_and_no_request_fails(world: World) -> None:
    assert "balance__limit" not in world.ask(body={"rows": [{"card": "a"}]}).json()["rows"][0]
    world.state.apply(*definitions(extra=True))
    until = time.monotonic() + 1.5
    while True:
        answer = world.ask(body={"rows": [{"card": "a"}]})
        assert answer.status_code == 200
        if "balance__limit" in answer.json()["rows"][0]:
            break
        assert time.monotonic() < until
        time.sleep(0.02)


def test_every_read_is_recorded_and_one_in_a_hundred_with_what_it_gave(world: World) -> None:
    for _ in range(5):
        world.ask(body={"rows": [{"card": "a"}] * 3}, headers={"falaj-purpose": "audit"})
    until = time.monotonic() + 5
    while len(rows := world.spools.rows(TABLE)) < 5:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert {(row["caller"], row["service"], row["purpose"], row["n_rows"]) for row in rows} == {
        ("user:amina", "fraud", "audit", 3)
    }
    sampled = [row for row in rows if row["asked"]]
    assert len(sampled) == 1
    assert json.loads(sampled[0]["asked"]) == {"card": "a"}
    assert json.loads(sampled[0]["answered"])["balance__amount"] == 12.5


def test_a_purpose_that_no_view_permits_is_refused(world: World) -> None:
    body = {"rows": [{"card": "a"}]}
    refused = world.ask("/v1/features/study/read", body)
    assert (refused.status_code, refused.json()["code"]) == (403, "purpose-refused")
    asked = world.ask("/v1/features/study/read", body, headers={"falaj-purpose": "research"})
    assert asked.status_code == 200


def test_nobody_reads_without_a_token_or_beyond_a_permission(world: World) -> None:
    body = {"rows": [{"card": "a"}]}
    assert world.client.post("/v1/features/fraud/read", json=body).status_code == 401
    assert world.client.post("/get-online-features", json=body).status_code == 400
    world.refused |= {"user:eve features.read", "user:eve assets.get"}
    eve = {"authorization": "Bearer user:eve"}
    there = world.ask(body=body, headers=eve)
    missing = world.ask("/v1/features/nothing/read", body, headers=eve)
    assert (there.status_code, missing.status_code) == (404, 404)
    assert there.json()["detail"].replace("fraud", "X") == missing.json()["detail"].replace(
        "nothing", "X"
    )
    world.tokens.revoked.add("user:amina")
    time.sleep(1.05)
    assert world.ask(body=body).status_code == 401


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"null", 400),
        (b"{}", 400),
        (b'{"rows": [], "columns": {}}', 400),
        (b'{"rows": [{"card": 1}]}', 422),
        (b'{"rows": [{"card": NaN}]}', 400),
        (b'{"rows": [{}]}', 422),
        (b'{"rows": [{"card": "' + b"x" * 600 + b'"}]}', 429),
        (b'{"columns": {"card": ["a"], "other": []}}', 400),
        (b'{"rows": ' + b"[" * 100_000, 400),
        (b'{"rows": [{"card": "\xff"}]}', 400),
        (b'{"columns": {"card": [' + b'"a",' * 10_000 + b'"a"]}}', 413),
        (b'{"rows": [{"card": "a"}], "at": "2026-01-01T00:00:00"}', 400),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_a_hostile_read_is_told_what_is_wrong(world: World, body: bytes, status: int) -> None:
    answer = world.ask(body=body)
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.status_code == status, answer.text
    assert answer.json()["hint"]
    assert world.ask(body={"rows": [{"card": "a"}]}).status_code == 200


def test_other_kinds_and_methods_are_refused(world: World) -> None:
    headers = {"authorization": "Bearer user:amina"}
    assert world.client.get("/v1/features/fraud/read", headers=headers).status_code == 405
    assert world.ask("/v1/features/fraud/other", {"rows": []}).status_code == 404
    pickled = world.ask(body=b"\x80\x04.", headers={"content-type": "application/x-pickle"})
    assert pickled.status_code == 415
    broken = world.ask(body=b"no arrow", headers={"content-type": ARROW})
    assert broken.status_code == 400


@pytest.mark.parametrize("media", ["application/json", "application/x-ndjson", ARROW])
def test_pushed_events_are_readable_when_they_are_acknowledged(world: World, media: str) -> None:
    event = {"card": "n", "at": NOW.isoformat(), "amount": 3.5, "holder": "N"}
    body = json.dumps({"rows": [event]}).encode()
    if media == "application/x-ndjson":
        body = (json.dumps(event) + "\n").encode()
    if media == ARROW:
        table = pa.table({**{k: [v] for k, v in event.items()}, "at": [NOW]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = bytes(sink.getvalue())
    pushed = world.ask("/v1/streams/accounts/events", body, headers={"content-type": media})
    assert pushed.status_code == 200, pushed.text
    assert pushed.json()["n_events"] == 1
    read = world.ask(body={"rows": [{"card": "n"}]}).json()
    assert read["rows"][0]["balance__amount"] == 3.5


def test_a_push_with_the_same_key_counts_once(world: World) -> None:
    body = {"rows": [{"card": "n", "at": NOW.isoformat(), "amount": 1.0, "holder": None}]}
    headers = {"idempotency-key": "one"}
    path = "/v1/streams/accounts/events"
    assert world.ask(path, body, headers=headers).json()["repeated"] is False
    assert world.ask(path, body, headers=headers).json()["repeated"] is True


def test_a_wrong_event_refuses_the_whole_push(world: World) -> None:
    path = "/v1/streams/accounts/events"
    good = {"card": "n", "at": NOW.isoformat(), "amount": 1.0, "holder": None}
    for bad in ({**good, "amount": "x"}, {**good, "at": "2026-01-01T00:00:00"}):
        answer = world.ask(path, {"rows": [good, bad]})
        assert answer.status_code == 422, answer.text
    assert world.ask(body={"rows": [{"card": "n"}]}).json()["rows"][0]["balance__amount"] is None
    world.refused.add("user:amina features.push")
    time.sleep(1.05)
    assert world.ask(path, {"rows": [good]}).status_code == 403


def stream_of(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize("path", ["/v1/features/fraud/read", "/v1/streams/accounts/events"])
def test_an_arrow_stream_that_is_a_trap_is_not_opened(world: World, path: str) -> None:
    bomb = pa.table({"card": ["a" * 50_000_000]})
    twins = pa.table([["a"], ["b"]], names=["card", "card"])
    words = pa.table({"card": pa.array(["a" * 10_000]).dictionary_encode()})
    plain = stream_of(pa.table({"card": ["abcdefgh"] * 4}))
    offsets = b"".join(n.to_bytes(4, "little") for n in (0, 8, 16, 24, 32))
    far = b"".join(n.to_bytes(4, "little") for n in (0, 8, 16, 24, 2**31 - 1))
    assert offsets in plain
    for body in (
        stream_of(bomb, compression="zstd"),
        stream_of(words, compression="lz4"),
        stream_of(twins),
        plain.replace(offsets, far),
        plain[:-40],
        plain[: len(plain) // 2],
        b"\xff" * 4096,
        b"",
    ):
        answer = world.ask(path, body, headers={"content-type": ARROW})
        assert answer.status_code == 400, answer.text
        assert answer.json()["code"] == "bad-request"
    many = pa.table({"card": ["a"] * 10_001})
    if "features" in path:
        told = world.ask(path, stream_of(many), headers={"content-type": ARROW})
        assert told.status_code == 413
    assert world.ask(body={"rows": [{"card": "a"}]}).status_code == 200


def test_words_in_a_dictionary_are_read_as_the_words(world: World) -> None:
    table = pa.table({"card": pa.array(["z", "a", "z"]).dictionary_encode()})
    answer = world.ask(body=stream_of(table), headers={"content-type": ARROW})
    with pa.ipc.open_stream(answer.content) as reader:
        assert reader.read_all()["balance__amount"].to_pylist() == [None, 12.5, None]


def test_a_large_body_is_not_decoded_for_strangers(world: World) -> None:
    body = b'{"rows": [' + b'{"card": "a"},' * 9_999 + b'{"card": "a"}]}'
    stranger = world.ask(body=body + b"no json", headers={"authorization": "Bearer nobody"})
    assert (stranger.status_code, stranger.json()["code"]) == (401, "unauthenticated")
    feast = world.ask(
        "/get-online-features", b"[" * 200_000, headers={"authorization": "Bearer nobody"}
    )
    assert feast.status_code == 401
    assert len(world.ask(body=body).json()["rows"]) == 10_000
    assert world.ask("/get-online-features", b"[" * 200_000).status_code == 400
    world.refused |= {"user:eve features.read"}
    assert world.ask(body=body, headers={"authorization": "Bearer user:eve"}).status_code == 403


def test_of_a_name_that_stands_twice_in_an_object_the_last_counts(world: World) -> None:
    answer = world.ask(body=b'{"rows": [{"card": "z", "card": "a"}]}')
    assert answer.json()["rows"][0]["balance__amount"] == 12.5


def test_values_of_people_do_not_enter_the_record_of_reads(world: World) -> None:
    card, balance, *_ = definitions()
    private = balance.model_copy(update={"classification": Classification.PERSONAL})
    world.state.apply(card, private, FeatureService(name="fraud", features=[private]))
    assert world.ask(body={"rows": [{"card": "a"}]}).status_code == 200
    until = time.monotonic() + 5
    while not (rows := world.spools.rows(TABLE)):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert [(row["n_rows"], row["asked"], row["answered"]) for row in rows] == [(1, None, None)]


def test_a_service_whose_purposes_change_is_asked_for_anew(world: World) -> None:
    body = {"rows": [{"card": "a"}]}
    assert world.ask(body=body).status_code == 200
    card, balance, *_ = definitions()
    limited = balance.model_copy(update={"purposes": ("audit",)})
    world.state.apply(card, limited, FeatureService(name="fraud", features=[limited]))
    until = time.monotonic() + 1.0
    while world.ask(body=body).status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert world.ask(body=body).json()["code"] == "purpose-refused"
    assert world.ask(body=body, headers={"falaj-purpose": "audit"}).status_code == 200


def test_a_full_log_tells_pushers_to_come_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise LimitExceeded("The event log is full.", hint="Push again later.")

    monkeypatch.setattr(world.store, "push_records", full)
    event = {"card": "n", "at": NOW.isoformat(), "amount": 1.0, "holder": None}
    answer = world.ask("/v1/streams/accounts/events", {"rows": [event]})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")


@pytest.mark.parametrize(
    ("body", "media"),
    [
        (b'{"rows": [{"card": "n", "amount": NaN}]}', "application/json"),
        (b'{"rows": ' + b"[" * 100_000, "application/json"),
        (b'{"events": []}', "application/json"),
        (b'{"card": "n"}\n{"card"', "application/x-ndjson"),
        (b"[1]\n", "application/x-ndjson"),
    ],
    ids=["nan", "deep", "other", "cut", "list"],
)
def test_a_hostile_push_changes_nothing(world: World, body: bytes, media: str) -> None:
    path = "/v1/streams/accounts/events"
    answer = world.ask(path, body, headers={"content-type": media})
    assert answer.status_code == 400, answer.text
    assert world.ask(path, body, params={"ack": "maybe"}).status_code == 400
    assert world.ask(body={"rows": [{"card": "n"}]}).json()["rows"][0]["balance__amount"] is None


def test_a_store_behind_a_network_is_read_on_threads(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (reads, *_) = world.planes
    assert isinstance(reads, FeatureReads)
    seen: list[str] = []
    true = world.store.online.read

    def noted(keys: Any) -> Any:
        seen.append(threading.current_thread().name)
        return true(keys)

    monkeypatch.setattr(world.store.online, "read", noted)
    for local in (True, False):
        monkeypatch.setattr(reads, "_local", local)
        assert world.ask(body={"rows": [{"card": "a"}]}).status_code == 200
        seen.clear()
        for _ in range(3):
            assert world.ask(body={"rows": [{"card": "a"}]}).json()["rows"]
        assert {name.startswith("ThreadPoolExecutor") for name in seen} == {not local}


def test_every_push_that_was_taken_is_recorded_with_who_pushed(world: World) -> None:
    event = {"card": "n", "at": NOW.isoformat(), "amount": 1.0, "holder": None}
    path = "/v1/streams/accounts/events"
    for _ in range(2):
        assert world.ask(path, {"rows": [event]}, headers={"idempotency-key": "k"}).is_success
    assert world.ask(path, {"rows": [{**event, "amount": "x"}]}).status_code == 422
    until = time.monotonic() + 5
    while len(rows := world.spools.rows(PUSHES)) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    told = [(row["caller"], row["stream"], row["key"], row["ack"], row["repeated"]) for row in rows]
    assert told == [
        ("user:amina", "accounts", "k", "online", False),
        ("user:amina", "accounts", "k", "online", True),
    ]
