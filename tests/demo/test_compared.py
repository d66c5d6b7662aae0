"""The demo's A/B test is declared whole, and counts each asked flight once, when it has left."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from falaj.demo import compared
from falaj.demo.definitions.model import endpoint
from falaj.demo.live import BEGIN, END, Lived, drawn
from falaj.demo.running import Answered, Codes
from falaj.rollouts.metrics import tables_read
from falaj.serving.names import table_of


def tick(asked: int, *left: tuple[str, float]) -> Any:
    ids, late = [one for one, _ in left], [value for _, value in left]
    rows = pa.table({"flight_id": ids, "late": pa.array(late, pa.float64())})
    events = {"departures": rows} if left else {}
    return SimpleNamespace(events=events, requests=SimpleNamespace(num_rows=asked))


def test_an_outcome_is_told_once_and_of_flights_alone_that_were_asked_about() -> None:
    written: list[pa.Table] = []
    lake = SimpleNamespace(exists=lambda _: True, append=lambda _, rows: written.append(rows))
    premises: Any = SimpleNamespace(lake=lake)
    outcomes = compared.Outcomes(premises, "noura")
    seen = Lived(answers=[Answered(one, "pred", 0.5, 0.001) for one in ("a", "b", "c")])
    outcomes.after(tick(3, ("a", 1.0), ("never asked", 0.0)), seen)
    assert not written
    outcomes.after(tick(0, ("b", 0.0)), seen)
    outcomes.after(tick(0), seen)
    outcomes.after(tick(0, ("c", 1.0)), seen)
    assert [table.column("unit").to_pylist() for table in written] == [["a", "b"], ["c"]]
    assert [table.column("late").to_pylist() for table in written] == [[1.0, 0.0], [1.0]]
    assert outcomes.n == 3


@pytest.mark.parametrize(
    ("score", "late", "right"), [(0.4, 1.0, 1.0), (0.39, 1.0, 0.0), (0.39, 0.0, 1.0)]
)
def test_a_flight_is_told_rightly_if_the_score_and_what_came_agree(
    score: float, late: float, right: float
) -> None:
    metric, log = compared.metric(), table_of(endpoint.name)
    assert tables_read(metric, endpoint.name) == {log, compared.OUTCOMES}
    with duckdb.connect() as engine:
        engine.execute(f"CREATE TABLE {log} AS SELECT 'a' AS unit, {score} AS score")
        engine.execute(f"CREATE TABLE {compared.OUTCOMES} AS SELECT 'a' AS unit, 1 AS known_at,"
                       f" {late} AS late")  # fmt: skip
        found = engine.execute(metric.sql or "").fetchone()
    assert found == ("a", 1, right)


def test_the_test_can_be_decided_by_fewer_flights_than_are_asked_about(
    year: Mapping[str, pa.Table],
) -> None:
    made = compared.ab_test(2)
    assert made.success is not None
    assert made.success.most_units is not None
    asked = drawn(year["departures"]).column("asked_at")
    live = pc.and_(pc.greater_equal(asked, BEGIN), pc.less(asked, END))
    assert made.success.most_units < pc.sum(live).as_py()


def test_a_code_of_an_authenticator_is_given_once() -> None:
    codes = Codes("JBSWY3DPEHPK3PXP" * 2, last=0)
    assert codes.next() != codes.next()
