from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definition, Definitions
from falaj.catalog.model import Classification, Direction, Relation
from falaj.catalog.planning import Plan, Step
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.database import Database
from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.testing.calls import opened_call


class Source(Definition):
    kind: ClassVar[str] = "source"

    path: str = "flights.csv"


class View(Definition):
    kind: ClassVar[str] = "view"

    source: str | None = None
    table: str | None = None
    hours: int = 1

    def references(self) -> list[AssetRef]:
        found = [AssetRef("source", self.source)] if self.source else []
        return found + ([AssetRef("table", self.table)] if self.table else [])


class Group(Definition):
    kind: ClassVar[str] = "group"
    relation: ClassVar[Relation] = Relation.DEFINES

    views: tuple[str, ...] = ()

    def references(self) -> list[AssetRef]:
        return [AssetRef("view", view) for view in self.views]


KINDS: dict[str, type[Definition]] = {one.kind: one for one in (Source, View, Group)}
FLIGHTS = Source(name="flights", description="Flights of 2013", owner="team:delays", tags=("nyc",))
DELAYS = View(name="delays", source="flights", classification=Classification.INTERNAL)
ALL = Group(name="all", views=("delays",))
catalog = Catalog()


def _definitions(**appliers: Any) -> Definitions:
    return Definitions(catalog, KINDS, appliers)


definitions = _definitions()


def _steps(plan: Plan) -> dict[str, str]:
    return {f"{item.kind}:{item.name}": str(item.step) for item in plan.items}


def test_a_plan_says_what_would_change_and_changes_nothing(
    database: Database, make_call: Any
) -> None:
    with make_call(database) as call:
        definitions.apply(call, [FLIGHTS, DELAYS])
    longer = DELAYS.model_copy(update={"hours": 24, "description": "Late"})
    with database.reading() as connection:
        plan = definitions.plan(connection, [longer, ALL])
        assert definitions.listed(connection, kind="group") == []
    assert _steps(plan) == {
        "view:delays": "update",
        "group:all": "create",
        "source:flights": "removed-but-kept",
    }
    (update,) = (item for item in plan.items if item.step is Step.UPDATE)
    assert [(one.field, one.before, one.after) for one in update.changes] == [
        ("description", "", "Late"),
        ("hours", 1, 24),
    ]
    assert update.version == 2
    assert plan.summary() == {"create": 1, "update": 1, "unchanged": 0, "removed-but-kept": 1}


