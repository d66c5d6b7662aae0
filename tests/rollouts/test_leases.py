"""Several processes on one rollout, on SQLite and on PostgreSQL: each act is done once."""

from __future__ import annotations

import ast
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.database import Database
from falaj.operations.histories import entries
from falaj.operations.model import ChangeState, IncidentState
from falaj.rollouts import runs
from falaj.rollouts.model import RolloutState
from falaj.rollouts.records import Step
from falaj.testing.rollouttrial import Trial

HISTORY = ["started", "rolled_back", "recorded", "quarantined", "released"]


@pytest.fixture
def trial(database: Database) -> Trial:
    return Trial(database)


def _history(trial: Trial) -> list[str]:
    with trial.database.reading() as connection:
        return [one.what for one in entries(connection, trial.run().id)]


def test_of_many_that_want_a_run_at_once_one_gets_it(trial: Trial) -> None:
    run = trial.started()
    together = threading.Barrier(8)

    def taken() -> bool:
        together.wait()
        with trial.database.transaction() as connection:
            return runs.lease(connection, run.id, trial.clock.now()) is not None

    with ThreadPoolExecutor(8) as pool:
        got = [one.result() for one in [pool.submit(taken) for _ in range(8)]]
    assert got.count(True) == 1


def test_of_many_engines_that_see_harm_one_rolls_back(trial: Trial) -> None:
    trial.started()
    trial.sees_harm()
    trial.clock.move(timedelta(seconds=30))
    engines, together = [trial.new_engine() for _ in range(4)], threading.Barrier(4)

    def looked(engine: Any) -> None:
        together.wait()
        engine.run_once()

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(looked, engine) for engine in engines]:
            one.result()
    trial.after(30)  # what an engine left because another had just taken it
    assert (trial.run().step, _history(trial)) == (Step.NOTHING, HISTORY)
    assert [one[0] for one in trial.traffic.done] == ["halt", "divide", "quarantine", "end"]


def test_a_lease_is_not_renewed_for_one_who_has_lost_it(trial: Trial) -> None:
    run, now = trial.started(), trial.clock.now()
    with trial.database.transaction() as connection:
        first = runs.lease(connection, run.id, now)
        assert first is not None
        assert runs.renewed(connection, first, now)
        assert runs.lease(connection, run.id, now + runs.LEASE - timedelta(seconds=1)) is None
        second = runs.lease(connection, run.id, now + runs.LEASE)
        assert second is not None
        assert not runs.renewed(connection, first, now + runs.LEASE)
        assert not runs.given_back(connection, first, due_at=None)
        assert runs.held(connection, first) is None
        assert runs.held(connection, second) is not None


def test_nothing_follows_from_a_look_during_which_somebody_stopped_it(trial: Trial) -> None:
    trial.started()

    def stop() -> None:
        with trial.call() as call:
            trial.steering.stop(call, "try-two", "We need the capacity.")

    trial.judge.while_looking = stop
    trial.sees(two=100, champion=900)
    run = trial.after(300)
    assert (run.state, run.stage, run.n_looks) == (RolloutState.STOPPED, 0, 0)


def test_a_look_that_outlives_its_lease_leads_to_nothing(trial: Trial) -> None:
    trial.started()
    other = trial.new_engine()

    def slow() -> None:
        trial.judge.while_looking = lambda: None
        trial.clock.move(timedelta(seconds=60))
        other.run_once()

    trial.judge.while_looking = slow
    trial.sees(two=100, champion=900)
    trial.after(300)
    assert (trial.run().stage, _history(trial)) == (1, ["started", "advanced"])


def test_a_rollback_whose_processes_are_killed_at_every_point_is_done_once(
    trial: Trial, tmp_path: Path
) -> None:
    trial.started()
    deeds = tmp_path / "deeds"
    deeds.touch()
    program = Path(__file__).with_name("engine_killed.py")
    url = trial.database.url.render_as_string(hide_password=False)
    ended = subprocess.run(
        [sys.executable, str(program), url, str(deeds)],
        check=True, timeout=120, capture_output=True, text=True,
    )  # fmt: skip
    *killed, last = map(int, ended.stdout.split())
    assert (killed, last) == ([signal.SIGKILL] * 8, 0), ended.stderr
    run = trial.run()
    assert (run.state, run.step) == (RolloutState.ROLLED_BACK, Step.NOTHING)
    assert _history(trial) == HISTORY
    done = [ast.literal_eval(line) for line in deeds.read_text().splitlines()]
    assert [one for one in done if one[0] != "halt"] == [
        ("divide", {"champion": 1.0, "two": 0.0}),
        ("quarantine", "late", 2),
        ("end", "champion"),
    ]
    with trial.database.reading() as connection:
        (incident,) = trial.incidents.listed(connection, state=IncidentState.OPEN)
        in_review = trial.changes.listed(connection, state=ChangeState.IN_REVIEW)
    assert (incident.id, [one.id for one in in_review]) == (
        run.outcome.incident,
        [run.outcome.emergency],
    )
