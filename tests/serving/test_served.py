"""Requests that were served are found in the logs, with their fields, and computed again."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import insert

from falaj import declare as of
from falaj.features.answers import ParitySource
from falaj.features.parity import Parity
from falaj.features.parity_checks import ParityChecks
from falaj.features.ports import Merge, Write
from falaj.kernel.clock import SetClock, microseconds
from falaj.kernel.settings import Settings
from falaj.serving import tables
from falaj.serving.model import Release, ServableModel
from falaj.serving.served import READS, LoggedRequests
from falaj.wiring import setup
from falaj.wiring.assembly import assemble

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def per_amount(spent, amount):
    return spent / amount


def declared():
    view = of.FeatureView(
        name="spent", entity="card", source="payments", event_time="at",
        aggregates=(of.Aggregate("total", "sum", "paid", window=timedelta(hours=1)),),
    )  # fmt: skip
    computed = of.OnDemandFeatures.of(
        per_amount, inputs={"spent": "spent:total", "amount": "request:amount"},
        outputs=[of.Feature("share", "float64")],
    )  # fmt: skip
    return [
        of.Entity(name="card", keys={"card": "string"}), view, computed,
        of.FeatureService(name="fraud", features=("spent", computed),
                          request_fields={"amount": "float64", "seen": "timestamp"}),
    ]  # fmt: skip


def instants(*times):
    return pa.array(times, pa.timestamp("us", "UTC"))


class Inputs:
    """Bundles whose inputs are given."""

    def open(self, digest):
        inputs = ("amount", "spent__total", "per_amount__share", "other")
        return ServableModel(format="onnx", model=b"", inputs=inputs, categories={}, facts={})


@pytest.fixture
def premises(tmp_path):
    settings = Settings.read(tmp_path)
    clock = SetClock(NOW - timedelta(hours=2))
    setup.initialise(settings, owner="amina")
    made = assemble(settings, clock=clock)
    with made.calls.opened("test.prepare", "user:amina") as call:
        made.definitions.apply(call, [one.document() for one in declared()])
    clock.move(timedelta(hours=2))
    rows = {"card": ["a", "b"], "at": instants(NOW - MINUTE, NOW - 2 * MINUTE), "paid": [3.0, 5.0]}
    made.features.push("payments", pa.table(rows))
    made.features.settle("fraud")
    yield made
    made.close()


@pytest.fixture
def checks(premises):
    logged = LoggedRequests(
        premises.lake, premises.database, premises.definitions, Inputs(), premises.clock
    )
    return ParityChecks(Parity(premises.features, logged), premises.alerts)


ASKED = [
    {"card": card, "amount": amount, "seen": "2026-03-01T10:00:00Z"}
    for card, amount in (("a", 2.0), ("b", 4.0), ("nobody", 1.0), ("a", 0.0))
]


def record_reads(premises, **changed):
    """Online reads as the workers record them."""
    reader = premises.features.reader(premises.features.plan("fraud"))
    at = NOW + MINUTE
    answers = [
        dict(zip(reader.names, reader.read([row], microseconds(at)).values[0], strict=True))
        for row in ASKED
    ]
    asked = [json.dumps(row) for row in ASKED]
    told = [json.dumps({**row, **changed}).replace("Infinity", "null") for row in answers]
    premises.lake.append(
        READS,
        pa.table(
            {
                "read_at": instants(*[at] * len(ASKED)),
                "service": ["fraud"] * len(ASKED),
                "asked": pa.array(asked),
                "answered": pa.array(told),
            }
        ),
    )
    premises.clock.move(2 * MINUTE)


def test_reads_are_computed_again_with_their_request_fields(premises, checks):
    record_reads(premises)
    report = checks.measured("fraud", 100)
    assert (report.source, report.n_rows, report.n_mismatches) == (ParitySource.SERVED, 4, 0)
    assert report.n_values == 4 * len(premises.features.plan("fraud").outputs)


def test_a_wrong_answer_is_counted_kept_and_alerted(premises, checks):
    record_reads(premises, per_amount__share=7.5)
    assert checks.all_checked(premises.calls, seed=1) == 1
    with premises.calls.opened("test.look", "user:amina") as call:
        from falaj.features import parity_records

        (kept,) = parity_records.history(call.connection, "fraud", limit=10)
        (alert,) = premises.alerts.listed(call.connection)
    assert kept.report.by_feature == {"per_amount__share": 4}
    assert kept.by == "system:parity"
    assert alert.name == "features.parity"
    assert "4 of" in alert.message
    exposition = premises.backend.telemetry.exposition().decode()
    assert 'falaj_feature_parity_mismatches{service="fraud",source="served"} 4.0' in exposition


def test_what_reached_the_lake_after_a_read_is_no_mismatch(premises, checks):
    record_reads(premises)
    late = pa.table({"card": ["a"], "at": instants(NOW - 3 * MINUTE), "paid": [100.0]})
    kept = premises.lake.snapshots()
    premises.features.push("payments", late)
    times = {one.id: NOW for one in kept}
    snapshots = premises.lake.snapshots
    premises.lake.snapshots = lambda: [
        one.model_copy(update={"at": times.get(one.id, NOW + 3 * MINUTE)}) for one in snapshots()
    ]
    assert checks.measured("fraud", 100).agrees


def test_predictions_are_computed_again_with_the_release_s_own_definitions(
    premises, checks, monkeypatch
):
    plan = premises.features.plan("fraud")
    release = Release(
        id="release_1", endpoint="late", variants=({"model": "m", "version": 1, "bundle": "b"},),
        feature_service="fraud", features={"definitions": plan.documents()},
        created_at=NOW, created_by="user:amina",
    )  # fmt: skip
    with premises.database.transaction() as connection:
        connection.execute(insert(tables.endpoints).values(
            name="late", lake_table="predictions_late", document={}, active="release_1",
            updated_at=NOW))  # fmt: skip
        connection.execute(insert(tables.releases).values(
            id="release_1", endpoint="late", document=release.model_dump(mode="json"),
            state="active", created_at=NOW))  # fmt: skip
    features = [[2.0, 3.0, np.float32(1.5), 9.0], [3.0, 5.0, np.float32(5.0 / 3.0), 9.0]]
    fields = [{"card": "a", "amount": 2.0, "seen": None}, {"card": "b", "amount": 3.0}]
    premises.lake.append(
        "predictions_late",
        pa.table(
            {
                "release": ["release_1"] * 2,
                "variant": [release.variants[0].name] * 2,
                "requested_at": instants(NOW, NOW),
                "predicted_for": instants(NOW, NOW),
                "fields": [json.dumps(row) for row in fields],
                "features": pa.array(features, pa.list_(pa.float32())),
            }
        ),
    )

    def refuse(*_, **__):
        raise AssertionError("a query opens the whole table")

    monkeypatch.setattr(premises.lake, "query", refuse)
    report = checks.measured("fraud", 100)
    assert (report.source, report.n_rows, report.n_values) == (ParitySource.SERVED, 2, 6)
    assert report.agrees
    storage = premises.features.storage(premises.features.view_plan("spent"))
    key = storage.keys.encoded(["a"])
    premises.online.write(Write(merges=[Merge([key], lambda _: [None])]))
    assert checks.measured("fraud", 100).agrees  # what was served then was right


def test_without_served_requests_entities_are_sampled(premises, checks):
    report = checks.measured("fraud", 20)
    assert (report.source, report.n_rows) == (ParitySource.SAMPLED, 20)
    assert report.agrees
