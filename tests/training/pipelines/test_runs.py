"""Runs of pipelines on a real platform: steps in processes, values sealed, each recorded once."""

import pytest

from falaj.kernel.errors import Conflict, InvalidInput
from falaj.training.pipelines.values import Values

HEAD = "from falaj.declare import FromTable, NotNull, Pipeline, RowCount, Between, ToTable, step\n"


def states(run):
    return {one.step: str(one.state) for one in run.steps}


SIMPLE = (
    HEAD
    + """
LIMIT = 15

def late(flights):
    import pyarrow.compute as pc
    return flights.filter(pc.greater(flights["delay"], LIMIT))

def count(late, weight):
    return {"n": late.num_rows * weight}

simple = Pipeline.of(
    "NAME",
    step(late, takes={"flights": FromTable(table="flights")}),
    count,
    parameters={"weight": 2},
)
"""
)


def test_a_run_passes_tables_and_plain_data_between_its_steps(house):
    name = house.declare(SIMPLE.replace("NAME", "simple"))
    run = house.run(name)
    assert (run.state, states(run)) == ("done", {"late": "done", "count": "done"})
    assert house.platform.pipelines.read(run.id, "count") == {"n": 2}
    assert house.platform.pipelines.read(run.id, "late") == [{"flight": "b", "delay": 20.0}]
    assert [one.id for one in house.platform.pipelines.runs(name)] == [run.id]
    again = house.run(name, weight=5)
    assert house.platform.pipelines.read(again.id, "count") == {"n": 5}
    assert {one.step: one.from_run for one in again.steps} == {"late": run.id, "count": None}
    with pytest.raises(InvalidInput, match="no parameter"):
        house.run(name, wait=3)


def test_a_step_that_fails_is_tried_again_and_then_tells_where_it_failed(house):
    name = house.declare(
        HEAD
        + """
def broken(n):
    half = n / 2
    raise ValueError(f"half is {half}")

broken_one = Pipeline.of("broken", step(broken, retries=2, backoff_seconds=0), parameters={"n": 3})
"""
    )
    run = house.run(name)
    (record,) = run.steps
    assert (run.state, record.state, record.attempts) == ("failed", "failed", 3)
    assert "line 3: raise ValueError" in run.error["message"]
    assert "half is 1.5" in run.error["message"]
    assert run.error["code"] == "step-failed"


def test_a_run_that_failed_goes_on_with_the_steps_that_are_not_done(house):
    text = """
def first():
    import os
    return os.urandom(8).hex()

def second(first, parity):
    if not READY:
        raise RuntimeError("not ready")
    return first

{flag}
retried = Pipeline.of("retried", step(first, cached=False), step(second, retries=0),
                      parameters={{"parity": 1}})
"""
    name = house.declare(HEAD + text.format(flag="READY = False"))
    failed = house.run(name)
    assert states(failed) == {"first": "done", "second": "failed"}
    house.platform.pipelines.retry(failed.id)
    house.work()
    again = house.platform.pipelines.get(failed.id)
    assert again.state == "failed", "the run pins its code"
    first = house.platform.pipelines.read(failed.id, "first")
    house.declare(HEAD + text.format(flag="READY = True"))
    fresh = house.run(name)
    assert fresh.state == "done"
    assert house.platform.pipelines.read(fresh.id, "second") != first


def test_a_run_that_is_let_go_on_asks_the_platform_anew(house):
    name = house.declare(
        HEAD
        + """
def asks(platform):
    platform.runs.start("anew", name="one")
    raise ValueError("no")

anew = Pipeline.of("anew", step(asks, retries=1, backoff_seconds=0))
"""
    )
    failed = house.run(name)
    assert (failed.steps[0].attempts, len(house.platform.runs.list("anew"))) == (2, 2)
    house.platform.pipelines.retry(failed.id)
    house.work()
    assert house.platform.pipelines.get(failed.id).steps[0].attempts == 4
    assert len(house.platform.runs.list("anew")) == 4, "no answer of an earlier attempt is given"


