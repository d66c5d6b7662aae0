"""Training frames through the doors of a platform: near and far, from any spine, pinned."""

from datetime import UTC, datetime, timedelta

import pandas
import polars
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from falaj import declare as of
from falaj.features.purposes import PurposeRefused
from falaj.interfaces.client import RemoteDoor
from falaj.interfaces.platform import Platform, near
from falaj.interfaces.processes import control_app
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, InvalidInput, NotFound
from falaj.kernel.settings import Settings
from falaj.wiring import setup
from falaj.wiring.assembly import assemble

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
CARD = of.Entity(name="card", keys={"card": "string"})
SERVICE = of.FeatureService(
    name="fraud", features=("balance", "spent"), request_fields={"amount": "float64"}
)
HANDLED = of.FeatureService(name="handled", features=("marked",))


def spent(window=HOUR, name="spent"):
    return of.FeatureView(
        name=name, entity="card", source="payments", event_time="at",
        aggregates=(of.Aggregate("total", "sum", "paid", window=window),),
    )  # fmt: skip


def declared():
    balance = of.FeatureView(
        name="balance", entity="card", source="accounts", event_time="at",
        features=(of.Feature("money", "float64"), of.Feature("tier", "string")),
    )  # fmt: skip
    marked = of.FeatureView(
        name="marked", entity="card", source="accounts", event_time="at",
        features=(of.Feature("money", "float64"),), purposes=("fraud",),
    )  # fmt: skip
    return [CARD, balance, spent(), marked, SERVICE, HANDLED]


def at(hours):
    return pa.array([BEGIN + timedelta(hours=h) for h in hours], pa.timestamp("us", "UTC"))


def spine_of(n):
    return pa.table(
        {
            "card": [f"c{i % 5}" for i in range(n)],
            "timestamp": at([20 - (i % 7) for i in range(n)]),
            "amount": [float(i) for i in range(n)],
        }
    )


@pytest.fixture(scope="module")
def premises(tmp_path_factory):
    settings = Settings.read(tmp_path_factory.mktemp("platform"))
    setup.initialise(settings, owner="amina")
    made = assemble(settings)
    with made.calls.opened("test.prepare", "user:amina") as call:
        made.definitions.apply(call, [one.document() for one in declared()])
    hours = list(range(24))
    cards = [f"c{h % 4}" for h in hours]
    made.lake.append(
        "accounts",
        pa.table({"card": cards, "at": at(hours), "money": [float(h) for h in hours],
                  "tier": ["gold" if h % 2 else None for h in hours]}),
    )  # fmt: skip
    made.lake.append("payments", pa.table({"card": cards, "at": at(hours), "paid": [1.0] * 24}))
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(premises):
    with TestClient(control_app(premises), base_url="https://localhost") as made:
        yield made


@pytest.fixture
def platform(premises):
    found = near(premises)
    yield found
    found.close()


@pytest.fixture(params=["near", "far"])
def anywhere(request, premises, client):
    if request.param == "near":
        found = near(premises)
    else:
        with premises.database.reading() as connection:
            owner = premises.authentication.accounts.get(connection, "amina")
        caller = near(premises).door.door.caller
        token, _ = premises.tokens.issue(
            caller.principal, session="session_of_a_test", account_epoch=owner.epoch,
            mfa_at=None, now=premises.clock.now(),
        )  # fmt: skip
        door = RemoteDoor(client, lambda: token)
        found = Platform(door, step_up=None, close=lambda: None, help_out=premises.work_on_jobs)
    yield found
    found.close()


def test_it_has_one_row_for_each_row_of_the_spine_in_its_order(anywhere):
    spine = spine_of(40)
    frame = anywhere.training_set(spine, "fraud")
    found = frame.to_arrow()
    assert len(frame) == found.num_rows == 40
    assert found.column_names == [
        "card", "timestamp", "amount", "balance__money", "balance__tier", "spent__total"
    ]  # fmt: skip
    assert found.select(spine.column_names).equals(spine)
    assert found["balance__money"].to_pylist()[:5] == [20.0, 17.0, 18.0, 15.0, None]
    assert frame.features == ("amount", "balance__money", "balance__tier", "spent__total")


@pytest.mark.parametrize("kind", ["polars", "pandas", "reader", "table", "sql"])
def test_every_sort_of_spine_gives_the_same_set(platform, premises, kind):
    rows = spine_of(30)
    if not premises.lake.exists("asked"):
        premises.lake.append("asked", rows)
        with premises.calls.opened("test.prepare", "user:amina") as call:
            premises.catalog.record(call, AssetRef("table", "asked"))
    spine = {
        "polars": lambda: polars.from_arrow(rows),
        "pandas": rows.to_pandas,
        "reader": lambda: rows.to_reader(max_chunksize=7),
        "table": lambda: "asked",
        "sql": lambda: "SELECT * FROM asked ORDER BY amount",
    }[kind]()
    frame = platform.training_set(spine, "fraud")
    assert frame.content_hash == platform.training_set(rows, "fraud").content_hash
    assert frame.to_arrow().select(rows.column_names).equals(rows)


def test_what_is_asked_twice_is_answered_twice(platform):
    spine = pa.concat_tables([spine_of(6), spine_of(6)]).take([11, 0, 6, 0])
    found = platform.training_set(spine, "fraud").to_arrow()
    assert found["amount"].to_pylist() == [5.0, 0.0, 0.0, 0.0]
    assert found.slice(1, 1).equals(found.slice(3, 1))


