"""The replay: what has happened comes before what is asked."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.demo.replay import Replay, Stream, sampled
from falaj.kernel.errors import InvalidInput

START = datetime(2013, 10, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def at(minutes: float) -> datetime:
    return START + timedelta(minutes=minutes)


def rows(minutes: list[float], name: str = "at") -> pa.Table:
    instants = [at(minute) for minute in minutes]
    return pa.table(
        {name: pa.array(instants, pa.timestamp("us", "UTC")), "number": range(len(minutes))}
    )


def replay(
    events: list[float], asked: list[float], *, hours: float = 24, latest: bool = False
) -> Replay:
    return Replay(
        [Stream("departures", rows(events), "at", latest=latest)],
        rows(asked),
        asked_at="at",
        begin=START,
        end=START + hours * HOUR,
    )


def handed(run: Replay) -> list[tuple[list[datetime], list[datetime]]]:
    return [
        (
            tick.events["departures"].column("at").to_pylist() if tick.events else [],
            tick.requests.column("at").to_pylist(),
        )
        for tick in run
    ]


MINUTES = st.lists(st.integers(-120, 2000), max_size=40)


@given(MINUTES, MINUTES)
def test_everything_in_the_time_is_handed_over_exactly_once_and_in_order(
    events: list[float], asked: list[float]
) -> None:
    run = replay(events, asked)
    ticks = handed(run)
    assert len(run) == len(ticks)
    pushed = [instant for tick, _ in ticks for instant in tick]
    requested = [instant for _, tick in ticks for instant in tick]
    assert pushed == sorted(at(minute) for minute in events if 0 < minute <= 24 * 60)
    assert requested == sorted(at(minute) for minute in asked if 0 <= minute < 24 * 60)
    assert run.n_requests == len(requested)


@given(MINUTES, MINUTES)
def test_what_was_known_to_a_request_is_pushed_before_it_and_no_more_than_a_tick_ahead(
    events: list[float], asked: list[float]
) -> None:
    pushed: list[datetime] = []
    for tick in replay(events, asked):
        if tick.events:
            pushed += tick.events["departures"].column("at").to_pylist()
        for request in tick.requests.column("at").to_pylist():
            known = {at(minute) for minute in events if at(0) < at(minute) <= request}
            assert known <= set(pushed)
            assert all(instant <= request + HOUR for instant in pushed)


@given(MINUTES, MINUTES)
def test_of_a_stream_of_latest_values_nothing_is_pushed_ahead_of_a_request(
    events: list[float], asked: list[float]
) -> None:
    pushed: list[datetime] = []
    for tick in replay(events, asked, latest=True):
        if tick.events:
            pushed += tick.events["departures"].column("at").to_pylist()
        for request in tick.requests.column("at").to_pylist():
            assert all(instant <= request for instant in pushed)
            assert {at(m) for m in events if at(0) < at(m) <= tick.starts_at} <= set(pushed)


def test_quiet_hours_are_merged_into_the_next_tick() -> None:
    ticks = list(replay([10, 70, 130, 190], [185], hours=10))
    assert [tick.n_events for tick in ticks] == [4, 0]
    assert ticks[0].starts_at == at(180)
    assert ticks[0].ends_at == at(240)


def test_the_last_tick_hands_over_what_happened_after_the_last_request() -> None:
    last = list(replay([500], [30]))[-1]
    assert last.n_events == 1
    assert last.requests.num_rows == 0


def test_a_second_iteration_begins_anew() -> None:
    run = replay([10, 20], [30])
    assert handed(run) == handed(run)


def test_rows_keep_all_their_columns() -> None:
    tick = next(iter(replay([20, 10], [30])))
    assert tick.events["departures"].column("number").to_pylist() == [1, 0]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (pa.table({"other": [1]}), "no instants 'at'"),
        (pa.table({"at": [1]}), "that column is int64"),
        (pa.table({"at": pa.array([datetime(2013, 1, 1)])}), "timestamp"),  # noqa: DTZ001
        (pa.table({"at": pa.array([None], pa.timestamp("us", "UTC"))}), "1 rows have no 'at'"),
    ],
)
def test_rows_without_instants_are_refused(table: pa.Table, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Replay([Stream("x", table, "at")], rows([1]), asked_at="at", begin=START, end=at(9))


def test_an_end_before_the_beginning_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no time to replay"):
        Replay([], rows([1]), asked_at="at", begin=START, end=START)


def test_a_sample_is_repeatable_and_falls_into_few_ticks() -> None:
    asked = rows([minute * 7.0 for minute in range(20_000)])
    one = sampled(asked, asked_at="at", spans=0.2, rows=0.5)
    assert one.equals(sampled(asked, asked_at="at", spans=0.2, rows=0.5))
    assert not one.equals(sampled(asked, asked_at="at", spans=0.2, rows=0.5, seed=8))
    assert one.num_rows == pytest.approx(2000, rel=0.15)
    hours = {instant.replace(minute=0) for instant in one.column("at").to_pylist()}
    assert len(hours) == pytest.approx(20_000 * 7 / 60 * 0.2, rel=0.15)


def test_a_whole_sample_is_everything() -> None:
    asked = rows([5, 1, 3])
    assert sampled(asked, asked_at="at", spans=1.0, rows=1.0).equals(asked)
