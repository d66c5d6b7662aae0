from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import insert
from sqlalchemy.engine import Connection

from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, Corrupt
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.blobs import SealedBlobs
from falaj.models.bundles import CARD, MODEL, STATISTICS, Bundles
from falaj.models.model import GatesNotPassed, Manifest, ModelVersion, Move, Signature, Stage
from falaj.models.quarantine import Quarantined
from falaj.models.reference import statistics_of
from falaj.models.tables import quarantine_rows
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.bundled import BundledModels, RegisteredModels
from falaj.serving.compiler import PlanCompiler
from falaj.serving.model import FieldType, RequestField, Variant
from falaj.testing.serving import make_release, onnx_classifier
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType
from falaj.training.targets import Target

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ENCODING = Encoding(
    features=(
        EncodedFeature(name="a"),
        EncodedFeature(name="b"),
        EncodedFeature(name="c", type=FeatureType.CATEGORY, categories=("x", "y")),
    )
)


@pytest.fixture
def bundles(tmp_path: Path, keyring: Any) -> Bundles:
    return Bundles(SealedBlobs(LocalBlobs(tmp_path / "blobs"), keyring), keyring)


def kept(bundles: Bundles) -> str:
    manifest = Manifest(
        model="delay",
        run="run_1",
        trainer="lightgbm",
        feature_service="s",
        feature_service_fingerprint="f",
        definitions={},
        training_set="ts_1",
        training_set_hash="h",
        snapshot=1,
        signature=Signature(encoding=ENCODING, label="y"),
        metrics={},
        created_at=NOW,
    )
    rows = np.abs(np.random.default_rng(0).normal(size=(100, 3))).astype(np.float32)
    rows[:, 2] = 1
    statistics = statistics_of(ENCODING, rows, np.full(100, 0.5))
    return bundles.keep(
        manifest,
        {
            MODEL: onnx_classifier(),
            CARD: b"card",
            STATISTICS: statistics.model_dump_json().encode(),
        },
    )


def test_a_bundle_of_the_registry_is_served_as_it_was_signed(bundles: Bundles) -> None:
    digest = kept(bundles)
    opened = BundledModels(bundles).open(digest)
    assert (opened.inputs, opened.categories) == (("a", "b", "c"), {"c": ("x", "y")})
    assert opened.facts == {"run": "run_1", "training_set": "ts_1"}
    fields = (
        RequestField(name="a", type=FieldType.FLOAT),
        RequestField(name="b", type=FieldType.FLOAT),
        RequestField(name="c", type=FieldType.STRING),
    )
    compiler = PlanCompiler(BundledModels(bundles), [OnnxRuntime(device="cpu")], None)
    variants = (Variant(model="delay", version=1, bundle=digest),)
    plan = compiler.compile(make_release(fields=fields, variants=variants))
    body = b'{"inputs":[{"a":1,"b":2,"c":"y"}]}'
    _, (scored,) = plan.score([plan.parse(body, caller="", started=0.0)])
    assert scored.vectors.matrix.tolist() == [[1, 2, 1]]


def test_a_tampered_blob_is_never_served(bundles: Bundles, tmp_path: Path) -> None:
    digest = kept(bundles)
    for blob in (path for path in (tmp_path / "blobs").rglob("*") if path.is_file()):
        data = bytearray(blob.read_bytes())
        data[len(data) // 2] ^= 1
        blob.write_bytes(bytes(data))
    with pytest.raises(Corrupt):
        PlanCompiler(BundledModels(bundles), [OnnxRuntime(device="cpu")], None).compile(
            make_release(bundle=digest)
        )


class Registry:
    """Two versions in staging and in production, and all others in development."""

    passed = True

    def report(self, connection: Any, model: str, version: int) -> Any:
        return SimpleNamespace(passed=self.passed, bundle=f"b{version}")

    def version(self, connection: Any, model: str, version: int) -> ModelVersion:
        stage = {1: Stage.STAGING, 2: Stage.PRODUCTION}.get(version, Stage.DEVELOPMENT)
        return ModelVersion(
            model=model, version=version, stage=stage, run="r", bundle=f"b{version}",
            training_set="t", feature_service="s", metrics={}, created_at=NOW, created_by="user:a",
        )  # fmt: skip

    def trusted(self, connection: Any, version: ModelVersion) -> Any:
        signature = SimpleNamespace(target=Target(task="classes", classes=("early", "late")))
        return SimpleNamespace(manifest=SimpleNamespace(signature=signature))

    def champion(self, connection: Any, model: str) -> ModelVersion | None:
        return self.version(connection, model, 2) if model == "delay" else None

    def history(self, connection: Any, model: str) -> list[Move]:
        return [
            Move(
                model=model, version=2, from_stage=Stage.STAGING, to_stage=Stage.PRODUCTION, at=NOW,
                asked_by="user:a", approved_by="user:b", reason="", change="change_7",
                gate_report=None,
            )
        ]  # fmt: skip


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
def registered(registry: Registry) -> RegisteredModels:
    return RegisteredModels(registry)  # type: ignore[arg-type]


@pytest.fixture
def connection(sqlite_database: Database) -> Iterator[Connection]:
    with sqlite_database.transaction() as opened:
        yield opened


def test_only_what_is_in_production_is_approved_and_its_change_is_named(
    registered: RegisteredModels, connection: Connection
) -> None:
    found = registered.approved(connection, "delay", None)
    assert (found.version, found.bundle, found.change) == (2, "b2", "change_7")
    assert found.variant().label == "delay/2"
    assert found.outputs == ("early", "late")
    assert registered.approved(connection, "delay", 2) == found
    with pytest.raises(Conflict, match="staging"):
        registered.approved(connection, "delay", 1)
    with pytest.raises(Conflict, match="No version"):
        registered.approved(connection, "other", None)


def test_a_version_in_staging_may_be_tried_while_its_latest_gates_are_passed(
    registered: RegisteredModels, registry: Registry, connection: Connection
) -> None:
    found = registered.challenging(connection, "delay", 1)
    assert (found.version, found.bundle) == (1, "b1")
    registry.passed = False
    with pytest.raises(GatesNotPassed, match="delay/1"):
        registered.challenging(connection, "delay", 1)
    registry.passed = True
    with pytest.raises(Conflict, match="development"):
        registered.challenging(connection, "delay", 3)


def test_a_version_in_quarantine_is_served_in_no_way(
    registered: RegisteredModels, connection: Connection
) -> None:
    for version in (1, 2):
        values = {"at": NOW, "by": "user:a", "reason": "it harmed"}
        connection.execute(insert(quarantine_rows).values(model="delay", version=version, **values))
    with pytest.raises(Quarantined, match="it harmed"):
        registered.approved(connection, "delay", None)
    with pytest.raises(Quarantined):
        registered.challenging(connection, "delay", 1)
    with pytest.raises(Quarantined):
        registered.may_return(connection, "delay", 2)
