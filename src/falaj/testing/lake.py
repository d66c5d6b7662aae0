"""What every ``Lake`` must do; an adapter's test inherits ``LakeSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from falaj.kernel.errors import Conflict, FalajError, InvalidInput, NotFound
from falaj.lake.model import QueryRefused, SchemaMismatch
from falaj.lake.ports import Lake

AT = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)


def people(*numbers: int) -> pa.Table:
    """Rows with a number, a name and an instant."""
    return pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "name": pa.array([f"p{number}" for number in numbers], pa.string()),
            "seen_at": pa.array([AT] * len(numbers), pa.timestamp("us", tz="UTC")),
        }
    )


def numbers(rows: pa.Table) -> list[int]:
    """The column ``n``, sorted."""
    return sorted(rows["n"].to_pylist())


class LakeSuite:
    """Inherit it and give the fixture ``lake``: an empty lake."""

    @pytest.fixture
    def lake(self) -> Lake:
        """An empty lake."""
        raise NotImplementedError

    def test_the_first_write_makes_the_table_and_the_next_ones_add(self, lake: Lake) -> None:
        assert lake.tables() == []
        assert not lake.exists("people")
        first = lake.append("people", people(1, 2))
        second = lake.append("people", people(3))
        assert second.id > first.id
        assert lake.latest() == second.id
        assert lake.exists("people")
        assert lake.tables() == ["people"]
        assert numbers(lake.scan("people")) == [1, 2, 3]
        assert lake.count("people") == 3

    def test_rows_that_are_made_while_they_are_written_are_there_together_or_not_at_all(
        self, lake: Lake
    ) -> None:
        lake.append("people", people(9))
        lake.replace_in_batches("people", lambda: [people(1, 2), people(3)])
        assert numbers(lake.scan("people")) == [1, 2, 3]

        def broken() -> Iterator[pa.Table]:
            yield people(4)
            raise InvalidInput("The second batch cannot be made.")

        before = lake.latest()
        with pytest.raises(InvalidInput, match="second batch"):
            lake.replace_in_batches("people", broken)
        assert (lake.latest(), numbers(lake.scan("people"))) == (before, [1, 2, 3])

    def test_every_type_comes_back_as_it_was_written(self, lake: Lake) -> None:
        columns: dict[str, pa.Array] = {
            "b": pa.array([True, None]),
            "i8": pa.array([-1, None], pa.int8()),
            "i16": pa.array([-1, None], pa.int16()),
            "i32": pa.array([-1, None], pa.int32()),
            "i64": pa.array([-(2**62), None], pa.int64()),
            "u8": pa.array([255, None], pa.uint8()),
            "u32": pa.array([2**32 - 1, None], pa.uint32()),
            "u64": pa.array([2**64 - 1, None], pa.uint64()),
            "f32": pa.array([0.5, None], pa.float32()),
            "f64": pa.array([0.1, None], pa.float64()),
            "text": pa.array(["نخلة '\";--", None], pa.string()),
            "raw": pa.array([b"\0\xff", None], pa.binary()),
            "day": pa.array([AT.date(), None], pa.date32()),
            "clock": pa.array([AT.time(), None], pa.time64("us")),
            "at": pa.array([AT, None], pa.timestamp("us", tz="UTC")),
            "money": pa.array([Decimal("12.3400"), None], pa.decimal128(18, 4)),
            "many": pa.array([[1, None], None], pa.list_(pa.int64())),
            "pair": pa.array([{"x": 1.5, "y": "z"}, None]),
        }
        rows = pa.table(columns)
        lake.append("kinds", rows)
        assert lake.scan("kinds").to_pylist() == rows.to_pylist()
        assert {f.name: str(f.type) for f in lake.schema("kinds")} == {
            f.name: str(f.type) for f in rows.schema
        } | {"many": str(lake.schema("kinds").field("many").type)}

    def test_an_instant_of_another_zone_is_kept_in_utc_microseconds(self, lake: Lake) -> None:
        dubai = pa.array([AT], pa.timestamp("ms", tz="Asia/Dubai"))
        lake.append("t", pa.table({"at": dubai}))
        assert str(lake.schema("t").field("at").type) == "timestamp[us, tz=UTC]"
        assert lake.scan("t")["at"].to_pylist() == [AT.replace(microsecond=123000)]

    def test_rows_that_no_table_can_hold_are_refused_by_column(self, lake: Lake) -> None:
        cases: list[tuple[pa.Table, str]] = [
            (pa.table({"at": [datetime(2026, 1, 1)]}), "'at'.*without a time zone"),  # noqa: DTZ001
            (pa.table({"at": pa.array([1], pa.timestamp("ns", tz="UTC"))}), "'at'.*microsec"),
            (pa.table({"x": pa.nulls(2)}), "'x'.*no type"),
            (pa.table({"x": pa.array([timedelta(1)])}), "'x'.*duration"),
            (pa.table({"a b": [1]}), "'a b'"),
            (pa.table([[1], [2]], names=["a", "A"]), "'A'.*twice"),
            (pa.table({}), "no columns"),
        ]
        for rows, told in cases:
            with pytest.raises(SchemaMismatch, match=told):
                lake.append("t", rows)
        assert lake.tables() == []

    def test_rows_that_do_not_fit_the_table_change_nothing(self, lake: Lake) -> None:
        cases: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
            (lambda rows: rows.drop_columns(["name"]), "lack the column 'name'"),
            (lambda rows: rows.append_column("x", rows["n"]), "no column 'x'"),
            (lambda rows: rows.set_column(0, "n", pa.array(["1"])), "'n'.*int64, not string"),
            (lambda rows: rows.set_column(0, "n", pa.array([0.73])), "'n'.*int64, not double"),
            (lambda rows: rows.rename_columns(["N", "name", "seen_at"]), "lack the column 'n'"),
        ]
        before = lake.append("people", people(1))
        for change, told in cases:
            with pytest.raises(SchemaMismatch, match=told):
                lake.append("people", change(people(2)))
        assert lake.latest() == before.id

    def test_columns_are_matched_by_name_and_widened_without_loss(self, lake: Lake) -> None:
        lake.append("t", pa.table({"a": pa.array([1], pa.int64()), "f": [0.5]}))
        small = {"f": pa.array([0.25], pa.float32()), "a": pa.array([2], pa.uint32())}
        lake.append("t", pa.table(small))
        lake.append("t", pa.table({"a": pa.nulls(1), "f": pa.nulls(1)}))
        rows = lake.scan("t", order_by=["a"]).to_pylist()
        assert rows == [{"a": 1, "f": 0.5}, {"a": 2, "f": 0.25}, {"a": None, "f": None}]
        with pytest.raises(SchemaMismatch):
            lake.append("t", pa.table({"a": pa.array([2], pa.uint64()), "f": [0.5]}))

    def test_new_columns_are_added_only_when_asked_for(self, lake: Lake) -> None:
        first = lake.append("people", people(1))
        wider = people(2).append_column("age", pa.array([7], pa.int32()))
        lake.append("people", wider, add_columns=True)
        assert lake.scan("people", order_by=["n"])["age"].to_pylist() == [None, 7]
        assert "age" not in lake.schema("people", first.id).names

    def test_a_write_to_many_tables_is_all_or_none(self, lake: Lake) -> None:
        lake.append("a", people(1))
        before = lake.latest()
        with pytest.raises(SchemaMismatch):
            lake.append_many({"new": people(1), "a": pa.table({"other": [1]})})
        assert lake.latest() == before
        assert lake.tables() == ["a"]
        written = lake.append_many({"new": people(1), "a": people(2)})
        assert lake.count("new", written.id) == 1
        assert lake.count("a", written.id) == 2
        assert lake.latest() == before + 1

    def test_some_tables_are_replaced_and_others_appended_to_in_one_write(self, lake: Lake) -> None:
        lake.append_many({"a": people(1), "b": people(1)})
        before = lake.latest()
        lake.append_many({"a": people(2), "b": people(2)}, replace=["a"])
        assert lake.latest() == before + 1
        assert numbers(lake.scan("a")) == [2]
        assert numbers(lake.scan("b")) == [1, 2]

    def test_a_repeat_with_the_same_key_writes_nothing(self, lake: Lake) -> None:
        first = lake.append("people", people(1), key="load/1")
        lake.append("people", people(2))
        again = lake.append("people", people(1), key="load/1")
        written = lake.written("load/1")
        assert again.id == first.id
        assert written is not None
        assert written.id == first.id
        assert lake.written("load/2") is None
        assert numbers(lake.scan("people")) == [1, 2]
        with pytest.raises(Conflict, match="load/1"):
            lake.append("others", people(1), key="load/1")

    def test_an_empty_write_founds_a_table(self, lake: Lake) -> None:
        lake.append("people", people())
        assert lake.count("people") == 0
        assert lake.schema("people").names == ["n", "name", "seen_at"]

    def test_a_replacement_is_seen_whole_and_the_past_stays(self, lake: Lake) -> None:
        first = lake.append("people", people(1, 2))
        second = lake.replace("people", people(9))
        third = lake.replace("people", pa.table({"n": [5]}), key="k")
        lake.replace("people", pa.table({"n": [6]}))
        assert lake.replace("people", pa.table({"n": [5]}), key="k").id == third.id
        assert numbers(lake.scan("people")) == [6]
        assert numbers(lake.scan("people", snapshot=third.id)) == [5]
        assert numbers(lake.scan("people", snapshot=second.id)) == [9]
        assert numbers(lake.scan("people", snapshot=first.id)) == [1, 2]
        assert "name" in lake.schema("people", first.id).names

    def test_every_kept_snapshot_can_be_read(self, lake: Lake) -> None:
        made = [lake.append("history", people(number)) for number in range(4)]
        lake.append("others", people(1))
        for place, snapshot in enumerate(made):
            assert lake.count("history", snapshot.id) == place + 1
        assert [s.id for s in lake.snapshots("history")] == [s.id for s in made]
        assert {s.id for s in made} < {s.id for s in lake.snapshots()}
        assert [s.at for s in lake.snapshots("history")] == [s.at for s in made]
        assert lake.tables(made[-1].id) == ["history"]
        replaced = lake.replace("history", pa.table({"other": [1]}))
        assert [s.id for s in lake.snapshots("history")] == [*(s.id for s in made), replaced.id]

    def test_a_snapshot_that_never_was_is_named(self, lake: Lake) -> None:
        before = lake.append("a", people(1))
        lake.append("b", people(1))
        with pytest.raises(NotFound, match="999"):
            lake.scan("a", snapshot=999)
        with pytest.raises(NotFound, match="'b'"):
            lake.scan("b", snapshot=before.id)
        with pytest.raises(FalajError, match="999"):
            lake.query("SELECT * FROM a", snapshot=999)

    def test_a_scan_takes_columns_conditions_order_and_limit(self, lake: Lake) -> None:
        lake.append("people", people(3, 1, 2))
        rows = lake.scan(
            "people",
            columns=["name"],
            where="n >= $least AND name <> $name",
            parameters={"least": 1, "name": "p1' OR 1=1"},
            order_by=["n"],
            limit=2,
        )
        assert rows.to_pylist() == [{"name": "p1"}, {"name": "p2"}]
        for wrong in ({"columns": ["nope"]}, {"where": "nope = 1"}, {"order_by": ["nope"]}):
            with pytest.raises(InvalidInput, match="nope"):
                lake.scan("people", **wrong)

    def test_batches_give_the_same_rows_in_order(self, lake: Lake) -> None:
        lake.append("people", people(*range(5000, 0, -1)))
        reader = lake.batches("people", columns=["n"], order_by=["n"], rows_per_batch=1000)
        batches = list(reader)
        assert len(batches) > 1
        assert pa.Table.from_batches(batches)["n"].to_pylist() == list(range(1, 5001))
        with pytest.raises(NotFound):
            lake.batches("missing")

    def test_a_query_joins_inputs_with_tables_at_a_snapshot(self, lake: Lake) -> None:
        first = lake.append("people", people(1, 2))
        lake.append("people", people(3))
        spine = pa.table({"n": [2, 3], "weight": [0.5, 0.25]})
        sql = "WITH s AS (SELECT * FROM spine) SELECT p.n, weight FROM s JOIN people p USING (n)"
        assert numbers(lake.query(sql, inputs={"spine": spine})) == [2, 3]
        assert numbers(lake.query(sql, inputs={"spine": spine}, snapshot=first.id)) == [2]
        asked = lake.query("SELECT n FROM people WHERE n > $x", parameters={"x": 2})
        assert numbers(asked) == [3]
        with pytest.raises(InvalidInput, match="'people'"):
            lake.query("SELECT 1", inputs={"people": spine})
        with pytest.raises(InvalidInput, match="nope"):
            lake.query("SELECT nope FROM people")

    def test_a_name_that_no_table_has_is_refused(self, lake: Lake) -> None:
        for name in ("", "A", "1a", "a-b", "a.b", "x" * 64, 'a"b', "duckdb_x"):
            with pytest.raises(InvalidInput):
                lake.append(name, people(1))
            with pytest.raises(InvalidInput):
                lake.scan(name)
            assert not lake.exists(name)

    def test_a_missing_table_is_named(self, lake: Lake) -> None:
        asks: list[Callable[[str], Any]] = [
            lake.scan,
            lake.count,
            lake.schema,
            lake.info,
            lake.snapshots,
        ]
        for ask in asks:
            with pytest.raises(NotFound, match="'missing'"):
                ask("missing")
        with pytest.raises(QueryRefused, match="'missing'"):
            lake.query("SELECT * FROM missing")

    def test_compaction_leaves_few_files_and_every_snapshot_as_it_was(self, lake: Lake) -> None:
        made = [lake.append("people", people(number), key=str(number)) for number in range(6)]
        assert lake.info("people").n_files == 6
        lake.compact()
        assert lake.info("people").n_files == 1
        assert numbers(lake.scan("people")) == list(range(6))
        assert lake.count("people", made[2].id) == 3
        assert lake.append("people", people(0), key="0").id == made[0].id

    def test_expired_snapshots_are_gone_and_the_rows_stay(self, lake: Lake) -> None:
        made = [lake.append("people", people(number)) for number in range(3)]
        done = lake.expire(older_than=datetime.now(UTC) + timedelta(days=1), grace_seconds=-60)
        assert done.n_snapshots_expired >= 3
        assert numbers(lake.scan("people")) == [0, 1, 2]
        with pytest.raises(NotFound):
            lake.scan("people", snapshot=made[0].id)
        assert numbers(lake.scan("people", snapshot=made[2].id)) == [0, 1, 2]

    def test_every_row_has_a_position_that_grows_and_stays(self, lake: Lake) -> None:
        def log(since: int = 0, snapshot: int | None = None) -> dict[int, int]:
            reader = lake.log("people", columns=["n"], since=since, snapshot=snapshot)
            return {
                position: number
                for batch in reader
                for position, number in zip(
                    batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True
                )
            }

        first = lake.append("people", people(7, 5))
        extent = lake.extent("people")
        assert (extent.n_rows, sorted(log().values())) == (2, [5, 7])
        assert max(log()) == extent.end - 1
        second = lake.append("people", people(9))
        lake.append("others", people(1))
        assert log(since=extent.end) == {extent.end: 9}
        assert lake.extent("people", first.id) == extent
        assert lake.extent("people", before=extent.end) == extent
        before = log()
        for maintain in (
            lake.compact,
            lambda: lake.expire(
                older_than=datetime.now(UTC) + timedelta(days=1), grace_seconds=-60
            ),
            lambda: lake.append("people", people(4)),
            lake.compact,
        ):
            maintain()
            later = log()
            assert {position: later[position] for position in before} == before
        assert lake.extent("people", before=extent.end) == extent
        assert log(since=max(before) + 1) == {max(before) + 1: 4}
        with pytest.raises(NotFound):
            log(snapshot=second.id - 1)

    def test_an_extent_tells_a_table_that_was_not_only_appended_to(self, lake: Lake) -> None:
        lake.append("people", people(1, 2))
        extent = lake.extent("people")
        lake.append("people", people(3))
        lake.append("wide", people(3).append_column("age", pa.array([1])))
        lake.append("people", people(4).append_column("age", pa.array([1])), add_columns=True)
        assert lake.extent("people", before=extent.end) == extent
        same_columns = lake.scan("people").slice(0, 2)
        lake.replace("people", same_columns)
        replaced = lake.extent("people", before=extent.end)
        assert (replaced.identity, replaced.n_rows) != (extent.identity, extent.n_rows)
        lake.replace("people", people(1, 2))
        again = lake.extent("people", before=extent.end)
        assert again.identity != extent.identity
        for ask in (lake.extent, lambda table: lake.log(table, columns=["n"])):
            with pytest.raises(NotFound, match="'missing'"):
                ask("missing")
        lake.append("hidden", pa.table({"RowId": [1]}))
        with pytest.raises(InvalidInput, match="rowid"):
            lake.extent("hidden")

    def test_threads_write_and_read_at_once(self, lake: Lake) -> None:
        lake.append("people", people(-1))

        def write(number: int) -> None:
            lake.append("people", people(number))

        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(write, number) for number in range(12)]
            reading = [pool.submit(lake.count, "people") for _ in range(12)]
            for written in writing:
                written.result()
            assert all(1 <= read.result() <= 13 for read in reading)
        assert numbers(lake.scan("people")) == list(range(-1, 12))

    def test_a_closed_lake_opens_again_when_it_is_used(self, lake: Lake) -> None:
        lake.append("people", people(1))
        lake.close()
        lake.close()
        assert lake.count("people") == 1
