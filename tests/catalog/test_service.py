from __future__ import annotations

from typing import Any, ClassVar

import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definition, Definitions
from falaj.catalog.model import Classification, Direction, Relation
from falaj.catalog.service import AssetService, DefinitionService
from falaj.kernel.call import AssetRef, Call, Caller
from falaj.kernel.database import Database
from falaj.kernel.door import LocalDoor, face
from falaj.kernel.errors import Forbidden, InvalidInput, NotFound
from falaj.kernel.ports import Resource
from falaj.testing.calls import make_caller, make_door
from falaj.testing.fakes import MemoryAudit, RulePolicy

FLIGHTS = AssetRef("table", "flights")
SECRET = AssetRef("table", "salaries")
VIEW = AssetRef("feature_view", "delays")
catalog = Catalog()


class Source(Definition):
    kind: ClassVar[str] = "source"
    path: str = ""


def _may(caller: Caller, resource: Resource) -> bool:
    sensitive = resource.attributes.get("classification") == Classification.SENSITIVE
    return not sensitive or "steward" in caller.principal.roles


def _visible(call: Call, resource: Resource) -> bool:
    return _may(call.caller, resource)


def _door(database: Database, *roles: str, audit: MemoryAudit | None = None) -> LocalDoor:
    declared = Definitions(catalog, {"source": Source}, {})
    return make_door(
        database,
        [AssetService(catalog, _visible), DefinitionService(declared, catalog, _visible)],
        caller=make_caller(roles=roles),
        policy=RulePolicy(lambda caller, _name, resource, _up: _may(caller, resource)),
        resources=catalog,
        audit=audit,
    )


@pytest.fixture
def filled(database: Database, make_call: Any) -> Database:
    with make_call(database) as call:
        catalog.record(call, FLIGHTS, description="Flights")
        catalog.record(call, SECRET, classification=Classification.SENSITIVE)
        catalog.record(call, VIEW)
        catalog.link(call, FLIGHTS, VIEW, Relation.FEEDS)
        catalog.link(call, SECRET, VIEW, Relation.FEEDS)
    return database


def test_search_returns_only_what_the_caller_may_see(filled: Database) -> None:
    mine = face(AssetService, _door(filled)).search()
    theirs = face(AssetService, _door(filled, "steward")).search("table")
    assert {asset.ref for asset in mine} == {FLIGHTS, VIEW}
    assert {asset.ref for asset in theirs} == {FLIGHTS, SECRET}


def test_a_limit_counts_what_the_caller_may_see(filled: Database) -> None:
    assets = face(AssetService, _door(filled))
    assert len(assets.search(limit=2)) == 2
    for wrong in (0, 501):
        with pytest.raises(InvalidInput, match="limit"):
            assets.search(limit=wrong)


def test_a_forbidden_asset_looks_like_a_missing_one(filled: Database) -> None:
    assets = face(AssetService, _door(filled))
    with pytest.raises(NotFound):
        assets.get("table", "salaries")
    with pytest.raises(NotFound):
        assets.get("table", "nowhere")
    assert face(AssetService, _door(filled, "steward")).get("table", "salaries").ref == SECRET


def test_a_lineage_shows_no_forbidden_asset(filled: Database) -> None:
    mine = face(AssetService, _door(filled)).lineage("feature_view", "delays")
    theirs = face(AssetService, _door(filled, "steward")).lineage("feature_view", "delays")
    down = face(AssetService, _door(filled)).lineage(
        "table", "flights", direction=Direction.DOWNSTREAM
    )
    assert mine.refs() == [FLIGHTS]
    assert set(theirs.refs()) == {FLIGHTS, SECRET}
    assert down.refs() == [VIEW]
    with pytest.raises(InvalidInput, match="max_depth"):
        face(AssetService, _door(filled)).lineage("table", "flights", max_depth=0)


def test_describing_sets_what_is_given_and_is_audited(filled: Database) -> None:
    audit = MemoryAudit()
    assets = face(AssetService, _door(filled, audit=audit))
    asset = assets.describe("table", "flights", tags=["nyc"], owner="team:delays", region="ae")
    assert (asset.tags, asset.owner, asset.description) == (("nyc",), "team:delays", "Flights")
    assert assets.describe("table", "flights", tags=[]).tags == ()
    newest, *_ = assets.history("table", "flights")
    assert newest.action == "assets.describe"
    assert (audit.entries[0].action, audit.entries[0].resource) == (
        "assets.describe",
        "asset:table/flights",
    )
    with pytest.raises(InvalidInput, match="Nothing was given"):
        assets.describe("table", "flights")


DOCUMENTS = [{"kind": "source", "name": "flights", "path": "flights.csv"}]


def test_definitions_go_through_the_door(database: Database) -> None:
    audit = MemoryAudit()
    definitions = face(DefinitionService, _door(database, audit=audit))
    planned = definitions.plan(DOCUMENTS)
    done = definitions.apply(DOCUMENTS, planned=planned.digest)
    assert done == planned
    assert audit.entries[-1].details["plan"]["create"] == 1
    changed = [{**DOCUMENTS[0], "path": "new.csv"}]
    definitions.apply(changed)
    assert [one.name for one in definitions.list()] == ["flights"]
    assert definitions.list(kind="other") == []
    assert definitions.get("source", "flights").document["path"] == "new.csv"
    assert definitions.get("source", "flights", version=1).document["path"] == "flights.csv"
    assert [one.version for one in definitions.history("source", "flights")] == [2, 1]


def test_forbidden_definitions_are_neither_listed_nor_changed(database: Database) -> None:
    stewards = face(DefinitionService, _door(database, "steward"))
    mine = face(DefinitionService, _door(database))
    secret = {"kind": "source", "name": "salaries", "classification": "sensitive"}
    stewards.apply([secret])
    assert mine.list() == []
    assert mine.plan(DOCUMENTS).summary() == {
        "create": 1, "update": 0, "unchanged": 0, "removed-but-kept": 0,
    }  # fmt: skip
    assert stewards.plan(DOCUMENTS).summary()["removed-but-kept"] == 1
    with pytest.raises(Forbidden, match="salaries"):
        mine.apply([{**secret, "classification": "public"}])
    assert stewards.get("source", "salaries").document["classification"] == "sensitive"
    with pytest.raises(NotFound):
        mine.get("source", "salaries")
