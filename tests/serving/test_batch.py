"""A scoring: from a table or files to an output table, through the door, once for each row."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from falaj.catalog.model import Classification
from falaj.interfaces.cli import app
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    StepUpRequired,
    Unavailable,
)
from falaj.kernel.jobs import JobRun, Worker, job_rows
from falaj.lake.model import SchemaMismatch
from falaj.lake.personal import PersonalGroup, PersonalRule, record_rule
from falaj.models.adapters.scoring_onnxruntime import OnnxScorers
from falaj.testing.compute import HereCompute
from falaj.testing.installations import eventually
from falaj.testing.world import World
from falaj.trust.subjects import Subject
from falaj.wiring.scoring import scoring

PART = 250


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        made.serving()
        made.compute = HereCompute()
        yield made
        made.close()


@pytest.fixture
def platform(world):
    with world.opened() as opened:
        yield opened


def worked(world, job):
    """The job, done here: its parts of 250 rows in this process."""
    handler = scoring(world.premises, compute=lambda: world.compute, part_rows=PART)
    worker = Worker(world.premises.jobs, {"endpoints.score": handler}, name="here")
    assert worker.run_one()
    with world.premises.database.reading() as connection:
        return world.premises.jobs.get(connection, job.id)


def scored(world, platform, to, **given):
    ended = worked(world, platform.endpoints.score("late", to, **given))
    assert ended.state == "done", ended.error
    return ended.result


def output(world, to):
    return world.premises.lake.scan(to, order_by=["scoring", "row_number"])


def expected_scores(world, column="at"):
    """Scores by the way of training: its frame of features, its encoding, the bundle's model."""
    made = world.premises
    spine = made.lake.scan("flights", columns=["flight", "carrier", "signal", column])
    frame = made.features.training_frame(spine, "delays", timestamp=column)
    with made.database.reading() as connection:
        digest = made.registry.version(connection, "late", 1).bundle
    bundle = made.bundles.open_bundle(digest)
    encoding = bundle.manifest.signature.encoding
    scores = OnnxScorers().load(bundle.onnx).scores(encoding.matrix(frame))
    return dict(zip(frame.column("flight").to_pylist(), np.ravel(scores), strict=True))


def test_every_row_of_a_table_is_scored_as_of_its_instant_and_in_order(world, platform):
    result = scored(world, platform, "as_of", table="flights", at="at", keys=["flight"])
    rows = output(world, "as_of")
    assert (result["n_rows"], result["n_refused"], rows.num_rows) == (900, 0, 900)
    assert rows.column("row_number").to_pylist() == list(range(900))
    assert rows.column("flight").to_pylist() == [f"f{n:04}" for n in range(900)]
    ids = rows.column("prediction_id").to_pylist()
    assert len(set(ids)) == 900
    assert sorted(ids) == ids
    expected = expected_scores(world)
    given = dict(zip(rows.column("flight").to_pylist(), rows.column("score").to_pylist(),
                     strict=True))  # fmt: skip
    assert given.keys() == expected.keys()
    np.testing.assert_allclose(list(given.values()), [expected[name] for name in given], atol=1e-6)
    first = rows.slice(0, 1).to_pylist()[0]
    assert (first["variant"], first["model"], first["error"]) == ("champion", "late/1", None)
    assert first["release"] == result["release"]
    assert first["scoring"] == result["scoring"]


def test_rows_are_scored_as_a_live_request_when_no_instant_is_asked_for(world, platform):
    scored(world, platform, "as_now", table="flights", keys=["signal", "carrier"])
    for row in output(world, "as_now").slice(0, 5).to_pylist():
        asked = {"signal": row["signal"], "carrier": row["carrier"]}
        answer = platform.endpoints.predict("late", [asked], at=row["predicted_for"])
        assert answer.predictions[0]["score"] == pytest.approx(row["score"], abs=1e-6)


