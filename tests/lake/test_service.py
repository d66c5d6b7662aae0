from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from falaj.catalog.assets import Catalog
from falaj.catalog.model import Classification
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.ports import Resource
from falaj.lake.service import TableService, record_table
from falaj.testing.calls import make_door, opened_call
from falaj.testing.seeing import whole

AT = datetime(2026, 5, 1, 8, 0, tzinfo=UTC)


@pytest.fixture
def ask(lake, sqlite_database):
    lake.append(
        "orders",
        pa.table(
            {
                "id": [1, 2, 3],
                "at": pa.array([AT] * 3, pa.timestamp("us", tz="UTC")),
                "raw": [b"\xff", None, b""],
                "part": [0.5, float("nan"), float("inf")],
                "money": pa.array([Decimal("1.50"), None, None], pa.decimal128(9, 2)),
                "tags": [["a"], [], None],
                "pair": [{"x": AT}, None, None],
            }
        ),
    )
    lake.append("hidden", pa.table({"n": [1]}))
    catalog = Catalog()
    with opened_call(sqlite_database) as call:
        record_table(
            call, catalog, "orders", n_rows=3, snapshot=1, classification=Classification.PERSONAL
        )
        record_table(call, catalog, "hidden")

    def visible(call, resource: Resource) -> bool:
        return resource.ref != AssetRef("table", "hidden")

    service = TableService(lake, whole(lake), catalog, visible, lambda _c, _a, _r: True)
    door = make_door(sqlite_database, [service], resources=catalog)
    actions = {found.verb: found for found in TableService.actions()}
    return lambda verb, **arguments: door.call(actions[verb], arguments)


def test_only_tables_that_the_caller_may_know_are_listed(ask):
    (found,) = ask("list")
    assert (found.name, found.n_rows, found.classification) == ("orders", 3, "personal")


def test_rows_are_read_json_ready_up_to_the_limit(ask):
    found = ask("read", table="orders", limit=2, order_by=["id"])
    assert found.n_total == 3
    assert found.rows == [
        {
            "id": 1,
            "at": "2026-05-01T08:00:00Z",
            "raw": "ff",
            "part": 0.5,
            "money": "1.50",
            "tags": ["a"],
            "pair": {"x": "2026-05-01T08:00:00Z"},
        },
        {
            "id": 2,
            "at": "2026-05-01T08:00:00Z",
            "raw": None,
            "part": "nan",
            "money": None,
            "tags": [],
            "pair": None,
        },
    ]
    assert ask("read", table="orders", columns=["id"]).columns == ["id"]


def test_rows_are_read_as_of_a_snapshot(ask, lake):
    before = lake.latest()
    lake.replace("orders", pa.table({"id": [9]}))
    assert ask("read", table="orders").rows == [{"id": 9}]
    assert ask("read", table="orders", snapshot=before, columns=["id"]).n_total == 3
    assert [s.id for s in ask("snapshots", table="orders")] == [1 + 1, lake.latest()]


@pytest.mark.parametrize("limit", [0, 1001, -1])
def test_a_limit_out_of_bounds_is_refused(ask, limit):
    with pytest.raises(InvalidInput, match="between 1 and 1000"):
        ask("read", table="orders", limit=limit)


def test_a_table_is_described_and_a_missing_one_is_named(ask):
    info = ask("get", table="orders")
    assert info.n_rows == 3
    assert [column.name for column in info.columns][:2] == ["id", "at"]
    with pytest.raises(NotFound, match="nope"):
        ask("get", table="nope")
