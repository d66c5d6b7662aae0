"""Sketches of the prediction log: kept once, rolled up without loss, read by window."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from sqlalchemy import func, select, text

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import NotFound
from falaj.models.reference import statistics_of
from falaj.monitoring.keptsketches import HOUR, MINUTE, KeptSketches
from falaj.monitoring.sketches import Bins, Sketch
from falaj.monitoring.tables import sketch_rows
from falaj.serving.logged import SCHEMA
from falaj.training.encoding import EncodedFeature, Encoding

NOW = datetime(2026, 11, 9, 12, tzinfo=UTC)
RANDOM = np.random.default_rng(0)
TRAINED = RANDOM.lognormal(size=(2_000, 2)).astype(np.float32)
ENCODING = Encoding(features=tuple(EncodedFeature(name=name) for name in "ab"))
BINS = Bins.of(statistics_of(ENCODING, TRAINED, RANDOM.uniform(size=2_000)))


def bins_of(model, version):
    if model != "delay":
        raise NotFound(f"There is no model {model!r}.")
    return BINS


def logged(times, *, model="delay", variant="champion", seed=1, shadow=None):
    random = np.random.default_rng(seed)
    n = len(times)
    scores = random.uniform(size=n)
    given = {
        "endpoint": ["delays"] * n,
        "variant": [variant] * n,
        "model": [model] * n,
        "version": [1] * n,
        "predicted_for": times,
        "features": random.lognormal(size=(n, 2)).astype(np.float32).tolist(),
        "score": scores,
        "shadow": [shadow] * n,
    }
    columns = [pa.array(given.get(field.name, [None] * n), field.type) for field in SCHEMA]
    return pa.table(columns, schema=SCHEMA)


def of_rows(rows):
    matrix = np.array(rows.column("features").to_pylist(), dtype=np.float32).reshape(-1, 2)
    return Sketch.of(BINS, matrix, rows.column("score").to_numpy())


@pytest.fixture
def kept(database):
    return KeptSketches(database, bins_of, SetClock(NOW))


def window(kept, database, since, until, **more):
    with database.reading() as connection:
        return kept.window(connection, "delays", "delay", 1, since, until, **more)


def count(database):
    with database.reading() as connection:
        return connection.execute(select(func.count()).select_from(sketch_rows)).scalar()


def same(one, other):
    for name in Sketch.__dataclass_fields__:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-6)
    return True


def test_a_window_says_what_its_rows_say(kept, database):
    times = [NOW - timedelta(seconds=7 * number) for number in range(200)]
    rows = logged(times)
    kept.take("s1", rows.slice(0, 80))
    kept.take("s2", rows.slice(80))
    assert same(window(kept, database, NOW - timedelta(hours=1), NOW + timedelta(hours=1)),
                of_rows(rows))  # fmt: skip
    since = NOW - timedelta(minutes=10)
    inside = rows.filter(pa.array([time >= since for time in times]))
    assert same(window(kept, database, since, NOW + timedelta(hours=1)), of_rows(inside))


def test_a_segment_that_comes_again_is_counted_once(kept, database):
    rows = logged([NOW] * 30)
    kept.take("s1", rows)
    kept.take("s1", rows)
    assert window(kept, database, NOW, NOW + timedelta(minutes=1)).n == 30


def test_minutes_become_hours_and_hours_days_and_nothing_is_lost(kept, database):
    old = [NOW - timedelta(days=3, minutes=7 * number) for number in range(40)]
    older = [NOW - timedelta(days=100, hours=5 * number) for number in range(12)]
    rows = logged([*old, *older, NOW])
    kept.take("s1", rows)
    before = count(database)
    while kept.roll_up():
        pass
    assert before == 53
    assert count(database) < 12
    whole = window(kept, database, NOW - timedelta(days=400), NOW + timedelta(days=1))
    assert same(whole, of_rows(rows))
    day = window(kept, database, NOW - timedelta(hours=1), NOW + timedelta(days=1))
    assert day.n == 1


def test_rows_that_come_late_join_what_was_rolled_up(kept, database):
    at = NOW - timedelta(days=5)
    kept.take("s1", logged([at]))
    kept.roll_up()
    kept.take("s2", logged([at], seed=2))
    while kept.roll_up():
        pass
    assert count(database) == 1
    assert window(kept, database, at - timedelta(hours=1), NOW).n == 2


def test_variants_are_told_apart(kept, database):
    kept.take("s1", logged([NOW] * 4))
    kept.take("s2", logged([NOW] * 3, variant="challenger"))
    until = NOW + timedelta(minutes=1)
    assert window(kept, database, NOW, until).n == 7
    assert window(kept, database, NOW, until, variant="challenger").n == 3


def test_rows_of_the_erased_are_left_out(kept, database):
    rows = logged([NOW] * 5)
    features = pa.array([None, *rows.column("features").to_pylist()[1:]], pa.list_(pa.float32()))
    place = SCHEMA.get_field_index("features")
    kept.take("s1", rows.set_column(place, SCHEMA.field("features"), features))
    assert window(kept, database, NOW, NOW + timedelta(minutes=1)).n == 4


def test_a_model_whose_bundle_cannot_be_read_holds_nothing_up(kept, database):
    kept.take("s1", pa.concat_tables([logged([NOW] * 2, model="gone"), logged([NOW] * 3)]))
    assert window(kept, database, NOW, NOW + timedelta(minutes=1)).n == 3


def test_many_that_add_to_one_minute_at_once_lose_nothing(kept, database):
    parts = [logged([NOW] * 5, seed=number) for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(kept.take, [f"s{n}" for n in range(16)], parts))
    assert same(window(kept, database, NOW, NOW + timedelta(minutes=1)),
                of_rows(pa.concat_tables(parts)))  # fmt: skip


def test_rows_that_move_inside_a_transaction_are_sketched_behind_it(kept, database):
    with database.transaction() as connection:
        connection.execute(sketch_rows.delete())  # the one writer of SQLite
        kept.take_later("s1", logged([NOW] * 5))
    for thread in threading.enumerate():
        if thread.name == "falaj-sketch":
            thread.join(60)
    assert window(kept, database, NOW, NOW + timedelta(minutes=1)).n == 5


@pytest.mark.services
def test_what_is_added_to_a_minute_while_it_is_rolled_up_is_not_lost(postgres_database):
    database = postgres_database
    kept = KeptSketches(database, bins_of, SetClock(NOW))
    at = NOW - timedelta(days=5)
    kept.take("s1", logged([at] * 3))
    waiting = text("SELECT count(*) FROM pg_stat_activity"
                   " WHERE datname = current_database() AND wait_event_type = 'Lock'")  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as connection:
            connection.execute(select(sketch_rows).with_for_update())  # as rolling up begins
            late = pool.submit(kept.take, "s2", logged([at] * 4, seed=2))
            until = time.monotonic() + 60
            while not late.done() and time.monotonic() < until:
                connection.execute(text("SELECT pg_stat_clear_snapshot()"))
                if connection.execute(waiting).scalar_one():
                    break
                time.sleep(0.01)
            assert not late.done()
            assert kept._rolled(connection, MINUTE, HOUR, NOW - timedelta(days=2)) == 1
        late.result(60)
    assert window(kept, database, at - timedelta(hours=1), NOW).n == 7
    assert count(database) == 2
    while kept.roll_up():
        pass
    assert window(kept, database, at - timedelta(hours=1), NOW).n == 7
    assert count(database) == 1


def test_what_a_shadow_said_is_no_part_of_what_was_answered(kept, database):
    times = [NOW - timedelta(days=3, seconds=7 * number) for number in range(100)]
    own, behind = logged(times, variant="new"), logged(times, variant="new", seed=2, shadow=True)
    kept.take("seg_1", pa.concat_tables([own, behind]))
    when = (NOW - timedelta(days=4), NOW)
    with database.reading() as connection:
        minutes = kept.minutes(connection, "delays", "delay", 1, *when)
    assert sum(sketch.n for _, sketch in minutes) == 100
    for _ in range(2):
        assert same(window(kept, database, *when), of_rows(own))
        assert same(window(kept, database, *when, variant="new"), of_rows(own))
        told = window(kept, database, *when, variant="new", shadow=True)
        assert same(told, of_rows(behind))
        kept.roll_up()