def test_files_of_each_kind_give_what_their_table_gives(world, platform):
    made = world.premises
    table = made.lake.scan("flights", order_by=["flight"])
    pq.write_table(table, world.folder / "rows.parquet", row_group_size=130)
    with pa.ipc.new_file(world.folder / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    at = "2025-03-01T00:00:00Z"
    scored(world, platform, "of_table", table="flights", at=at, keys=["flight"])
    from_table = output(world, "of_table").column("score")
    for name in ("flights.csv", "rows.parquet", "rows.arrow"):
        to = "of_" + name.replace(".", "_")
        scored(world, platform, to, files=[name], at=at, keys=["flight"])
        assert output(world, to).column("score").equals(from_table), name
    both = {"files": ["rows.parq*", "rows.arrow"], "at": at, "classification": "internal"}
    assert scored(world, platform, "of_two", **both)["n_rows"] == 1800


def broken_rows(world, name):
    rows = pa.table(
        {
            "carrier": ["AA", "UA", None, "WN"],
            "signal": pa.array([0.5, float("nan"), 0.1, None]),
            "at": pa.array([None, 1, 2, 3], pa.timestamp("us", "UTC")),
        }
    )
    pq.write_table(rows, world.folder / name)
    return name


def test_a_refused_row_fails_the_job_and_is_named(world, platform):
    name = broken_rows(world, "broken.parquet")
    ended = worked(world, platform.endpoints.score("late", "failing", files=[name]))
    assert ended.state == "failed"
    assert ended.error["code"] == "row-refused"
    assert f"Row 1 of {world.folder / name}" in ended.error["message"]
    assert "signal: Expected `float`" in ended.error["message"]
    assert not world.premises.lake.exists("failing")


def test_a_refused_row_has_null_outputs_and_a_reason_where_that_is_asked(world, platform):
    name = broken_rows(world, "broken.parquet")
    given = {"files": [name], "at": "at", "on_error": "null", "keys": ["carrier"]}
    result = scored(world, platform, "with_reasons", **given)
    assert (result["n_rows"], result["n_refused"]) == (4, 2)
    rows = output(world, "with_reasons").to_pylist()
    assert [row["score"] is None for row in rows] == [True, True, False, False]
    assert rows[0]["error"].startswith("at: Expected `datetime`")
    assert rows[1]["error"].startswith("signal: Expected `float`")
    assert [row["carrier"] for row in rows] == ["AA", "UA", None, "WN"]


def test_a_second_scoring_goes_into_the_same_table_beside_the_first(world, platform):
    given = {"table": "flights", "at": "at", "keys": ["flight"]}
    first = scored(world, platform, "nightly", **given)
    second = scored(world, platform, "nightly", **given)
    rows = output(world, "nightly")
    assert rows.num_rows == 1800
    assert set(rows.column("scoring").to_pylist()) == {first["scoring"], second["scoring"]}
    with pytest.raises(SchemaMismatch, match="other columns than this scoring: flight"):
        platform.endpoints.score("late", "nightly", table="flights", at="at")


def test_a_job_that_is_taken_up_again_scores_only_what_is_not_written(world, platform, monkeypatch):
    made = world.premises
    job = platform.endpoints.score("late", "resumed", table="flights", at="at", keys=["flight"])
    save, saved = JobRun.save, []

    def lost(run, checkpoint, **given):
        saved.append(checkpoint)
        if len(saved) == 3:  # the second part is written, and not noted
            raise Unavailable("The machine is lost.")
        save(run, checkpoint, **given)

    monkeypatch.setattr(JobRun, "save", lost)
    assert worked(world, job).state == "waiting"
    assert made.lake.count("resumed") == 2 * PART
    with made.database.transaction() as connection:
        again = update(job_rows).where(job_rows.c.id == job.id)
        connection.execute(again.values(not_before=job.submitted_at))
    before = world.compute.n_tasks
    assert worked(world, job).state == "done"
    assert world.compute.n_tasks - before == 3
    assert output(world, "resumed").column("row_number").to_pylist() == list(range(900))


def test_the_output_is_as_secret_as_its_input_and_knows_where_it_came_from(world, platform):
    made = world.premises
    result = scored(world, platform, "traced", table="flights", at="at",
                    classification="personal")  # fmt: skip
    with made.database.reading() as connection:
        output_asset = made.catalog.get(connection, AssetRef("table", "traced"))
        found = {
            str(edge.source)
            for edge in made.catalog.upstream(connection, AssetRef("scoring", result["scoring"]))
        }
        above = made.catalog.upstream(connection, AssetRef("table", "traced"))
    assert output_asset.classification is Classification.PERSONAL
    assert output_asset.attributes["snapshot"] == result["snapshot"]
    assert found == {"table:flights", f"release:late/{result['release']}"}
    assert [str(edge.source) for edge in above] == [f"scoring:{result['scoring']}"]


def test_files_count_as_personal_unless_somebody_says_otherwise(world, platform):
    job = platform.endpoints.score("late", "of_people", files=["flights.csv"])
    assert job.arguments["classification"] == "personal"
    job_of_all = platform.endpoints.score(
        "late", "of_all", files=["flights.csv"], classification="public"
    )
    assert job_of_all.arguments["classification"] == "public"
    for one in (job, job_of_all):
        platform.jobs.cancel(one.id)


TO_FILE = {"table": "flights", "at": "at", "parquet": "scores.parquet"}


def test_the_output_can_be_a_file_as_well(world, platform):
    scored(world, platform, "to_file", **TO_FILE)
    file = world.folder / "scores.parquet"
    written = pq.read_table(file)
    assert written.equals(output(world, "to_file"))
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExists, match=r"scores\.parquet"):
        platform.endpoints.score("late", "to_file", **TO_FILE)
    with pytest.raises(InvalidInput, match="platform's own"):
        platform.endpoints.score("late", "to_file", **(TO_FILE | {"parquet": ".falaj/x.parquet"}))