def test_applying_twice_changes_nothing_the_second_time(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        first = definitions.apply(call, [FLIGHTS, DELAYS, ALL])
    with make_call(database) as call:
        second = definitions.apply(call, [ALL, DELAYS, FLIGHTS])
        assert [event.type for event in call.events] == []
    assert set(_steps(first).values()) == {"create"}
    assert set(_steps(second).values()) == {"unchanged"}
    with database.reading() as connection:
        assert len(definitions.history(connection, "view", "delays")) == 1
        assert catalog.get(connection, DELAYS.ref).version == 2  # made, then described


def test_upstream_is_applied_first(database: Database, make_call: Any) -> None:
    order: list[str] = []
    noting = _definitions(**{kind: lambda call, one: order.append(one.name) for kind in KINDS})
    with make_call(database) as call:
        plan = noting.apply(call, [ALL, DELAYS, FLIGHTS])
    assert order == ["flights", "delays", "all"] == [item.name for item in plan.items]
    assert [event.payload["name"] for event in call.events if event.type == "definition.applied"] \
        == order  # fmt: skip


def test_a_definition_is_an_asset_with_edges_from_what_it_refers_to(
    database: Database, make_call: Any
) -> None:
    with make_call(database, "user:omar") as call:
        definitions.apply(call, [FLIGHTS, DELAYS, ALL])
    with database.reading() as connection:
        source = catalog.get(connection, FLIGHTS.ref)
        assert (source.owner, source.tags, source.description) == (
            "team:delays", ("nyc",), "Flights of 2013",
        )  # fmt: skip
        assert source.attributes["fingerprint"] == FLIGHTS.fingerprint
        view = catalog.get(connection, DELAYS.ref)
        assert (view.owner, view.classification) == ("user:omar", Classification.INTERNAL)
        walk = catalog.walk(connection, FLIGHTS.ref, Direction.DOWNSTREAM)
        assert walk.refs() == [DELAYS.ref, ALL.ref]
        (edge,) = catalog.upstream(connection, ALL.ref)
        assert edge.relation is Relation.DEFINES


def test_a_reference_that_is_dropped_drops_its_edge(database: Database, make_call: Any) -> None:
    with make_call(database, roles=["steward"]) as call:
        definitions.apply(call, [FLIGHTS, DELAYS])
        definitions.apply(call, [View(name="delays", table="flights_clean")])
        (edge,) = catalog.upstream(call.connection, DELAYS.ref)
    assert edge.source == AssetRef("table", "flights_clean")


def test_an_applier_that_fails_undoes_everything(database: Database, make_call: Any) -> None:
    def broken(call: Call, definition: Definition) -> None:
        raise Conflict("The table is in use.")

    failing = _definitions(group=broken)
    with pytest.raises(Conflict, match="in use"), make_call(database) as call:
        failing.apply(call, [FLIGHTS, DELAYS, ALL])
    with database.reading() as connection:
        assert definitions.listed(connection) == []
        assert not catalog.exists(connection, FLIGHTS.ref)


def test_versions_are_kept_and_any_of_them_can_be_read(database: Database, make_call: Any) -> None:
    for n in (1, 2, 3):
        with make_call(database, f"user:u{n}") as call:
            definitions.apply(call, [View(name="delays", hours=n)])
    with database.reading() as connection:
        assert definitions.current(connection, "view", "delays")["hours"] == 3
        assert definitions.definition(connection, "view", "delays") == View(name="delays", hours=3)
        assert definitions.version(connection, "view", "delays", 2).document["hours"] == 2
        history = definitions.history(connection, "view", "delays")
        assert [(one.version, one.by) for one in history] == [
            (3, "user:u3"), (2, "user:u2"), (1, "user:u1"),
        ]  # fmt: skip
        with pytest.raises(NotFound, match="version 4"):
            definitions.version(connection, "view", "delays", 4)


def test_a_missing_definition_is_named(sqlite_database: Database) -> None:
    with sqlite_database.reading() as connection:
        with pytest.raises(NotFound, match="no view 'delays'"):
            definitions.current(connection, "view", "delays")
        with pytest.raises(NotFound):
            definitions.history(connection, "view", "delays")


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([{"kind": "vew", "name": "x"}], "'vew' is not a kind"),
        ([{"name": "x"}], "None is not a kind"),
        ([{"kind": "view", "name": "Big Name"}], "view:Big Name: name"),
        ([{"kind": "view", "name": "x", "hours": "many"}], "hours"),
        ([{"kind": "view", "name": "x", "wrong": 1}], "wrong"),
        ([{"kind": "view"}], "name: Field required"),
        ([FLIGHTS, FLIGHTS], "declared twice"),
        ([DELAYS], "source:flights, which is not declared"),
    ],
)
def test_what_is_wrong_with_a_document_is_told_and_nothing_is_done(
    sqlite_database: Database, make_call: Any, documents: list[Any], told: str
) -> None:
    with pytest.raises(InvalidInput, match=told), make_call(sqlite_database) as call:
        definitions.apply(call, documents)
    with sqlite_database.reading() as connection:
        assert definitions.listed(connection) == []


def test_all_problems_are_told_at_once(sqlite_database: Database) -> None:
    documents = [{"kind": "view", "name": "x", "hours": "?"} for _ in range(7)]
    with sqlite_database.reading() as connection, pytest.raises(InvalidInput) as caught:
        definitions.plan(connection, documents)
    assert len(caught.value.details["problems"]) == 7
    assert "and 2 more" in caught.value.message