def test_it_is_pinned_and_made_again_to_the_same_bytes_after_all_has_changed(
    anywhere, premises, request
):
    name = f"moving_{request.node.callspec.params['anywhere']}"

    def apply(*documents):
        with premises.calls.opened("test.prepare", "user:amina") as call:
            premises.definitions.apply(call, [one.document() for one in documents])

    def service(*features):
        return of.FeatureService(name=name, features=("balance", *features))

    apply(spent(name=name), service(f"{name}@1"))
    spine = spine_of(25)
    frame = anywhere.training_set(spine, name)
    made = frame.training_set
    assert made.versions[f"feature_view:{name}"] == 1
    assert set(made.versions) == set(made.definitions) == {
        "entity:card", "feature_view:balance", f"feature_view:{name}", f"feature_service:{name}"
    }  # fmt: skip
    apply(spent(5 * HOUR, name=name))
    apply(service(f"{name}@2"))
    more = pa.table({"card": ["c1"], "at": at([1]), "money": [77.0], "tier": ["gold"]})
    premises.lake.append("accounts", more)
    premises.lake.append("payments", pa.table({"card": ["c1"], "at": at([1]), "paid": [9.0]}))
    again = anywhere.wait(anywhere.training.recreate(made.id)).result
    assert again["identical"]
    assert again["changed_definitions"] == [f"feature_service:{name}", f"feature_view:{name}"]
    assert anywhere.training_set(spine, name).content_hash != frame.content_hash
    assert anywhere.training_frame(made.id).to_arrow().equals(frame.to_arrow())


def test_it_is_read_in_batches_and_given_to_polars_and_pandas(platform):
    frame = platform.training_set(spine_of(40), "fraud")
    batches = list(frame.batches(16, columns=["amount"]))
    assert [batch.num_rows for batch in batches] == [16, 16, 8]
    assert batches[1].column("amount")[0].as_py() == 16.0
    assert isinstance(frame.to_polars(), polars.DataFrame)
    assert isinstance(frame.to_pandas(), pandas.DataFrame)
    assert frame.to_polars().shape == frame.to_pandas().shape == (40, 6)
    with pytest.raises(InvalidInput, match="no column 'nothing'"):
        list(frame.batches(columns=["nothing"]))


def test_a_purpose_that_the_views_do_not_permit_is_refused_and_the_stated_one_is_kept(
    anywhere, premises
):
    spine = spine_of(3)
    for purpose in (None, "marketing"):
        with pytest.raises(PurposeRefused, match="permit fraud"):
            anywhere.training_set(spine, "handled", purpose=purpose)
        with pytest.raises(PurposeRefused, match="permit fraud"):
            face = anywhere.door.with_purpose(purpose)
            action = next(a for a in type_of_features().actions() if a.verb == "read")
            face.call(action, {"name": "handled", "rows": [{"card": "c1"}]})
    frame = anywhere.training_set(spine, "handled", purpose="fraud")
    assert frame.training_set.purpose == "fraud"
    assert frame.to_arrow().num_rows == 3
    with pytest.raises(PurposeRefused):
        list(anywhere.training_frame(frame.id).batches())
    records = anywhere.audit.search(action="training.prepare", limit=5).records
    assert any(record.details.get("purpose") == "fraud" for record in records)


def type_of_features():
    from falaj.features.service import Features

    return Features


@pytest.mark.parametrize(
    ("spine", "told"),
    [
        (lambda: spine_of(3).drop_columns(["card"]), "card"),
        (lambda: spine_of(3).drop_columns(["timestamp"]), "no column 'timestamp'"),
        (lambda: spine_of(0), "empty"),
        (lambda: [1, 2], "cannot be made of a list"),
        (lambda: "SELECT 1 AS card FROM nothing", "there is no lake table"),
        (lambda: spine_of(3).append_column("row_number", pa.array([1, 2, 3])), "row_number"),
    ],
)
def test_a_spine_that_cannot_be_used_is_refused_with_the_reason(platform, spine, told):
    with pytest.raises(FalajError, match=told):
        platform.training_set(spine(), "fraud")


def test_a_service_or_a_set_that_there_is_not_is_not_found(platform):
    with pytest.raises(NotFound):
        platform.training_set(spine_of(1), "nothing")
    with pytest.raises(NotFound):
        platform.training_frame("ts_nothing")


def test_a_set_without_a_label_is_nothing_to_train_on(platform):
    frame = platform.training_set(spine_of(3), "fraud")
    with pytest.raises(InvalidInput, match="without a label"):
        platform.training.train({"model": "m", "training_set": frame.id})


def test_torch_gets_tensors_batch_by_batch(platform):
    torch = pytest.importorskip("torch")
    frame = platform.training_set(spine_of(40), "fraud")
    batches = list(frame.to_torch(16, columns=["amount", "balance__money"]))
    assert [len(batch["amount"]) for batch in batches] == [16, 16, 8]
    assert batches[0]["amount"].dtype is torch.float32
    with pytest.raises(InvalidInput, match="'balance__tier'"):
        list(frame.to_torch(16))
    words = next(iter(frame.to_torch(16, categories={"balance__tier": ["gold"]})))
    assert set(words["balance__tier"][~words["balance__tier"].isnan()].tolist()) <= {0.0}


def test_what_is_no_arrow_stream_is_refused_and_nothing_is_kept(anywhere, premises):
    before = premises.lake.tables()
    for body in (b"", b"rows", b"\xff\xff\xff\xff\x00\x10\x00\x00"):
        with pytest.raises(InvalidInput, match="not a stream of Arrow"):
            anywhere.tables.upload(body)
    assert premises.lake.tables() == before
