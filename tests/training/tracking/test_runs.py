"""Runs on SQLite and PostgreSQL."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.testing.calls import opened_call
from falaj.training.environment import code_version, environment
from falaj.training.model import Artifact, MetricPoint, RunState
from falaj.training.tracking.runs import LONGEST_PARAM

AT = datetime(2026, 1, 1, tzinfo=UTC)


def start(runs, call, **options):
    return runs.start(call, **{"experiment": "late", **options})


def test_a_run_carries_everything_that_was_logged(runs, database):
    with opened_call(database) as call:
        run = start(
            runs,
            call,
            name="first",
            params={"depth": 3, "kind": "tree"},
            tags={"team": "delays"},
            environment=environment(),
            code=code_version(type(runs)),
            snapshot=7,
        )
        points = [MetricPoint(key="loss", value=1 / step, step=step) for step in (1, 2, 3)]
        runs.log(call, run.id, metrics=points, params={"depth": 3, "rate": 0.1})
        runs.log(call, run.id, artifacts=[Artifact(path="a/b", digest="sha256:1", size=5)])
        runs.log(call, run.id, artifacts=[Artifact(path="a/b", digest="sha256:2", size=6)])
        runs.tag(call, run.id, {"team": "arrivals"})
        ended = runs.finish(call, run.id)
        assert ended.params == {"depth": "3", "kind": "tree", "rate": "0.1"}
        assert ended.metrics == {"loss": 1 / 3}
        assert ended.tags == {"team": "arrivals"}
        assert [one.digest for one in ended.artifacts] == ["sha256:2"]
        assert ended.state is RunState.FINISHED
        assert ended.environment.python
        assert ended.code.entry.endswith("Runs")
        assert ended.snapshot == 7
        assert [one.value for one in runs.history(call.connection, run.id, "loss")] == [
            1.0, 0.5, 1 / 3
        ]  # fmt: skip


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.floats()), min_size=1, max_size=12),
    st.integers(1, 12),
)
def test_the_last_value_is_that_of_the_greatest_step_and_time_however_it_was_logged(
    runs, sqlite_database, points, cut
):
    given_points = [
        MetricPoint(key="m", value=value, step=step, at=AT + timedelta(seconds=second))
        for step, second, value in points
    ]
    with opened_call(sqlite_database) as call:
        run = start(runs, call)
        for part in (given_points[:cut], given_points[cut:]):
            runs.log(call, run.id, metrics=part)
        place = max(range(len(points)), key=lambda i: (points[i][0], points[i][1], i))
        found = runs.get(call.connection, run.id).metrics["m"]
    expected = points[place][2]
    assert found == expected or (math.isnan(found) and math.isnan(expected))


def test_not_a_number_and_infinity_are_kept_as_they_are(runs, database):
    with opened_call(database) as call:
        run = start(runs, call)
        values = [math.nan, math.inf, -math.inf]
        points = [MetricPoint(key="m", value=v, step=s) for s, v in enumerate(values)]
        runs.log(call, run.id, metrics=points)
        history = [one.value for one in runs.history(call.connection, run.id, "m")]
        assert math.isnan(history[0])
        assert history[1:] == [math.inf, -math.inf]
        text = runs.get(call.connection, run.id).model_dump_json()
    assert '"-Infinity"' in text


def test_a_parameter_is_written_once_and_the_same_value_may_be_repeated(runs, database):
    with opened_call(database) as call:
        run = start(runs, call, params={"depth": 3})
        runs.log(call, run.id, params={"depth": 3})
        with pytest.raises(Conflict, match="'depth'"):
            runs.log(call, run.id, params={"depth": 4})
        with pytest.raises(InvalidInput, match="characters"):
            runs.log(call, run.id, params={"long": "x" * (LONGEST_PARAM + 1)})
        with pytest.raises(InvalidInput, match="name of a tag"):
            runs.tag(call, run.id, {"": "x"})


def test_an_ended_run_takes_no_more_values_but_may_be_ended_again_alike(runs, database):
    with opened_call(database) as call:
        run = start(runs, call)
        with pytest.raises(Conflict, match="cannot end as running"):
            runs.finish(call, run.id, RunState.RUNNING)
        runs.finish(call, run.id, RunState.FAILED)
        assert runs.finish(call, run.id, RunState.FAILED).state is RunState.FAILED
        with pytest.raises(Conflict, match="failed already"):
            runs.finish(call, run.id)
        with pytest.raises(Conflict, match="has ended"):
            runs.log(call, run.id, metrics=[MetricPoint(key="m", value=1)])


def test_runs_are_listed_newest_first_by_experiment(runs, database):
    with opened_call(database) as call:
        first = start(runs, call)
        child = start(runs, call, parent=first.id, started_at=call.now + timedelta(seconds=1))
        other = start(runs, call, experiment="other")
        assert [one.id for one in runs.listed(call.connection, experiment="late")] == [
            child.id, first.id
        ]  # fmt: skip
        assert {one.id for one in runs.listed(call.connection)} == {first.id, child.id, other.id}
        assert len(runs.listed(call.connection, limit=1)) == 1
        assert runs.listed(call.connection, experiment="none") == []
        assert [(one.name, one.n_runs) for one in runs.experiments(call.connection)] == [
            ("late", 2), ("other", 1)
        ]  # fmt: skip
        assert child.parent == first.id


def test_a_comparison_shows_metrics_and_what_differs(runs, database):
    with opened_call(database) as call:
        one = start(runs, call, params={"depth": 3, "rate": 0.1}, snapshot=1)
        two = start(runs, call, params={"depth": 4, "rate": 0.1}, snapshot=2)
        runs.log(call, one.id, metrics=[MetricPoint(key="auc", value=0.7)])
        found = runs.compare(call.connection, [one.id, two.id])
    assert found.params == {"depth": ("3", "4")}
    assert found.metrics == {"auc": (0.7, None)}
    assert found.data == {"snapshot": ("1", "2")}


def test_an_unknown_run_is_not_found_whatever_is_asked_of_it(runs, sqlite_database):
    with opened_call(sqlite_database) as call:
        for ask in (
            lambda: runs.get(call.connection, "run_x"),
            lambda: runs.history(call.connection, "run_x", "m"),
            lambda: runs.finish(call, "run_x"),
            lambda: runs.tag(call, "run_x", {"a": "b"}),
            lambda: start(runs, call, parent="run_x"),
        ):
            with pytest.raises(NotFound, match="run_x"):
                ask()


def test_the_code_of_a_class_typed_into_a_shell_cannot_be_named():
    made = type("Made", (), {"__module__": "builtins"})
    with pytest.raises(InvalidInput, match="Made"):
        code_version(made)


def test_code_in_a_checkout_has_its_commit_and_code_beside_it_has_not(tmp_path, monkeypatch):
    import importlib
    import subprocess

    def git(*arguments):
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "kept_code.py").write_text("class Kept: pass\n")
    (tmp_path / "stray_code.py").write_text("class Stray: pass\n")
    git("init")
    git("add", "kept_code.py")
    git("commit", "-m", "x")
    monkeypatch.syspath_prepend(tmp_path)
    kept = code_version(importlib.import_module("kept_code").Kept)
    assert len(kept.commit) == 40
    assert kept.dirty  # the stray file
    stray = code_version(importlib.import_module("stray_code").Stray)
    assert stray.commit is None
    assert stray.content_hash != kept.content_hash
    monkeypatch.setenv("PATH", "/nowhere")
    assert code_version(importlib.import_module("kept_code").Kept).commit is None