def test_a_file_outside_of_the_lake_needs_a_fresh_factor(world):
    with world.opened(stepped_up=False) as stale, pytest.raises(StepUpRequired):
        stale.endpoints.score("late", "to_file", **(TO_FILE | {"parquet": "other.parquet"}))


def test_what_cannot_be_scored_is_refused_before_a_job_is_begun(world, platform):
    score = platform.endpoints.score
    with pytest.raises(NotFound, match="no table 'nowhere'"):
        score("late", "x", table="nowhere")
    with pytest.raises(InvalidInput, match="one input"):
        score("late", "x")
    with pytest.raises(InvalidInput, match="has no column 'tail'"):
        score("late", "x", table="flights", keys=["tail"])
    with pytest.raises(InvalidInput, match="neither a column"):
        score("late", "x", table="flights", at="yesterday")
    with pytest.raises(AlreadyExists, match="holds no scorings"):
        score("late", "flights", table="flights")
    with pytest.raises(InvalidInput, match="keeps names"):
        score("late", "predictions_late", table="flights")
    with pytest.raises(InvalidInput, match="does not exist"):
        score("late", "x", files=["*.parq"])
    with pytest.raises(InvalidInput, match="outside"):
        score("late", "x", files=["/etc/passwd"])
    (world.folder / "short.csv").write_text("carrier\nAA\n")
    with pytest.raises(InvalidInput, match="lacks the field 'signal'"):
        score("late", "x", files=["short.csv"])
    (world.folder / "clash.csv").write_text("carrier,signal,score\nAA,1,2\n")
    with pytest.raises(InvalidInput, match="'score' twice"):
        score("late", "x", files=["clash.csv"], keys=["score"])
    with pytest.raises(Conflict, match="Nothing serves"):
        platform.endpoints.deactivate("late")
        score("late", "x", table="flights")
    world.serving()


def test_a_table_that_the_caller_may_not_read_is_not_scored(world, platform):
    made = world.premises
    rows = made.lake.scan("flights", limit=3)
    made.lake.append("patients", rows)
    with world.call() as call:
        made.catalog.record(call, AssetRef("table", "patients"),
                            classification=Classification.PERSONAL)  # fmt: skip
    with pytest.raises(Forbidden, match="may not read it"):
        platform.endpoints.score("late", "x", table="patients")


def test_a_part_that_was_read_before_an_erasure_is_read_again(world, platform, monkeypatch):
    made, person = world.premises, Subject("person", "f0300")
    group = PersonalGroup(subject="flight")
    record_rule(made.lake, PersonalRule(table="flights_of", groups=(group,)))
    made.lake.append("flights_of", made.lake.scan("flights", order_by=["flight"]))
    with world.call() as call:
        made.catalog.record(call, AssetRef("table", "flights_of"))
    rule = PersonalRule(table="erased_meanwhile", groups=(group,))
    monkeypatch.setattr("falaj.serving.batch.rule_of_scoring", lambda *_: rule)

    class Erasing(HereCompute):
        def ordered(self, task, items):
            for found in super().ordered(task, items):
                if self.n_tasks == 2:  # the second part holds the person
                    made.subject_keys.destroy(person)
                yield found

    monkeypatch.setattr(world, "compute", Erasing())
    result = scored(
        world, platform, "erased_meanwhile", table="flights_of", at="at", keys=["flight"]
    )
    assert (result["n_rows"], world.compute.n_tasks) == (900, 5)
    flights = output(world, "erased_meanwhile").column("flight").to_pylist()
    assert flights == [None if n == 300 else f"f{n:04}" for n in range(900)]
    assert made.subject_keys.of([person], make=False) == [None]