def test_rows_that_break_a_test_are_taken_by_no_step(house):
    name = house.declare(
        HEAD
        + """
def rows():
    import pyarrow as pa
    return pa.table({"x": [1, None, 300]})

def after(rows):
    return rows.num_rows

tests = (NotNull(column="x", severity="warn"), Between(column="x", least=0, greatest=100),
         RowCount())
held = Pipeline.of("held", step(rows, tests=tests), after)
"""
    )
    run = house.run(name)
    assert (run.state, states(run)) == ("failed", {"rows": "failed"})
    assert run.error["code"] == "step-test-failed"
    found = {one.check: (one.passed, one.severity) for one in run.steps[0].tests}
    assert found["not_null(x)"] == (False, "warn")
    assert found["between(x, 0, 100)"] == (False, "fail")
    assert found["row_count(1, None)"] == (True, "fail")


TABLES = (
    HEAD
    + """
def clean(flights):
    return flights.select(["flight"])

def more(clean):
    return clean

tables = Pipeline.of(
    "tables",
    step(clean, takes={"flights": FromTable(table="flights")},
         writes=ToTable(table="clean_flights")),
    step(more, writes=ToTable(table="all_flights", mode="append")),
)
"""
)


def test_a_step_writes_its_table_once_in_each_run_and_its_value_is_cached(house):
    name = house.declare(TABLES)
    first, second = house.run(name), house.run(name)
    assert (first.state, second.state) == ("done", "done")
    assert {one.from_run for one in second.steps} == {first.id}
    assert house.made.lake.count("clean_flights") == 3
    assert house.made.lake.count("all_flights") == 6
    lineage = house.platform.assets.lineage("table", "all_flights")
    upstream = {str(ref) for ref in lineage.refs()}
    assert f"pipeline_step:{first.id}/clean" in upstream
    assert {"table:flights", "pipeline:tables", f"pipeline_run:{second.id}"} <= upstream


def test_a_pipeline_writes_no_table_of_somebody_else(house):
    name = house.declare(
        HEAD
        + """
def rows():
    import pyarrow as pa
    return pa.table({"flight": ["x"]})

thief = Pipeline.of("thief", step(rows, writes=ToTable(table="flights")))
"""
    )
    run = house.run(name)
    assert run.error["code"] == "conflict"
    assert house.made.lake.count("flights") == 3


def test_a_value_that_was_deleted_is_no_hit_and_is_made_again(house):
    name = house.declare(SIMPLE.replace("NAME", "deleted"))
    first = house.run(name, weight=3)
    blobs = house.made.pipelines.values._blobs
    (late,) = [one.outputs[""] for one in first.steps if one.step == "late"]
    blobs.forget(late.digest)
    again = house.run(name, weight=4)
    assert {one.step: one.from_run for one in again.steps}["late"] is None
    assert blobs.has(late.digest)


def test_a_change_of_what_a_step_uses_is_no_hit_and_a_change_beside_it_is(house):
    text = (
        HEAD
        + """
{constant}

def helper(n):
    return n + BASE

def used(n):
    return helper(n)

def unrelated(n):
    return {other}

sliced = Pipeline.of("sliced", used, unrelated, parameters={{"n": 1}})
"""
    )
    name = house.declare(text.format(constant="BASE = 1", other="n"))
    first = house.run(name)
    house.declare(text.format(constant="BASE = 1", other="n * 2"))
    beside = house.run(name)
    assert {one.step: one.from_run for one in beside.steps} == {"used": first.id, "unrelated": None}
    house.declare(text.format(constant="BASE = 2", other="n * 2"))
    changed = house.run(name)
    assert {one.step: one.from_run for one in changed.steps} == {
        "used": None,
        "unrelated": beside.id,
    }
    assert house.platform.pipelines.read(changed.id, "used") == 3


def test_a_step_calls_the_platform_as_the_principal_of_its_run(house):
    name = house.declare(
        HEAD
        + """
def ask(platform):
    run = platform.runs.start("by-pipeline", name="one")
    platform.runs.log(run.id, metrics=[{"key": "auc", "value": 0.5}])
    return {"me": platform.accounts.me().principal, "run": run["id"]}

def refused(ask, platform):
    try:
        platform.accounts.create_service("robot")
    except Exception as error:
        return [type(error).__name__, error.code]

asking = Pipeline.of("asking", ask, refused)
"""
    )
    run = house.run(name)
    assert run.state == "done", run.error
    answer = house.platform.pipelines.read(run.id, "ask")
    assert answer["me"] == "user:amina"
    assert house.platform.runs.get(answer["run"]).started_by == "user:amina"
    told = house.platform.pipelines.read(run.id, "refused")
    assert told == ["PlatformError", "step-up-required"]


