from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.model import (
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandFeatures,
)
from falaj.features.store import FeatureStore
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import SetClock, microseconds
from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import BadRequest, FeaturesMissing
from falaj.serving.model import FeatureStatus, FieldType, MissingPolicy, RequestField
from falaj.serving.plan import RequestPlan
from falaj.serving.predictions import Parsed
from falaj.serving.storedfeatures import StoredFeatures
from falaj.testing.calls import opened_call
from falaj.testing.features import FixedSecrets, GivenDefinitions, MemoryLake
from falaj.testing.serving import MemoryBundles, make_release, servable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
COLUMNS = ("balance__amount", "balance__tier", "ratio__per_asked")
DEFINITIONS = (
    card := Entity(name="card", keys={"card": "string"}),
    FeatureView(
        name="balance",
        entity=card,
        source="accounts",
        event_time="at",
        ttl=timedelta(hours=1),
        features=[Feature("amount", "float64"), Feature("tier", "string")],
    ),
    OnDemandFeatures(
        name="ratio",
        inputs={"amount": "balance:amount", "asked": "request:asked"},
        outputs=[Feature("per_asked", "float64")],
        source="def ratio(amount, asked):\n    return amount / asked\n",
    ),
    FeatureService(
        name="fraud",
        features=["balance:amount", "balance:tier", "ratio:per_asked"],
        on_demand=["ratio"],
        request_fields={"asked": "float64"},
    ),
)
KINDS = {kind.kind: kind for kind in (Entity, FeatureView, OnDemandFeatures, FeatureService)}


class World:
    def __init__(self, online: LmdbOnlineStore, database: Database) -> None:
        secrets = FixedSecrets()
        given = GivenDefinitions(*DEFINITIONS)
        self.store = FeatureStore(given, MemoryLake(), online, secrets, SetClock(NOW))  # type: ignore[arg-type]
        catalog = Catalog()
        self.definitions = Definitions(catalog, KINDS, {})
        with opened_call(database) as call:
            catalog.record(call, AssetRef("table", "accounts"))
            self.definitions.apply(call, list(DEFINITIONS))
        self.features = StoredFeatures(online, secrets, self.definitions)
        with database.reading() as connection:
            document, self.fields = self.features.describe(connection, "fraud")
        self.document = json.loads(json.dumps(document))  # as the routing table keeps it

    def push(self, *rows: tuple[str, float | None, str]) -> None:
        cards, amounts, tiers = zip(*rows, strict=True)
        stamp = pa.array([NOW] * len(rows), pa.timestamp("us", "UTC"))
        table = {
            "card": cards,
            "at": stamp,
            "amount": pa.array(amounts, pa.float64()),
            "tier": tiers,
        }
        self.store.push("accounts", pa.table(table))

    def plan(self, **values: object) -> RequestPlan:
        model = servable(0, COLUMNS, categories={"balance__tier": ("low", "high")})
        bundles = MemoryBundles({"sha256:a": model})
        compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], self.features)
        return compiler.compile(
            make_release(
                fields=self.fields, feature_service="fraud", features=self.document, **values
            )
        )


@pytest.fixture
def world(tmp_path: Path, sqlite_database: Database) -> Iterator[World]:
    online = LmdbOnlineStore(tmp_path / "online", map_bytes=1 << 22)
    yield World(online, sqlite_database)
    online.close()


def asked(plan: RequestPlan, *cards: str, at: datetime = NOW) -> Parsed:
    body = {"inputs": [{"card": card, "asked": 2.0} for card in cards], "at": at.isoformat()}
    return plan.parse(json.dumps(body).encode(), caller="user:a", started=0.0, explain=True)


def test_the_request_fields_of_a_release_are_what_its_service_asks_for(world: World) -> None:
    assert [(field.name, field.type) for field in world.fields] == [
        ("asked", FieldType.FLOAT), ("card", FieldType.STRING),
    ]  # fmt: skip


def test_the_model_gets_the_stores_vector_in_its_own_order_and_encoding(world: World) -> None:
    world.push(("a", 10.0, "high"), ("b", None, "odd"))
    plan = world.plan()
    answers, (scored,) = plan.score([asked(plan, "a", "b", "never")])
    assert scored.variant.columns == COLUMNS
    expected = np.array([[10, 1, 5], [np.nan] * 3, [np.nan] * 3], dtype=np.float32)
    np.testing.assert_array_equal(scored.vectors.matrix, expected)
    assert scored.vectors.statuses is not None
    assert scored.vectors.statuses.tolist() == [
        [FeatureStatus.PRESENT] * 3,
        [FeatureStatus.NULL, FeatureStatus.PRESENT, FeatureStatus.NULL],
        [FeatureStatus.MISSING, FeatureStatus.MISSING, FeatureStatus.NULL],
    ]
    at = microseconds(NOW)
    assert scored.vectors.times is not None
    assert scored.vectors.times.tolist() == [[at, at, 0], [at, at, 0], [0, 0, 0]]
    (answer,) = answers
    assert isinstance(answer, bytes)
    shown = json.loads(answer)["predictions"][0]["features"]
    assert shown["balance__amount"] == {
        "value": 10.0, "status": "present", "event_time": "2026-03-01T12:00:00+00:00",
    }  # fmt: skip