def test_a_circle_of_references_is_refused(sqlite_database: Database) -> None:
    class Node(Definition):
        kind: ClassVar[str] = "node"
        uses: str

        def references(self) -> list[AssetRef]:
            return [AssetRef("node", self.uses)]

    circular = Definitions(catalog, {"node": Node}, {})
    documents = [Node(name="a", uses="b"), Node(name="b", uses="a")]
    with sqlite_database.reading() as connection, pytest.raises(InvalidInput, match="circle"):
        circular.plan(connection, documents)


def test_what_was_planned_is_done_and_nothing_else(database: Database, make_call: Any) -> None:
    with make_call(database) as call:
        planned = definitions.plan(call.connection, [FLIGHTS])
    with make_call(database, "user:omar") as call:
        definitions.apply(call, [Source(name="flights", path="other.csv")])
    with pytest.raises(Conflict, match="changed since"), make_call(database) as call:
        definitions.apply(call, [FLIGHTS], planned=planned.digest)
    with make_call(database) as call:
        again = definitions.plan(call.connection, [FLIGHTS])
        done = definitions.apply(call, [FLIGHTS], planned=again.digest)
    assert done == again


def test_applies_at_the_same_time_follow_each_other(database: Database) -> None:
    barrier = threading.Barrier(4)
    failures: list[Exception] = []

    def one(n: int) -> None:
        barrier.wait()
        try:
            with opened_call(database, f"user:u{n}") as call:
                definitions.apply(call, [FLIGHTS, View(name="delays", source="flights", hours=n)])
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database.reading() as connection:
        history = definitions.history(connection, "view", "delays")
        assert [one.version for one in history] == [4, 3, 2, 1]
        assert {one.document["hours"] for one in history} == {0, 1, 2, 3}
        assert len(definitions.history(connection, "source", "flights")) == 1


def test_a_field_that_its_class_gained_is_no_difference(
    sqlite_database: Database, make_call: Any
) -> None:
    class LaterSource(Source):
        encoding: str = "utf-8"

    with make_call(sqlite_database) as call:
        definitions.apply(call, [FLIGHTS])
    later = Definitions(catalog, {"source": LaterSource}, {})
    documents = [{"kind": "source", "name": "flights", "description": "Flights of 2013",
                  "owner": "team:delays", "tags": ["nyc"]}]  # fmt: skip
    with sqlite_database.reading() as connection:
        assert _steps(later.plan(connection, documents)) == {"source:flights": "unchanged"}


def test_a_class_that_lost_a_field_can_still_be_applied(
    sqlite_database: Database, make_call: Any
) -> None:
    class Bare(Definition):
        kind: ClassVar[str] = "view"

    with make_call(sqlite_database) as call:
        definitions.apply(call, [View(name="delays", hours=3)])
    with make_call(sqlite_database) as call:
        plan = Definitions(catalog, {"view": Bare}, {}).apply(call, [Bare(name="delays")])
    assert _steps(plan) == {"view:delays": "update"}


def test_an_applier_without_its_kind_is_a_mistake_of_the_wiring() -> None:
    with pytest.raises(ValueError, match="stranger"):
        Definitions(catalog, KINDS, {"stranger": lambda call, one: None})


@given(
    st.builds(
        View,
        name=st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True),
        description=st.text(),
        hours=st.integers(),
        tags=st.lists(st.text()).map(tuple),
    )
)
def test_a_fingerprint_depends_on_the_content_alone(view: View) -> None:
    document: Mapping[str, Any] = view.document()
    turned = {name: document[name] for name in reversed(document)}
    turned.pop("kind")
    assert View.model_validate(turned).fingerprint == view.fingerprint
    other = view.model_copy(update={"hours": view.hours + 1})
    assert other.fingerprint != view.fingerprint


@pytest.mark.parametrize("wrong", [{"owner": "maryam"}, {"region": "The Gulf"}])
def test_an_owner_or_region_that_is_none_is_refused_when_it_is_declared(
    wrong: dict[str, str],
) -> None:
    with pytest.raises(ValueError, match="is not"):
        Source(name="flights", **wrong)