def test_a_run_whose_principal_was_shut_does_nothing(house):
    name = house.declare(SIMPLE.replace("NAME", "shut"))
    with house.made.calls.opened("test.begin", "user:ghost") as call:
        run = house.made.pipelines.runs.begin(call, name, {})
    house.work()
    ended = house.platform.pipelines.get(run.id)
    assert (ended.state, ended.error["code"]) == ("failed", "forbidden")


def test_a_file_a_dict_of_outputs_and_a_module_beside_come_through(house):
    folder = house.folder / "beside"
    folder.mkdir()
    (folder / "_words.py").write_text("GREETING = 'salam'\n", encoding="utf-8")
    (folder / "p.py").write_text(
        HEAD
        + """
import _words

def write():
    from pathlib import Path
    file = Path("hello.txt")
    file.write_text(_words.GREETING)
    return {"file": file, "size": 5}

def read(file, size):
    return file.read_text() * size

files = Pipeline.of(
    "files",
    step(write, outputs=("file", "size")),
    step(read, takes={"file": "write.file", "size": "write.size"}),
)
""",
        encoding="utf-8",
    )
    from falaj.interfaces.declarations import declared

    (pipeline,) = declared(folder)
    assert set(pipeline.modules) == {"_words"}
    house.platform.definitions.apply([pipeline.document()])
    run = house.run("files")
    assert run.state == "done", run.error
    assert house.platform.pipelines.read(run.id, "read") == "salam" * 5


def test_a_step_reaches_no_file_no_network_and_no_variable_of_the_platform(house):
    secret = house.made.settings.home / "falaj.db"
    name = house.declare(
        HEAD
        + f"""
def look():
    import os, socket, subprocess
    tries = [lambda: open({str(secret)!r}), lambda: socket.create_connection(("127.0.0.1", 1)),
             lambda: subprocess.run(["id"]), lambda: os.kill(os.getppid(), 0)]
    found = []
    for one in tries:
        try:
            one()
            found.append("reached")
        except OSError as error:
            found.append(type(error).__name__)
    return {{"tries": found, "variables": sorted(n for n in os.environ if "FALAJ" in n)}}

look_around = Pipeline.of("look", look)
"""
    )
    import os

    os.environ["FALAJ_KEYRING_PASSPHRASE"] = "hush"
    try:
        run = house.run(name)
    finally:
        del os.environ["FALAJ_KEYRING_PASSPHRASE"]
    found = house.platform.pipelines.read(run.id, "look")
    assert found == {"tries": ["PermissionError"] * 4, "variables": []}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("x = step(lambda n: n)", "top level"),
        ("def f(a): return a\nx = Pipeline.of('x', f)", "neither a step nor a parameter"),
        ("def f(*a): return a\nx = step(f)", "arguments"),
        ("def f(b): return b\ndef b(f): return f\nx = Pipeline.of('x', f, b)", "circle"),
        ("def f(t): return t\nx = Pipeline.of('x', step(f, takes={'u': FromTable(table='t')}))",
         "no argument"),
        ("def f(): return 1\nx = Pipeline.of('x', f, step(f, name='f'))", "one name"),
    ],
)  # fmt: skip
def test_a_pipeline_that_cannot_run_is_refused_where_it_is_declared(house, source, problem):
    from falaj.kernel.errors import FalajError

    with pytest.raises(FalajError, match=problem):
        house.declare(HEAD + source)


