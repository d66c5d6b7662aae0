"""The actions of features, through a real door, on applied definitions and a real lake."""

from datetime import UTC, datetime, timedelta

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Classification
from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.features.appliers import KINDS, appliers
from falaj.features.exposure import FeatureSight
from falaj.features.materialization import Materialization
from falaj.features.model import (
    Aggregate,
    Entity,
    Feature,
    FeatureService,
    FeatureView,
    OnDemandFeatures,
)
from falaj.features.parity import Parity
from falaj.features.parity_checks import ParityChecks
from falaj.features.service import MATERIALIZE, Features
from falaj.features.store import AppliedDefinitions, FeatureStore
from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.kernel.call import AssetRef
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import InvalidInput, LimitExceeded, NotFound
from falaj.kernel.jobs import Jobs, Worker
from falaj.kernel.outbox import Outbox
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.testing.calls import make_door
from falaj.testing.fakes import MemoryAudit
from falaj.testing.features import FixedSecrets
from falaj.testing.seeing import whole
from falaj.testing.streams import TestKeys

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLANE = Entity(name="plane", keys={"tail": "string"})
DELAYS = FeatureView(
    name="delays", entity=PLANE, source="departures", event_time="left_at",
    aggregates=[Aggregate("mean_1h", "mean", "delay", window=HOUR)],
)  # fmt: skip
LAST = FeatureView(
    name="last_leg", entity=PLANE, source="departures", event_time="left_at",
    features=[Feature("delay", "float64"), Feature("gone", "timestamp")],
)  # fmt: skip
DOUBLE = OnDemandFeatures(
    name="double", inputs={"x": "delays:mean_1h"}, outputs=[Feature("twice", "float64")],
    source="def double(x):\n    return x * 2\n",
)  # fmt: skip
SERVICE = FeatureService(name="flight", features=[DELAYS, "last_leg:delay", DOUBLE])
ALL = [PLANE, DELAYS, LAST, DOUBLE, SERVICE]


class Platform:
    def __init__(self, database, folder):
        self.database, self.clock, self.hidden = database, SetClock(NOW), set()
        found = {}
        definitions = Definitions(
            Catalog(), KINDS, appliers(lambda c, kind, name: found["it"].definition(c, kind, name))
        )
        self.definitions = found["it"] = definitions
        self.lake = DuckLake.in_folder(folder / "lake", threads=1)
        self.online = LmdbOnlineStore(folder / "online", map_bytes=1 << 22)
        applied = AppliedDefinitions(database, definitions)
        self.log = SegmentLog(folder / "log", TestKeys(), clock=self.clock)
        self.store = FeatureStore(
            applied, self.lake, self.online, FixedSecrets(), self.clock,
            log=self.log, locks=folder / "locks",
        )  # fmt: skip
        self.jobs, self.audit = Jobs(database, self.clock), MemoryAudit()
        service = Features(
            self.store,
            ParityChecks(Parity(self.store), None),
            self.jobs,
            lambda _, ref: ref not in self.hidden,
            FeatureSight(whole()),
        )
        self.door = make_door(database, [service], clock=self.clock, audit=self.audit)
        self._actions = {action.verb: action for action in Features.actions()}

    def __call__(self, verb, **arguments):
        return self.door.call(self._actions[verb], arguments)

    def work(self):
        calls = Calls(self.database, self.audit, Outbox(), self.clock)
        handler = Materialization(self.store, calls)
        return Worker(self.jobs, {MATERIALIZE: handler}, name="w").run_one()


@pytest.fixture
def platform(sqlite_database, tmp_path, make_call):
    platform = Platform(sqlite_database, tmp_path)
    with make_call(sqlite_database) as call:
        platform.definitions.apply(call, ALL)
    yield platform
    platform.lake.close()
    platform.online.close()


def departures(*rows):
    return [
        {"tail": tail, "left_at": at.isoformat(), "delay": delay, "gone": at.isoformat()}
        for tail, at, delay in rows
    ]


def test_pushed_rows_are_read_online_and_prove_to_agree(platform):
    rows = departures(("N1", NOW - HOUR / 2, 10.0), ("N1", NOW, 20.0), ("N2", NOW, None))
    pushed = platform("push", table="departures", rows=rows, key="first")
    assert (pushed.n_events, sorted(pushed.views)) == (3, ["delays", "last_leg"])
    assert platform("push", table="departures", rows=rows, key="first").repeated
    found = platform("read", name="flight", rows=[{"tail": "N1"}, {"tail": "N2"}])
    assert found.rows[0].values == {
        "delays__mean_1h": 15.0, "last_leg__delay": 20.0, "double__twice": 30.0,
    }  # fmt: skip
    assert found.rows[1].statuses["last_leg__delay"] == "null"
    assert found.rows[0].event_times == {"delays": NOW, "last_leg": NOW}
    assert platform("parity", name="flight", sample=20).agrees
    assert [entry.action for entry in platform.audit.entries].count("features.push") == 2


