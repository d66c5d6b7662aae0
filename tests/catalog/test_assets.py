from __future__ import annotations

import threading
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from falaj.catalog import tables
from falaj.catalog.assets import Catalog
from falaj.catalog.model import Classification, Direction, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.database import Database
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.testing.calls import opened_call
from falaj.testing.conformance import ResourcesConformance

FLIGHTS = AssetRef("table", "flights")
WEATHER = AssetRef("table", "weather")
VIEW = AssetRef("feature_view", "delays")
RUN = AssetRef("run", "run_1")
catalog = Catalog()


class TestCatalogAsResources(ResourcesConformance):
    @pytest.fixture
    def resources(self) -> Catalog:
        return catalog

    @pytest.fixture
    def keep(self, make_call: Any) -> Any:
        def keep(database: Database, ref: AssetRef, attributes: dict[str, str]) -> None:
            stage = attributes.pop("stage", None)
            with make_call(database) as call:
                given = {"stage": stage} if stage else {}
                catalog.record(call, ref, attributes=given, **attributes)

        return keep


def test_a_new_asset_belongs_to_the_one_who_recorded_it(database: Database, make_call: Any) -> None:
    with make_call(database, "user:omar") as call:
        asset = catalog.record(call, FLIGHTS, description="Flights of 2013", tags=["NYC"])
    assert (asset.owner, asset.version, asset.tags) == ("user:omar", 1, ("nyc",))
    assert asset.classification is None
    assert [event.type for event in call.events] == ["asset.recorded"]
    with database.reading() as connection:
        assert catalog.get(connection, FLIGHTS) == asset