def test_a_run_is_cancelled_and_what_runs_is_ended(house):
    name = house.declare(
        HEAD
        + """
def forever():
    while True:
        pass

endless = Pipeline.of("endless", forever)
"""
    )
    import threading
    import time

    waiting = house.platform.pipelines.run(name)
    assert house.platform.pipelines.cancel(waiting.id).state == "cancelled"
    run = house.platform.pipelines.run(name)
    thread = threading.Thread(target=house.work)
    thread.start()
    until = time.monotonic() + 20
    while house.platform.pipelines.get(run.id).state != "running" and time.monotonic() < until:
        time.sleep(0.05)
    house.platform.pipelines.cancel(run.id)
    thread.join(20)
    assert not thread.is_alive()
    assert house.platform.pipelines.get(run.id).state == "cancelled"
    with pytest.raises(Conflict):
        house.platform.pipelines.cancel(run.id)


def test_values_that_no_run_has_needed_for_long_are_forgotten_and_made_again(house):
    from datetime import timedelta

    from falaj.training.pipelines.forgetting import Forgetting
    from falaj.wiring.pipelineparts import pipeline_blobs

    name = house.declare(SIMPLE.replace("NAME", "old").replace("LIMIT = 15", "LIMIT = 16"))
    run = house.run(name, weight=11)
    blobs = pipeline_blobs(house.made)
    digests = {one.outputs[""].digest for one in run.steps}
    kept = Forgetting(house.made.calls, lambda: blobs, timedelta(days=1))
    assert kept.run_once() == 0
    assert digests <= set(blobs.digests())
    gone = Forgetting(house.made.calls, lambda: blobs, timedelta(seconds=-5))
    assert gone.run_once() > 0
    assert not digests & set(blobs.digests())
    again = house.run(name, weight=11)
    assert [one.from_run for one in again.steps] == [None, None]
    assert house.platform.pipelines.read(again.id, "count") == {"n": 11}


def test_a_value_that_a_run_takes_while_old_ones_are_forgotten_stays(house):
    from datetime import timedelta

    from falaj.training.pipelines.forgetting import Forgetting
    from falaj.wiring.pipelineparts import pipeline_blobs

    name = house.declare(SIMPLE.replace("NAME", "kept").replace("LIMIT = 15", "LIMIT = 17"))
    first, runs = house.run(name, weight=31), []

    def opened():
        runs.append(house.run(name, weight=33))  # after what is kept was read, before the end
        return pipeline_blobs(house.made)

    Forgetting(house.made.calls, opened, timedelta(0)).run_once()
    assert {one.step: one.from_run for one in runs[0].steps} == {"late": first.id, "count": None}
    assert house.platform.pipelines.read(runs[0].id, "late") == [{"flight": "b", "delay": 20.0}]


def test_a_value_that_is_forgotten_between_two_steps_is_made_again(house, monkeypatch):
    name = house.declare(SIMPLE.replace("NAME", "between").replace("LIMIT = 15", "LIMIT = 18"))
    house.run(name, weight=21)
    fetched, gone = Values.fetched, []

    def late(values, value):
        if not gone:
            gone.append(value.digest)
            values._blobs.forget(value.digest)
        return fetched(values, value)

    monkeypatch.setattr(Values, "fetched", late)
    run = house.run(name, weight=23)
    assert len(gone) == 1
    assert (run.state, states(run)) == ("done", {"late": "done", "count": "done"}), run.error
    assert [one.from_run for one in run.steps] == [None, None]
    assert house.platform.pipelines.read(run.id, "count") == {"n": 23}


def test_the_command_line_follows_a_run_and_tells_that_it_failed(house, monkeypatch):
    from typer.testing import CliRunner

    from falaj.interfaces.cli import app
    from falaj.interfaces.platform import JobFailed, near

    monkeypatch.setattr(
        "falaj.interfaces.platform.open_platform", lambda *_, **_named: near(house.made)
    )
    name = house.declare(SIMPLE.replace("NAME", "followed"))
    words = ["--folder", str(house.folder), "--json", "pipelines", "run", name, "--wait"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert '"steps": 2' in done.output
    bad = house.declare(
        HEAD + "def f(): return 1 / 0\nbad = Pipeline.of('bad', step(f, retries=0))"
    )
    words[-2] = bad
    failed = CliRunner().invoke(app, words)
    assert isinstance(failed.exception, JobFailed)
    assert "ZeroDivisionError" in str(failed.exception)
