"""Versions of views that live side by side: judged, pinned, kept up to date, retired."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions, IncompatibleChange
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.appliers import KINDS, appliers
from falaj.features.compatibility import Compatibility
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    Filter,
    OnDemandFeatures,
)
from falaj.features.online import OnlineReader
from falaj.features.parity import Parity
from falaj.features.plan import ServicePlan
from falaj.features.service import FORGET, Features
from falaj.features.store import FeatureStore
from falaj.features.versions import AppliedDefinitions, Forgetting, Retirement, State
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock, microseconds
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.jobs import Jobs, Worker
from falaj.kernel.outbox import Outbox
from falaj.testing.calls import make_door
from falaj.testing.fakes import MemoryAudit
from falaj.testing.features import FixedSecrets, MemoryLake
from falaj.training.definition_pins import CatalogPins

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
CARD = Entity(name="card", keys={"card": "string"})
BALANCE = FeatureView(
    name="balance", entity=CARD, source="accounts", event_time="at", ttl=DAY,
    features=[Feature("amount", "float64"), Feature("limit", "float64")],
)  # fmt: skip
SPENT = FeatureView(
    name="spent", entity=CARD, source="accounts", event_time="at",
    aggregates=[Aggregate("sum_1h", "sum", "amount", window=HOUR),
                Aggregate("n_1h", "count", window=HOUR)],
)  # fmt: skip
SHARE = OnDemandFeatures(
    name="share", inputs={"x": "balance:amount", "y": "balance:limit"},
    outputs=[Feature("used", "float64")], source="def share(x, y):\n    return x / y\n",
)  # fmt: skip
FRAUD = FeatureService(name="fraud", features=["balance:amount", "spent:sum_1h"])
ALL = [CARD, BALANCE, SPENT, FRAUD]


def changed(definition, **update):
    return type(definition).model_validate({**definition.model_dump(), **update})


def with_features(view, *more):
    return changed(view, features=[*view.features, *more])


class Platform:
    """Definitions, a lake in memory, an online store, and the door of the features."""

    def __init__(self, database, folder, make_call):
        self.database, self.clock, self._make_call = database, SetClock(NOW), make_call
        self.readers = []

        def find(connection, kind, name, version=None):
            return self.definitions.definition(connection, kind, name, version)

        self.definitions = Definitions(
            Catalog(), KINDS, appliers(find, Catalog()), [Compatibility(find)]
        )
        self.applied = AppliedDefinitions(database, self.definitions)
        self.online = LmdbOnlineStore(folder / "online", map_bytes=1 << 23)
        self.store = FeatureStore(
            self.applied, MemoryLake(), self.online, FixedSecrets(), self.clock
        )
        self.jobs, self.audit = Jobs(database, self.clock), MemoryAudit()
        retirement = Retirement(self.definitions, lambda _c, plan: self.readers)
        service = Features(
            self.store, Parity(self.store), self.jobs, lambda _c, _r: True, retirement
        )
        self.door = make_door(database, [service], clock=self.clock, audit=self.audit)
        self._actions = {action.verb: action for action in Features.actions()}

    def __call__(self, verb, **arguments):
        return self.door.call(self._actions[verb], arguments)

    def apply(self, *definitions):
        with self._make_call(self.database) as call:
            return self.definitions.apply(call, definitions)

    def plan(self, *definitions):
        with self.database.reading() as connection:
            items = self.definitions.plan(connection, definitions).items
        return {f"{item.kind}:{item.name}": item for item in items}

    def work(self):
        calls = Calls(self.database, self.audit, Outbox(), self.clock)
        handler = Forgetting(self.applied, self.online, calls)
        return Worker(self.jobs, {FORGET: handler}, name="w").run_one()

    def push(self, *rows):
        cards, amounts, at = zip(*rows, strict=True)
        self.store.push("accounts", pa.table({
            "card": pa.array(cards), "at": pa.array(at, pa.timestamp("us", "UTC")),
            "amount": pa.array(amounts, pa.float64()),
            "limit": pa.array([100.0] * len(rows)), "holder": pa.array(["h"] * len(rows)),
        }))  # fmt: skip

    def vector(self, documents, card="a"):
        """What a release that carries these documents reads."""
        reader = OnlineReader(ServicePlan.from_documents(documents), self.online, FixedSecrets())
        return reader.read([{"card": card}], microseconds(NOW)).values[0]

    def states(self, name):
        found = {}
        for one in self.applied.view_versions():
            if one.view.name == name:
                found[one.version] = one.state
        return found


@pytest.fixture
def platform(sqlite_database, tmp_path, make_call):
    made = Platform(sqlite_database, tmp_path, make_call)
    made.apply(*ALL)
    yield made
    made.online.close()


# -- what a change means -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "compatible", "why"),
    [
        (changed(BALANCE, description="Money."), True, "nothing of values"),
        (changed(BALANCE, owner="team:risk", tags=["money"]), True, "nothing of values"),
        (with_features(BALANCE, Feature("holder", "string")), True, "added holder"),
        (changed(BALANCE, features=BALANCE.features[::-1]), True, "the features are the same"),
        (changed(BALANCE, entity_columns={"card": "card"}), True, "same columns"),
        (changed(BALANCE, head=HOUR), True, "laid out anew"),
        (changed(BALANCE, purposes=["fraud"]), False, "fewer purposes"),
        (changed(BALANCE, features=BALANCE.features[1:]), False, "removed amount"),
        (changed(BALANCE, features=[Feature("sum", "float64", column="amount"),
                                    BALANCE.features[1]]), False, "removed amount; added sum"),
        (changed(BALANCE, features=[Feature("amount", "int64"), BALANCE.features[1]]),
         False, "changed amount"),
        (changed(BALANCE, features=[Feature("amount", "float64", column="euros"),
                                    BALANCE.features[1]]), False, "changed amount"),
        (changed(BALANCE, ttl=HOUR), False, "expire at another age"),
        (changed(BALANCE, allowed_lateness=HOUR), False, "late events"),
        (changed(BALANCE, source="ledgers"), False, "rows would be others"),
        (changed(BALANCE, event_time="booked_at"), False, "at other times"),
        (changed(BALANCE, recorded_at="seen_at"), False, "known at other times"),
        (changed(BALANCE, where=[Filter("amount", ">", 0)]), False, "other rows"),
        (changed(BALANCE, entity_columns={"card": "pan"}), False, "other columns"),
        (changed(BALANCE, subject="card"), False, "keys of other persons"),
    ],
)  # fmt: skip
def test_each_changed_field_is_judged_with_its_reason(platform, after, compatible, why):
    item = platform.plan(after)["feature_view:balance"]
    assert [one.compatible for one in item.changes] == [compatible] * len(item.changes)
    assert why in item.changes[0].why
    assert bool(item.obstacles) is not compatible


@pytest.mark.parametrize(
    ("update", "compatible"),
    [
        ({"window": 2 * HOUR}, False),
        ({"hop": timedelta(minutes=10)}, False),
        ({"hop": timedelta(minutes=1)}, True),  # as it is by default
        ({"function": "mean"}, False),
        ({"column": "limit"}, False),
        ({"dtype": "int64"}, False),
        ({"description": "Of one hour."}, True),
    ],
)
def test_an_aggregate_is_another_one_if_it_counts_otherwise(platform, update, compatible):
    first, second = SPENT.aggregates
    after = changed(SPENT, aggregates=[{**first.model_dump(), **update}, second])
    (change,) = platform.plan(after)["feature_view:spent"].changes
    assert change.compatible is compatible


def test_purposes_may_be_widened(platform):
    platform.apply(changed(SPENT, purposes=["fraud", "credit"], features=[]), CARD,
                   FeatureService(name="fraud", features=["balance"]))  # fmt: skip
    for purposes, compatible in [(["fraud"], False), ([], True), (["fraud", "x", "credit"], True)]:
        (change,) = platform.plan(changed(SPENT, purposes=purposes))["feature_view:spent"].changes
        assert change.compatible is compatible


def test_a_change_that_nobody_relies_on_is_applied_though_it_is_incompatible(platform):
    platform.apply(changed(BALANCE, features=BALANCE.features[:1]))  # `limit` is taken by none
    assert platform.states("balance") == {2: State.CURRENT, 1: State.LIVE}


def test_an_incompatible_change_is_refused_and_the_way_out_works(platform):
    after = changed(BALANCE, features=[Feature("amount", "int64"), BALANCE.features[1]])
    with pytest.raises(IncompatibleChange) as told:
        platform.apply(after)
    assert "'fraud' takes balance:amount without naming a version" in told.value.message
    assert "balance@1:feature" in told.value.hint
    assert platform.states("balance") == {1: State.CURRENT}
    pinned = changed(FRAUD, features=["balance@1:amount", "spent:sum_1h"])
    platform.apply(pinned, after)  # in one apply, as in two
    platform.apply(FeatureService(name="new", features=["balance@2:amount"]))
    assert platform.store.plan("fraud").outputs["balance__amount"] == "float64"
    assert platform.store.plan("new").outputs == {"balance__amount": "int64"}


def test_a_service_that_takes_the_whole_view_relies_on_all_of_it(platform):
    platform.apply(FeatureService(name="whole", features=["balance"]))
    after = changed(BALANCE, features=BALANCE.features[:1])
    with pytest.raises(IncompatibleChange, match="'whole' takes balance:limit"):
        platform.apply(after)
    platform.apply(FeatureService(name="whole", features=["balance@1"]), after)
    assert list(platform.store.plan("whole").outputs) == ["balance__amount", "balance__limit"]


def test_a_service_relies_on_what_its_functions_take(platform):
    platform.apply(SHARE, FeatureService(name="use", features=["share"], on_demand=["share"]))
    after = changed(BALANCE, features=[Feature("amount", "float64"),
                                       Feature("limit", "int64")])  # fmt: skip
    with pytest.raises(IncompatibleChange, match="'use' takes balance:limit"):
        platform.apply(after)
    inputs = {"x": "balance@1:amount", "y": "balance@1:limit"}
    platform.apply(changed(FRAUD, features=["balance@1:amount"]))
    with pytest.raises(IncompatibleChange, match="'use' takes share:used"):
        platform.apply(changed(SHARE, inputs=inputs))
    platform.apply(
        FeatureService(name="use", features=["share", "balance@1:amount"], on_demand=["share"])
    )
    platform.apply(after)
    assert platform.store.plan("use").views[0].plan.outputs["limit"] == "float64"


def test_the_keys_of_an_entity_stay_as_long_as_a_view_is_about_it(platform):
    with pytest.raises(IncompatibleChange, match="'balance' is about it"):
        platform.apply(changed(CARD, keys={"card": "int64"}))
    platform.apply(changed(CARD, description="A payment card."))


# -- references with versions --------------------------------------------------------------


def test_a_pinned_service_compiles_from_that_version_and_carries_it(platform):
    platform.apply(with_features(BALANCE, Feature("holder", "string")))
    platform.apply(FeatureService(name="old", features=["balance@1"]),
                   FeatureService(name="new", features=["balance"]))  # fmt: skip
    old, new = platform.store.plan("old"), platform.store.plan("new")
    assert list(old.outputs) == ["balance__amount", "balance__limit"]
    assert list(new.outputs) == ["balance__amount", "balance__limit", "balance__holder"]
    (document,) = [one for one in old.documents() if one["kind"] == "feature_view"]
    assert document["version"] == 1
    again = ServicePlan.from_documents(old.documents())
    assert again.views == old.views
    assert again.documents() == old.documents()
    with platform.database.reading() as connection:
        history = platform.definitions.history(connection, "feature_view", "balance")
        prints = {one.version: one.fingerprint for one in history}
        pins = CatalogPins(platform.definitions)
        assert pins.pins(connection, "old").definitions["feature_view:balance"] == prints[1]
        assert pins.pins(connection, "new").definitions["feature_view:balance"] == prints[2]


def test_references_that_cannot_be_are_refused(platform):
    with pytest.raises(NotFound, match="version 7"):
        platform.apply(FeatureService(name="x", features=["balance@7:amount"]))
    with pytest.raises(ValueError, match="two versions"):
        FeatureService(name="x", features=["balance@1:amount", "balance:limit"])
    with pytest.raises(ValueError, match="not a name"):
        FeatureService(name="x", features=["balance@0:amount"])
    pinned = changed(SHARE, inputs={"x": "balance@1:amount", "y": "balance@1:limit"})
    platform.apply(changed(BALANCE, description="x"))
    with pytest.raises(InvalidInput, match="version 1"):
        platform.apply(
            pinned,
            FeatureService(name="x", features=["balance:amount", "share"], on_demand=["share"]),
        )
    platform.apply(pinned, FeatureService(name="x", features=["share"], on_demand=["share"]))
    assert platform.store.plan("x").views[0].version == 1


# -- live side by side ----------------------------------------------------------------------


def test_a_release_of_an_earlier_version_goes_on_seeing_new_values(platform):
    platform.push(("a", 5.0, NOW - HOUR / 2))
    release = platform.store.plan("fraud").documents()  # what a release carries
    assert platform.vector(release) == [5.0, 5.0]
    platform.apply(
        with_features(BALANCE, Feature("holder", "string")),
        changed(SPENT, aggregates=[*SPENT.aggregates,
                                   Aggregate("n_1d", "count", window=DAY)]),
    )  # fmt: skip
    platform.push(("a", 7.0, NOW))
    assert platform.vector(release) == [7.0, 12.0]
    newer = platform.store.plan("fraud").documents()
    assert platform.vector(newer) == [7.0, 7.0]  # it has not been materialised yet
    for view in ("balance", "spent"):
        platform.store.materialize(view)
    assert platform.vector(newer) == [7.0, 12.0]
    assert platform.vector(release) == [7.0, 12.0]


def test_versions_from_another_table_are_pushed_to_from_there(platform):
    platform.apply(changed(FRAUD, features=["balance@1:amount"]),
                   changed(BALANCE, source="ledgers"))  # fmt: skip
    release = platform.store.plan("fraud").documents()
    platform.push(("a", 3.0, NOW))
    assert platform.vector(release) == [3.0]
    assert {plan.name for plan in platform.store.views_of("ledgers")} == {"balance"}


def test_versions_that_store_the_same_rows_share_them(platform):
    platform.apply(changed(BALANCE, description="Money."))
    assert [plan.name for plan in platform.store.views_of("accounts")] == ["balance", "spent"]
    assert platform.states("balance") == {2: State.CURRENT, 1: State.LIVE}


def test_the_list_tells_the_versions(platform):
    platform.apply(with_features(BALANCE, Feature("holder", "string")))
    balance, spent = platform("list", kind="feature_view")
    assert balance.versions == {"2": "current", "1": "live"}
    assert balance.standing == "2 current, 1 live"
    assert spent.versions == {"1": "current"}


# -- retired ----------------------------------------------------------------------------------


def rows_of(platform, view, entity=CARD):
    from falaj.features.views import ViewPlan

    return len(list(platform.online.keys(ViewPlan.of(view, entity).storage_id)))


def test_a_retired_version_is_forgotten_and_pushed_to_no_more(platform):
    platform.push(*((f"card {i}", 1.0, NOW) for i in range(50)))
    platform.apply(with_features(BALANCE, Feature("holder", "string")))
    platform("retire", name="balance", version=1)
    assert rows_of(platform, BALANCE) == 50
    assert platform.work()
    assert rows_of(platform, BALANCE) == 0
    platform.push(("a", 1.0, NOW))
    assert rows_of(platform, BALANCE) == 0
    assert rows_of(platform, with_features(BALANCE, Feature("holder", "string"))) == 1
    assert platform.states("balance") == {2: State.CURRENT, 1: State.RETIRED}
    assert {"features.retire", "features.forget"} <= {e.action for e in platform.audit.entries}
    with pytest.raises(InvalidInput, match="retired"):
        platform.apply(FeatureService(name="late", features=["balance@1:amount"]))


def test_a_version_that_is_taken_is_not_retired(platform):
    for version, error in [(1, Conflict), (2, NotFound)]:
        with pytest.raises(error):
            platform("retire", name="balance", version=version)
    platform.apply(changed(FRAUD, features=["balance@1:amount"]))
    platform.apply(with_features(BALANCE, Feature("holder", "string")))
    with pytest.raises(Conflict, match="feature service 'fraud'"):
        platform("retire", name="balance", version=1)
    platform.apply(changed(FRAUD, features=["balance:amount"]))
    platform.readers.append("the endpoint late (rel_1)")
    with pytest.raises(Conflict, match="the endpoint late"):
        platform("retire", name="balance", version=1)
    platform.readers.clear()
    platform("retire", name="balance", version=1)
    with pytest.raises(Conflict, match="retired already"):
        platform("retire", name="balance", version=1)


def test_rows_that_a_live_version_shares_are_kept(platform):
    platform.push(("a", 5.0, NOW))
    platform.apply(changed(BALANCE, description="Money."))
    platform.readers.append("the endpoint late (rel_1)")  # it reads them under the new version
    platform("retire", name="balance", version=1)
    assert platform.work()
    assert rows_of(platform, BALANCE) == 1


def test_rows_that_came_back_to_life_before_the_job_are_kept(platform):
    platform.push(("a", 5.0, NOW))
    platform.apply(with_features(BALANCE, Feature("holder", "string")))
    platform("retire", name="balance", version=1)
    platform.apply(changed(BALANCE, features=BALANCE.features))  # version 3 is as 1 was
    assert platform.work()
    assert rows_of(platform, BALANCE) == 1
    assert platform.states("balance")[3] is State.CURRENT
