"""A view is filled from history by a job: with progress, once or twice, and stopped midway."""

from datetime import timedelta

import pyarrow as pa
import pytest

from falaj.features.materialization import Materialization
from falaj.features.model import Aggregate
from falaj.features.parity import Parity
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SystemClock
from falaj.kernel.jobs import Jobs, JobState, Worker
from falaj.kernel.outbox import Outbox
from falaj.testing.calls import opened_call
from falaj.testing.fakes import MemoryAudit

KIND = "features.materialize"


def fill(store, now, n=200):
    cards = [f"card {i % 9}" for i in range(n)]
    times = pa.array([now - timedelta(minutes=i) for i in range(n)], pa.timestamp("us", "UTC"))
    amounts = [float(i % 7) for i in range(n)]
    rows = pa.table({"card": cards, "at": times, "amount": amounts, "holder": cards})
    store.lake.append("payments", rows)
    store.lake.append("accounts", rows)


def widened(definitions):
    """The window view with one more aggregate, and the service that takes it all."""
    spent = definitions.get("feature_view", "spent")
    added = Aggregate("n_3h", "count", window=timedelta(hours=3))
    wider = spent.model_copy(update={"aggregates": (*spent.aggregates, added)})
    definitions.found["feature_view", "spent"] = wider


@pytest.fixture
def run(store, sqlite_database, now):
    jobs = Jobs(sqlite_database, SystemClock())
    calls = Calls(sqlite_database, MemoryAudit(), Outbox(), store._clock)
    told = []

    def done(view, cancel_after=None):
        handler = Materialization(store, calls)

        def handle(job, arguments):
            report = job.report

            def noted(share, message=""):
                told.append((share, message))
                if cancel_after is not None and len(told) > cancel_after:
                    with sqlite_database.transaction() as connection:
                        jobs.cancel(connection, job.id)
                report(share, message)

            job.report = noted
            return handler(job, arguments)

        told.clear()
        with opened_call(sqlite_database) as call:
            job = jobs.submit(call, KIND, {"view": view, "upto": None})
        assert Worker(jobs, {KIND: handle}, name="w").run_one()
        with sqlite_database.reading() as connection:
            return jobs.get(connection, job.id), list(told)

    return done


def test_a_new_aggregate_is_filled_from_history_and_a_second_run_changes_nothing(
    store, definitions, run, now
):
    fill(store, now)
    for view in ("spent", "balance"):
        assert run(view)[0].state is JobState.DONE
    widened(definitions)
    rows = [{"card": f"card {i}", "asked": 1.0} for i in range(9)]
    before = store.read_online("fraud", rows, now)
    assert all(row[before.names.index("spent__n_3h")] in (None, 0) for row in before.values)
    job, _ = run("spent")
    assert job.result["n_events"] == 200
    assert job.result["n_entities"] == 9
    after = store.read_online("fraud", rows, now)
    assert all(row[after.names.index("spent__n_3h")] == 20 for row in after.values)
    assert Parity(store).sampled("fraud", 50).agrees
    times = [now + timedelta(minutes=i) for i in range(0, 120, 20)]
    filled = [store.read_online("fraud", rows, at) for at in times]
    again, _ = run("spent")
    assert (again.state, again.result) == (JobState.DONE, job.result)
    found = [store.read_online("fraud", rows, at) for at in times]
    assert [one.values for one in found] == [one.values for one in filled]
    assert [one.event_times for one in found] == [one.event_times for one in filled]
    n_rows = []
    for _ in range(3):
        run("spent")
        n_rows.append(len(list(store.online.keys(b""))))
    assert len(set(n_rows)) == 1, "each run leaves more rows behind"


@pytest.mark.parametrize("view", ["spent", "balance"])
def test_progress_grows_and_says_what_is_done(store, run, now, view):
    fill(store, now)
    job, told = run(view)
    shares = [share for share, _ in told]
    assert job.state is JobState.DONE
    assert len(shares) >= 3
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1
    assert f"reading the source of {view}" in told[0][1]
    assert any("200 events" in message for _, message in told)


@pytest.mark.parametrize("view", ["spent", "balance"])
def test_a_job_that_is_cancelled_stops_and_the_next_one_does_it_all(store, run, now, view):
    fill(store, now)
    job, _ = run(view, cancel_after=1)
    assert job.state is JobState.CANCELLED
    assert run(view)[0].state is JobState.DONE
    assert run("balance" if view == "spent" else "spent")[0].state is JobState.DONE
    assert Parity(store).sampled("fraud", 50).agrees