def test_an_expired_value_is_missing_as_of_the_asked_instant(world: World) -> None:
    world.push(("a", 10.0, "high"))
    plan = world.plan()
    _, (scored,) = plan.score([asked(plan, "a", at=NOW + timedelta(hours=2))])
    assert scored.vectors.statuses is not None
    assert scored.vectors.statuses[0, 0] == FeatureStatus.EXPIRED
    assert np.isnan(scored.vectors.matrix[0, 0])


def test_an_endpoint_that_refuses_to_guess_names_what_is_missing(world: World) -> None:
    world.push(("a", 10.0, "high"))
    plan = world.plan(missing=MissingPolicy.REFUSE)
    answers, parts = plan.score([asked(plan, "never"), asked(plan, "a"), asked(plan, "a", "gone")])
    assert isinstance(answers[1], bytes)
    for answer in (answers[0], answers[2]):
        assert isinstance(answer, FeaturesMissing)
        assert "balance__amount" in answer.message
    assert [scored.n_rows for scored in parts] == [1]
    assert parts[0].rows[0].card == "a"
    _, none = plan.score([asked(plan, "never")])
    assert none == []


def test_a_missing_key_or_a_wrong_type_is_a_clear_refusal(world: World) -> None:
    plan = world.plan()
    with pytest.raises(BadRequest, match="missing required field `card`"):
        plan.parse(b'{"inputs":[{"asked":1}]}', caller="", started=0.0)
    with pytest.raises(BadRequest, match="got `int`"):
        plan.parse(b'{"inputs":[{"asked":1,"card":7}]}', caller="", started=0.0)
    parsed = plan.parse(b'{"inputs":[{"asked":null,"card":null}]}', caller="", started=0.0)
    _, (scored,) = plan.score([parsed])
    assert np.isnan(scored.vectors.matrix).all()


def test_a_worker_without_a_store_cannot_load_a_release_that_needs_one(world: World) -> None:
    compiler = PlanCompiler(
        MemoryBundles({"sha256:a": servable(0, COLUMNS)}), [OnnxRuntime(device="cpu")], None
    )
    with pytest.raises(InvalidInput, match="no online store"):
        compiler.compile(make_release(features=world.document, feature_service="fraud"))


def test_fields_beyond_the_service_may_be_model_inputs(world: World) -> None:
    world.push(("a", 10.0, "high"))
    world.fields = (*world.fields, RequestField(name="extra", type=FieldType.INT, required=False))
    names = ("extra", *COLUMNS)
    model = servable(0, names, categories={"balance__tier": ("low", "high")})
    compiler = PlanCompiler(
        MemoryBundles({"sha256:a": model}), [OnnxRuntime(device="cpu")], world.features
    )
    plan = compiler.compile(
        make_release(fields=world.fields, feature_service="fraud", features=world.document)
    )
    _, (scored,) = plan.score([asked(plan, "a")])
    assert scored.vectors.statuses is not None
    assert scored.vectors.statuses[0].tolist() == [FeatureStatus.NULL, 0, 0, 0]


def test_a_service_of_request_fields_alone_reads_no_store(
    world: World, sqlite_database: Database
) -> None:
    service = FeatureService(name="bare", request_fields={"a": "float64", "b": "float64"})
    with opened_call(sqlite_database) as call:
        world.definitions.apply(call, [service])
    with sqlite_database.reading() as connection:
        document, fields = world.features.describe(connection, "bare")
    bundles = MemoryBundles({"sha256:a": servable(0, ("b", "a"))})
    compiler = PlanCompiler(bundles, [OnnxRuntime(device="cpu")], world.features)
    plan = compiler.compile(
        make_release(
            fields=fields, feature_service="bare", features=json.loads(json.dumps(document))
        )
    )
    assert not plan.variants[0].reads_features
    request = plan.parse(b'{"inputs":[{"a":1.5,"b":null}]}', caller="user:a", started=0.0)
    _, (part,) = plan.score([request])
    np.testing.assert_array_equal(part.vectors.matrix, [[np.nan, 1.5]])