def test_materialising_is_a_job_that_can_be_done_twice(platform):
    rows = departures(("N1", NOW - HOUR / 2, 10.0), ("N1", NOW, 20.0))
    platform("push", table="departures", rows=rows, ack="log")
    assert platform("read", name="flight", rows=[{"tail": "N1"}]).rows[0].values == dict.fromkeys(
        ["delays__mean_1h", "last_leg__delay", "double__twice"]
    )
    jobs = [platform("materialize", name=view) for view in ("delays", "last_leg", "delays")]
    while platform.work():
        pass
    with platform.database.reading() as connection:
        ended = [platform.jobs.get(connection, job.id) for job in jobs]
    assert [job.result["n_events"] for job in ended] == [2, 2, 2]
    values = platform("read", name="flight", rows=[{"tail": "N1"}]).rows[0].values
    assert values["delays__mean_1h"] == 15.0
    assert platform("parity", name="flight").agrees


def test_of_ties_the_row_that_the_lake_got_last_counts(platform):
    for number in range(4):
        rows = departures(*[("N1", NOW, float(number * 10 + i)) for i in range(5)])
        platform("push", table="departures", rows=rows, ack="log")
    platform.store.materialize("last_leg")
    values = platform("read", name="flight", rows=[{"tail": "N1"}]).rows[0].values
    assert values["last_leg__delay"] == 34.0


def test_listing_shows_only_what_the_caller_may_know_of(platform):
    assert [item.name for item in platform("list")] == ["delays", "last_leg", "double", "flight"]
    platform.hidden.add(AssetRef("feature_view", "delays"))
    assert [item.name for item in platform("list", kind="feature_view")] == ["last_leg"]
    (service,) = platform("list", kind="feature_service")
    assert service.features == {
        "delays__mean_1h": "float64", "last_leg__delay": "float64", "double__twice": "float64",
    }  # fmt: skip
    with pytest.raises(InvalidInput):
        platform("list", kind="nothing")


def test_what_cannot_be_done_is_told_and_nothing_is_written(platform):
    naive = datetime(2026, 3, 1)  # noqa: DTZ001
    for error, verb, arguments in [
        (NotFound, "read", {"name": "nothing", "rows": [{}]}),
        (InvalidInput, "read", {"name": "flight", "rows": [{}]}),
        (InvalidInput, "read", {"name": "flight", "rows": [], "at": naive}),
        (LimitExceeded, "read", {"name": "flight", "rows": [{}] * 10_001}),
        (NotFound, "materialize", {"name": "nothing"}),
        (InvalidInput, "materialize", {"name": "delays", "upto": naive}),
        (InvalidInput, "push", {"table": "departures", "rows": [{"tail": "N1"}]}),
        (InvalidInput, "push", {"table": "nowhere", "rows": []}),
        (InvalidInput, "parity", {"name": "flight", "sample": 0}),
    ]:
        with pytest.raises(error) as told:
            platform(verb, **arguments)
        assert told.value.message
    assert platform.lake.tables() == []
    assert not platform.work()


def test_lineage_runs_from_table_to_view_to_service(platform):
    catalog = Catalog()
    with platform.database.reading() as connection:
        tree = catalog.walk(connection, SERVICE.ref).refs()
    assert {str(ref) for ref in tree} == {
        "feature_view:delays", "feature_view:last_leg", "on_demand:double", "entity:plane",
        "table:departures",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("definition", "told"),
    [
        (SERVICE.model_copy(update={"features": ("delays:nothing",), "on_demand": ()}), "nothing"),
        (DELAYS.model_copy(update={"entity_columns": {"tale": "x"}}), "tale"),
        (DOUBLE.model_copy(update={"source": "def double(x):\n    return np.load(x)\n"}), "load"),
    ],
)
def test_a_definition_that_could_not_be_computed_is_not_applied(
    platform, make_call, definition, told
):
    with (
        pytest.raises(InvalidInput, match=told),
        make_call(platform.database) as call,
    ):
        platform.definitions.apply(call, [definition])
    kept = next(item for item in ALL if item.ref == definition.ref)
    assert platform.store.definitions.get(kept.kind, kept.name) == kept


def test_a_service_is_classified_at_least_as_its_views(platform, make_call):
    personal = DELAYS.model_copy(
        update={"name": "secrets", "classification": Classification.PERSONAL}
    )
    service = FeatureService(name="leak", features=["secrets"])
    with pytest.raises(InvalidInput, match="classification"), make_call(platform.database) as call:
        platform.definitions.apply(call, [personal, service])
    with make_call(platform.database) as call:
        service = FeatureService(name="leak", features=["secrets"], classification="sensitive")
        platform.definitions.apply(call, [personal, service])