def test_the_command_says_what_the_action_says(world, platform):
    words = ["--folder", str(world.folder), "--json", "score", "late", "--table", "flights",
             "--to", "by_command", "--at", "at", "--key", "flight"]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    job = json.loads(done.stdout)
    assert job["kind"] == "endpoints.score"
    assert job["arguments"]["keys"] == ["flight"]
    platform.jobs.cancel(job["id"])


def test_processes_of_this_machine_score_it_as_well(world, platform):
    made = world.premises
    job = platform.endpoints.score("late", "by_processes", table="flights", at="at")
    handler = scoring(made, part_rows=500)
    assert Worker(made.jobs, {"endpoints.score": handler}, name="here").run_one()
    with made.database.reading() as connection:
        ended = made.jobs.get(connection, job.id)
    assert ended.state == "done", ended.error
    assert output(world, "by_processes").num_rows == 900


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("step", "at", "written"),
    [
        ("save", 2, 2),  # the second part is written, and not noted
        # the second part is scored, and not written
        pytest.param("append", 1, 1, marks=pytest.mark.nightly),
        pytest.param("save", 0, 0, marks=pytest.mark.nightly),
        pytest.param("append", 0, 0, marks=pytest.mark.nightly),
        pytest.param("report", 3, 2, marks=pytest.mark.nightly),
        pytest.param("append", 3, 3, marks=pytest.mark.nightly),
    ],
)
def test_a_killed_scoring_is_finished_by_another_worker_with_each_row_once(
    world, platform, step, at, written
):
    made = world.premises
    to = f"killed_{step}_{at}"
    job = platform.endpoints.score("late", to, table="flights", at="at", keys=["flight"])
    program = Path(__file__).with_name("scoring_killed.py")
    killed = subprocess.run(
        [sys.executable, str(program), str(world.folder), step, str(at)],
        env={**os.environ, "FALAJ_JOB_LEASE_SECONDS": "1", "FALAJ_COMPUTE": "local:2"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert killed.returncode == -9, killed.stderr
    n_written = made.lake.count(to) if made.lake.exists(to) else 0
    assert n_written == min(written * PART, 900)
    children = {int(word) for word in killed.stdout.split()}
    ended = eventually(lambda: taken_over(world, job), seconds=60, what="another worker")
    assert ended.state == "done", ended.error
    assert ended.attempts == 2
    rows = output(world, to)
    assert rows.column("row_number").to_pylist() == list(range(900))
    assert rows.column("flight").to_pylist() == [f"f{n:04}" for n in range(900)]
    eventually(lambda: all(map(gone, children)), what="the end of the processes of the killed one")


def taken_over(world, job):
    """The job, once the lease of its dead worker has run out and it was done here; else None."""
    handler = scoring(world.premises, compute=lambda: world.compute, part_rows=PART)
    worker = Worker(world.premises.jobs, {"endpoints.score": handler}, name="second")
    if not worker.run_one():
        return None
    with world.premises.database.reading() as connection:
        return world.premises.jobs.get(connection, job.id)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_kills_at_random_moments_leave_one_row_for_each_row(world, platform):
    made, dice = world.premises, random.Random(11)
    program = Path(__file__).with_name("scoring_killed.py")
    for number in range(6):
        to = f"random_{number}"
        job = platform.endpoints.score("late", to, table="flights", at="at", keys=["flight"])
        worker = subprocess.Popen(
            [sys.executable, str(program), str(world.folder), "none", "0"],
            env={**os.environ, "FALAJ_JOB_LEASE_SECONDS": "1", "FALAJ_COMPUTE": "local:2"},
            stdout=subprocess.PIPE,
        )
        assert worker.stdout is not None
        for _ in range(1 + number % 3):  # so many reports in, and a while
            worker.stdout.readline()
        time.sleep(dice.random() * 2)
        worker.kill()
        worker.wait()
        with made.database.reading() as connection:
            seen = made.jobs.get(connection, job.id)
        if not seen.state.ended:
            seen = eventually(lambda: taken_over(world, job), seconds=120, what="another worker")  # noqa: B023
        assert seen.state == "done", seen.error
        assert output(world, to).column("row_number").to_pylist() == list(range(900))