def test_what_is_not_given_stays(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        catalog.record(
            call,
            FLIGHTS,
            description="Flights",
            owner="team:delays",
            classification=Classification.INTERNAL,
            region="ae",
            tags=["nyc"],
            attributes={"rows": 1, "stage": "raw"},
        )
        asset = catalog.record(call, FLIGHTS, attributes={"rows": 2, "stage": None, "days": 3})
    assert asset.attributes == {"rows": 2, "days": 3}
    assert (asset.description, asset.owner, asset.region) == ("Flights", "team:delays", "ae")
    assert (asset.classification, asset.tags) == (Classification.INTERNAL, ("nyc",))
    assert asset.version == 2


def test_recording_the_same_again_makes_no_version(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        for _ in range(3):
            asset = catalog.record(call, FLIGHTS, description="Flights", tags=["b", "a"])
        assert asset.version == 1
        assert len(catalog.versions(call.connection, FLIGHTS)) == 1
        assert len(call.events) == 1


def test_every_version_says_who_did_what_in_which_call(database: Database, make_call: Any) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    with make_call(database) as call:
        catalog.record(call, FLIGHTS, description="one")
    with make_call(database, "user:omar", action="assets.describe", now=at) as call:
        catalog.record(call, FLIGHTS, description="two")
    with database.reading() as connection:
        newest, oldest = catalog.versions(connection, FLIGHTS)
    assert (newest.version, newest.by, newest.at) == (2, "user:omar", at)
    assert (newest.action, newest.call_id) == ("assets.describe", call.id)
    assert (newest.state["description"], oldest.state["description"]) == ("two", "one")


def test_describe_clears_what_is_given_empty(database: Database, make_call: Any) -> None:
    with make_call(database, roles=["steward"]) as call:
        catalog.record(call, FLIGHTS, description="x", tags=["a"], region="ae",
                       classification=Classification.PERSONAL)  # fmt: skip
        asset = catalog.describe(
            call, FLIGHTS, description="", tags=[], region=None, classification=None
        )
    assert (asset.description, asset.tags, asset.region, asset.classification) == (
        "", (), None, None,
    )  # fmt: skip


def test_describe_refuses_what_an_asset_does_not_have(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        catalog.record(call, FLIGHTS)
        with pytest.raises(InvalidInput, match="no colour"):
            catalog.describe(call, FLIGHTS, colour="red")
        with pytest.raises(NotFound):
            catalog.describe(call, WEATHER, description="x")


def test_a_missing_asset_is_named(sqlite_database: Database) -> None:
    with sqlite_database.reading() as connection:
        with pytest.raises(NotFound, match="no table 'flights'"):
            catalog.get(connection, FLIGHTS)
        with pytest.raises(NotFound):
            catalog.versions(connection, FLIGHTS)
        with pytest.raises(NotFound):
            catalog.walk(connection, FLIGHTS)
        assert not catalog.exists(connection, FLIGHTS)


def test_a_malformed_name_is_never_recorded(sqlite_database: Database, make_call: Any) -> None:
    with make_call(sqlite_database) as call, pytest.raises(InvalidInput):
        catalog.record(call, AssetRef("table", "a\nb"))


def test_two_that_create_the_same_asset_at_once_both_succeed(database: Database) -> None:
    barrier = threading.Barrier(4)
    failures: list[Exception] = []

    def one(n: int) -> None:
        barrier.wait()
        try:
            for _ in range(5):
                with opened_call(database, f"user:u{n}") as call:
                    catalog.record(call, FLIGHTS, attributes={f"n{n}": n})
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.reading() as connection:
        asset = catalog.get(connection, FLIGHTS)
        assert asset.attributes == {"n0": 0, "n1": 1, "n2": 2, "n3": 3}
        assert [one.version for one in catalog.versions(connection, FLIGHTS)] == [4, 3, 2, 1]


def test_search_finds_words_in_name_description_tags_and_kind(
    database: Database, make_call: Any
) -> None:
    with make_call(database) as call:
        catalog.record(call, FLIGHTS, description="Departures of three airports", tags=["nyc"])
        catalog.record(call, WEATHER, description="Hourly weather, 100% of hours")
        catalog.record(call, AssetRef("feature_view", "weather_now"), description="Latest weather")
        catalog.record(call, AssetRef("table", "old_weather"))

        def keys(text: str = "", **wanted: Any) -> list[str]:
            return [asset.key for asset in catalog.search(call.connection, text, **wanted)]

        assert keys("airports") == ["flights"]
        assert keys("HOURLY weather") == ["weather"]
        assert keys("weather") == ["weather", "weather_now", "old_weather"]
        assert keys("weather", kind="table") == ["weather", "old_weather"]
        assert keys("nyc") == ["flights"] == keys(tag="NYC")
        assert keys(tag="ny") == []
        assert keys("feature_view") == ["weather_now"]
        assert keys("100%") == ["weather"]
        assert keys("%") == ["weather"]
        assert keys("nothing such") == []
        assert len(keys(owner="user:amina")) == 4
        assert keys(owner="user:omar") == []


def test_search_by_classification(sqlite_database: Database, make_call: Any) -> None:
    with make_call(sqlite_database) as call:
        catalog.record(call, FLIGHTS, classification=Classification.PUBLIC)
        catalog.record(call, WEATHER)
        found = catalog.search(call.connection, classification=Classification.PUBLIC)
        assert [asset.ref for asset in found] == [FLIGHTS]


def test_search_goes_on_beyond_its_first_rows(sqlite_database: Database, make_call: Any) -> None:
    with make_call(sqlite_database) as call:
        for n in range(450):
            catalog.record(call, AssetRef("table", f"t{n}"))
        assert len({asset.key for asset in catalog.search(call.connection, "t")}) == 450


def _chain(call: Any, *refs: AssetRef) -> None:
    for ref in refs:
        catalog.record(call, ref)
    for source, target in pairwise(refs):
        catalog.link(call, source, target, Relation.FEEDS)


def test_an_edge_is_seen_from_both_ends_and_drawn_once(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        _chain(call, FLIGHTS, VIEW)
    with make_call(database, "user:omar") as call:
        again = catalog.link(call, FLIGHTS, VIEW, Relation.FEEDS)
    assert again.by == "user:amina"
    with database.reading() as connection:
        (down,) = catalog.downstream(connection, FLIGHTS)
        (up,) = catalog.upstream(connection, VIEW)
        assert down == up == again
        assert catalog.upstream(connection, FLIGHTS) == []


def test_two_relations_between_the_same_assets_are_two_edges(
    sqlite_database: Database, make_call: Any
) -> None:
    with make_call(sqlite_database) as call:
        _chain(call, FLIGHTS, VIEW)
        catalog.link(call, FLIGHTS, VIEW, Relation.DEFINES)
        assert len(catalog.upstream(call.connection, VIEW)) == 2
        catalog.unlink(call, FLIGHTS, VIEW, Relation.FEEDS)
        (left,) = catalog.upstream(call.connection, VIEW)
        assert left.relation is Relation.DEFINES


def test_an_edge_needs_two_recorded_assets(sqlite_database: Database, make_call: Any) -> None:
    with make_call(sqlite_database) as call:
        catalog.record(call, FLIGHTS)
        with pytest.raises(NotFound, match="delays"):
            catalog.link(call, FLIGHTS, VIEW, Relation.FEEDS)
        with pytest.raises(InvalidInput, match="itself"):
            catalog.link(call, FLIGHTS, FLIGHTS, Relation.FEEDS)


def test_a_walk_is_a_tree_that_names_each_branch_once(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        _chain(call, FLIGHTS, VIEW, RUN)
        _chain(call, WEATHER, RUN)
        catalog.link(call, FLIGHTS, RUN, Relation.TRAINED)
        up = catalog.walk(call.connection, RUN)
        down = catalog.walk(call.connection, FLIGHTS, Direction.DOWNSTREAM)
    assert set(up.refs()) == {FLIGHTS, VIEW, WEATHER}
    assert not up.truncated
    first_level = {branch.ref: branch for branch in up.root.branches}
    assert set(first_level) == {VIEW, WEATHER, FLIGHTS}
    (flights_again,) = first_level[VIEW].branches
    assert flights_again.repeated
    assert not first_level[FLIGHTS].repeated
    assert first_level[FLIGHTS].relation is Relation.TRAINED
    assert set(down.refs()) == {VIEW, RUN}


def test_a_walk_leaves_out_what_may_not_be_seen_and_all_beyond_it(
    sqlite_database: Database, make_call: Any
) -> None:
    with make_call(sqlite_database) as call:
        _chain(call, FLIGHTS, VIEW, RUN)
        _chain(call, WEATHER, RUN)
        seen = catalog.walk(call.connection, RUN, seen=lambda resource: resource.ref != VIEW)
    assert seen.refs() == [WEATHER]


def test_a_walk_says_when_it_was_cut(sqlite_database: Database, make_call: Any) -> None:
    with make_call(sqlite_database) as call:
        _chain(call, FLIGHTS, VIEW, RUN)
        near = catalog.walk(call.connection, RUN, max_depth=1)
        assert (near.refs(), near.truncated) == ([VIEW], True)
        few = catalog.walk(call.connection, RUN, max_assets=2)
        assert (few.refs(), few.truncated) == ([VIEW], True)
        assert not catalog.walk(call.connection, RUN, max_depth=2).truncated


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda e: e[0] != e[1])))
def test_a_walk_reaches_exactly_what_can_be_reached_even_in_circles(
    sqlite_database: Database, arrows: set[tuple[int, int]]
) -> None:
    refs = [AssetRef("table", f"t{n}") for n in range(7)]
    with opened_call(sqlite_database) as call:
        call.connection.execute(delete(tables.edges))
        for ref in refs:
            catalog.record(call, ref)
        for source, target in arrows:
            catalog.link(call, refs[source], refs[target], Relation.FEEDS)
        reached, todo = {0}, [0]
        while todo:
            here = todo.pop()
            for source, target in arrows:
                if source == here and target not in reached:
                    reached.add(target)
                    todo.append(target)
        walk = catalog.walk(call.connection, refs[0], Direction.DOWNSTREAM)
        assert set(walk.refs()) == {refs[n] for n in reached - {0}}
        expanded = [node.ref for node in walk.root.walked() if not node.repeated]
        assert len(expanded) == len(set(expanded))
        drawn = sum(1 for node in walk.root.walked()) - 1
        assert drawn == sum(source in reached for source, _ in arrows)


def test_a_nested_name_loads_the_asset_that_it_names(
    sqlite_database: Database, make_call: Any
) -> None:
    with make_call(sqlite_database) as call:
        catalog.record(call, AssetRef("file", "data/flights.csv"), region="ae")
        found = catalog.load(call.connection, AssetRef("asset", "file/data/flights.csv"))
        assert found.ref == AssetRef("file", "data/flights.csv")
        assert found.attributes["region"] == "ae"
        assert not catalog.load(call.connection, AssetRef("definition", "entity/x")).exists
