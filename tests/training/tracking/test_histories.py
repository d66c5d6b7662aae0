"""Histories of metrics: appended, moved, put together, and read as if nothing had happened."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from sqlalchemy import func, select

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.testing.calls import opened_call
from falaj.training.model import MetricPoint, RunState
from falaj.training.tables import metric_chunk_rows, metric_tail_rows
from falaj.training.tracking import histories
from falaj.training.tracking.points import Points

AT = datetime(2026, 1, 1, tzinfo=UTC)
point = st.tuples(
    st.sampled_from("ab"), st.integers(-2, 3), st.integers(0, 2), st.floats(allow_nan=True)
)


def logged(points):
    return Points.of(*(list(column) for column in zip(*points, strict=True)))


def same(found, expected):
    return len(found) == len(expected) and all(
        a[:2] == b[:2] and (a[2] == b[2] or (math.isnan(a[2]) and math.isnan(b[2])))
        for a, b in zip(found, expected, strict=True)
    )


def read(call, run, key):
    found = histories.history(call.connection, run, key)
    return list(zip(found.steps.tolist(), found.at.tolist(), found.values.tolist(), strict=True))


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.lists(point, min_size=1, max_size=5), min_size=1, max_size=6),
    st.sets(st.integers(0, 5)),
)
def test_a_history_is_the_same_wherever_its_points_lie(runs, sqlite_database, calls, moved):
    with opened_call(sqlite_database) as call:
        run = runs.start(call, experiment="late").id
        expected = {"a": {}, "b": {}}
        for number, points in enumerate(calls):
            runs.log(call, run, metrics=logged(points))
            for key, step, at, value in points:
                bits = "nan" if math.isnan(value) else (value, math.copysign(1, value))
                expected[key].setdefault((step, at, bits), (step, at, value))
            if number in moved:
                histories.move_tail(call.connection, run)
        for settled in (False, True):
            if settled:
                histories.MANY_CHUNKS, kept = 2, histories.MANY_CHUNKS
                histories.settle(call.connection, run)
                histories.MANY_CHUNKS = kept
            for key, points in expected.items():
                wanted = sorted(points.values(), key=lambda one: one[:2])
                assert same(read(call, run, key), wanted)


class Between:
    """A statement, and what somebody else does right after the first of some."""

    def __init__(self, statement, todo):
        self.statement, self.todo = statement, todo

    def all(self, connection, values):
        rows = self.statement.all(connection, values)
        while self.todo:
            self.todo.pop()()
        return rows


def test_points_that_are_moved_while_a_history_is_read_are_there_once(runs, database, monkeypatch):
    points = [("a", step, 0, math.nan if step == 1 else float(step)) for step in range(4)]
    with opened_call(database) as call:
        run = runs.start(call, experiment="late").id
        runs.log(call, run, metrics=logged(points[:2]))
        histories.move_tail(call.connection, run)
        runs.log(call, run, metrics=logged(points[1:]))

    def move():
        with database.transaction() as connection:
            histories.move_tail(connection, run)

    todo = [move]
    monkeypatch.setattr(histories, "_TAIL", Between(histories._TAIL, todo))
    monkeypatch.setattr(histories, "_CHUNKS", Between(histories._CHUNKS, todo))
    with database.reading() as connection:
        found = histories.history(connection, run, "a")
    assert not todo
    assert found.steps.tolist() == [0, 1, 2, 3]
    assert str(found.values.tolist()) == "[0.0, nan, 2.0, 3.0]"


def test_many_calls_leave_a_short_tail_and_the_end_of_a_run_leaves_none(
    runs, database, monkeypatch
):
    monkeypatch.setattr(histories, "MOVED_EVERY", 10)
    monkeypatch.setattr(histories, "CHUNK_POINTS", 40)

    def count(call, table):
        return call.connection.execute(select(func.count()).select_from(table)).scalar()

    with opened_call(database) as call:
        run = runs.start(call, experiment="late").id
        for step in range(95):
            runs.log(call, run, metrics=[MetricPoint(key="m", value=step, step=step)])
        assert count(call, metric_tail_rows) < 10
        runs.finish(call, run, RunState.FAILED)
        assert count(call, metric_tail_rows) == 0
        assert count(call, metric_chunk_rows) <= 4
        found = runs.series(call.connection, run, "m", first_step=10, last_step=12)
        assert found.values.tolist() == [10.0, 11.0, 12.0]
        assert [one.value for one in runs.history(call.connection, run, "m")] == list(range(95))


def test_points_are_the_same_behind_their_bytes_and_their_json():
    points = Points.of(["b", "a", "b"], [1, 2, 3], [10, 20, 30], [math.nan, math.inf, -0.0])
    assert points.keys == {"b": 2, "a": 1}
    again = Points.unpacked(points.keys, points.packed())
    adapter = TypeAdapter(Points)
    read = adapter.validate_json(adapter.dump_json(points))
    for other in (again, read):
        assert other.steps.tolist() == [1, 3, 2]
        assert other.at.tolist() == [10, 30, 20]
        assert other.packed() == points.packed()
    assert points.recorded()["n_points"] == 3
    assert len(points.recorded()["sha256"]) == 64
    with pytest.raises(Corrupt, match="bytes"):
        Points.unpacked({"a": 4}, points.packed())
    with pytest.raises(InvalidInput, match="64 bits"):
        Points.of(["a"], [2**63], [0], [0.0])
    with pytest.raises(InvalidInput, match="equally long"):
        Points.of(["a"], [1, 2], [0], [0.0])


def test_a_sample_keeps_the_first_and_the_last_point():
    points = Points.of(["m"] * 100, range(100), range(100), [0.0] * 100)
    for most in (1, 2, 7, 99, 100, 1000):
        steps = histories.sampled(points, most).steps.tolist()
        assert len(steps) <= most
        assert steps[-1] == 99
        assert most == 1 or steps[0] == 0
