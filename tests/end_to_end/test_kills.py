"""SIGKILL at the worst moments: nothing is lost, nothing is doubled, no answer is wrong."""

import os
import random
import signal
import threading
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from falaj.declare import Mode
from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.jobs import JobState
from falaj.testing.installations import Installation, alive, client, eventually
from falaj.training.model import TrainingRequest
from falaj.wiring.assembly import assemble

LEASE = {"FALAJ_JOB_LEASE_SECONDS": "1"}
BULK_ROWS = 60_000
PREDICT = "/v1/endpoints/late/predict"


class Besieged:
    """A running platform whose processes are killed, and a view of what it holds."""

    def __init__(self, folder, story):
        self.story = story
        self.installation = Installation(folder, variables=LEASE)
        self.installation.init()
        story.write_data(folder, n=900)
        with self.installation.near(stepped_up=True) as owner:
            self.invited = {
                "bilal": owner.accounts.invite("bilal", story.ENGINEER),
                "salma": owner.accounts.invite("salma", ["approver", "auditor"]),
            }
            owner.definitions.apply(story.documents())
        self.installation.up()
        self.people = {
            name: self.installation.enrolled(name, link.secret.get_secret_value())
            for name, link in self.invited.items()
        }
        self.premises = assemble(self.installation.settings, process="test")

    def platform(self, name="bilal"):
        return self.people[name].platform()

    def close(self):
        self.premises.close()
        self.installation.stop()

    def counted(self, table, key):
        """(rows, different keys) of a lake table."""
        found = self.premises.lake.query(
            f"SELECT count(*) AS n, count(DISTINCT {key}) AS d FROM {table}"
        ).to_pylist()[0]
        return found["n"], found["d"]

    def sound(self):
        """True if the audit log verifies; its findings fail the test."""
        with self.platform("salma") as auditor:
            found = retried(auditor.audit.verify)
        assert found.sound, found.findings
        return True

    def killed_while(self, job, share):
        """Kill the worker once a job has come so far; returns the killed process's id."""
        worker = self.installation.pid("worker")

        def far():
            with self.premises.database.reading() as connection:
                seen = self.premises.jobs.get(connection, job.id)
            return seen.progress >= share

        eventually(far, every=0.001, what=f"{job.kind} at {share}")
        os.kill(worker, signal.SIGKILL)
        return worker

    def ended(self, job, *, seconds=90):
        def over():
            with self.premises.database.reading() as connection:
                seen = self.premises.jobs.get(connection, job.id)
            return seen if seen.state.ended else None

        return eventually(over, seconds=seconds, what=f"the end of {job.kind}")


def retried(action, *, seconds=60):
    """Call again while the server is away, as a client with an idempotency key would."""
    patience = time.monotonic() + seconds
    while True:
        try:
            return action()
        except FalajError as error:
            if not error.retryable or time.monotonic() > patience:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="module")
def besieged(tmp_path_factory, story):
    made = Besieged(tmp_path_factory.mktemp("besieged") / "project", story)
    yield made
    made.close()


@pytest.fixture
def versioned(besieged):
    """The platform with a version of the model whose gates have run."""
    story = besieged.story
    with besieged.platform() as engineer:
        try:
            engineer.models.versions("late")
        except NotFound:
            for source in ("departures", "arrivals"):
                engineer.wait(engineer.sources.load(source))
            request = TrainingRequest(model="late", spec=story.SPEC, params=story.SMALL)
            engineer.wait(engineer.training.train(request))
            (version,) = engineer.models.versions("late")
            engineer.wait(engineer.models.gates("late", version.version))
    return besieged


@pytest.fixture
def served(versioned):
    """The platform with that version in production, behind an endpoint."""
    with versioned.platform() as engineer, versioned.platform("salma") as approver:
        (version,) = engineer.models.versions("late")
        if engineer.models.get("late", version.version).stage != "production":
            decided(engineer, approver, version.version, "production")
        engineer.endpoints.deploy("late", activate=True)
    return versioned


def test_a_load_whose_worker_is_killed_writes_every_row_once(besieged):
    bulk = besieged.story.BULK
    with besieged.platform() as engineer:
        for n_rows, share in ((BULK_ROWS, 0.3), (BULK_ROWS + 1, 0.7)):
            besieged.story.write_bulk(besieged.installation.folder, n=n_rows)
            engineer.definitions.apply(besieged.story.documents(bulk))
            job = engineer.sources.load("bulk")
            killed = besieged.killed_while(job, share)
            ended = besieged.ended(job)
            assert ended.state is JobState.DONE, ended.error
            assert ended.attempts == 2
            assert besieged.counted("bulk", "flight") == (n_rows, n_rows)
            besieged.installation.revived("worker", killed)
    assert besieged.sound()


def test_a_training_whose_worker_is_killed_makes_one_version(besieged):
    story = besieged.story
    with besieged.platform() as engineer:
        for source in ("departures", "arrivals"):
            engineer.wait(engineer.sources.load(source))
        request = TrainingRequest(model="late", spec=story.SPEC, params=story.SMALL)
        job = engineer.training.train(request)
        killed = besieged.killed_while(job, 0.4)
        ended = besieged.ended(job)
        assert ended.state is JobState.DONE, ended.error
        assert ended.attempts == 2
        assert len(engineer.training.sets()) == 1
        (run,) = engineer.runs.list()
        assert run.state == "finished"
        (version,) = engineer.models.versions("late")
        assert version.run == run.id
        besieged.installation.revived("worker", killed)
        engineer.wait(engineer.models.gates("late", version.version))
    assert besieged.sound()


def decided(engineer, approver, version, stage):
    """Ask for a stage and approve it, each with an idempotency key; returns the change's id."""
    asked, given = uuid4().hex, uuid4().hex
    change = retried(
        lambda: engineer.models.promote(
            "late", version, to=stage, reason="A round", idempotency_key=asked
        )
    )
    retried(lambda: approver.changes.approve(change.id, reason="Yes", idempotency_key=given))
    return change.id


def burst(besieged, version, stages, errors):
    """Promote and approve, again and again; returns the changes."""
    changes = []
    with besieged.platform() as engineer, besieged.platform("salma") as approver:
        try:
            for stage in stages:
                changes.append(decided(engineer, approver, version, stage))
        except FalajError as error:
            errors.append(error)
    return changes


def test_approvals_happen_once_though_the_control_plane_is_killed(versioned):
    besieged = versioned
    with besieged.platform() as engineer:
        (found,) = engineer.models.versions("late")
    stages = ["staging", "development"] * 6 + ["production"]
    errors, done = [], []
    burster = threading.Thread(
        target=lambda: done.extend(burst(besieged, found.version, stages, errors))
    )
    burster.start()
    for pause in (0.15, 0.3):
        time.sleep(pause)
        killed = besieged.installation.kill("control")
        besieged.installation.revived("control", killed)
    burster.join(120)
    assert not errors
    assert len(done) == len(stages)
    with besieged.platform() as engineer:
        moves = engineer.models.history("late").moves
        changes = engineer.changes.list()
        assert engineer.models.get("late", found.version).stage == "production"
    assert [move.change for move in reversed(moves)][-len(done) :] == done
    assert sorted(change.id for change in changes) == sorted(done)
    assert {change.state for change in changes} == {"approved"}
    assert besieged.sound()


class Asking(threading.Thread):
    """Asks for predictions without a pause; keeps what was answered, and what was wrong."""

    def __init__(self, installation, token, question, expected):
        super().__init__()
        self.installation, self.token = installation, token
        self.question, self.expected = question, expected
        self.ids, self.wrong, self.broken = [], [], 0
        self.over = threading.Event()

    def run(self):
        web = client(self.installation.inference, self.installation.ca, self.token)
        while not self.over.is_set():
            try:
                answer = web.post(PREDICT, json={"inputs": [self.question]})
            except httpx.TransportError:
                self.broken += 1  # the worker died with the request in its hands
                web.close()
                web = client(self.installation.inference, self.installation.ca, self.token)
                continue
            if answer.status_code == 503:
                continue
            if answer.status_code != 200:
                self.wrong.append(answer.text)
                return
            (made,) = answer.json()["predictions"]
            if abs(made["score"] - self.expected) > 1e-6:
                self.wrong.append(made)
            self.ids.append(made["id"])
        web.close()


def more_answers(askers, *, n=30):
    """Wait until so many more answers have come."""
    before = sum(len(asker.ids) for asker in askers)
    eventually(lambda: sum(len(one.ids) for one in askers) >= before + n, what="answers")


def test_no_request_is_answered_wrong_though_the_inference_worker_is_killed(served):
    besieged = served
    with besieged.platform() as engineer:
        question = besieged.story.QUESTION
        expected = engineer.endpoints.predict("late", [question]).predictions[0]["score"]
    installation = besieged.installation
    askers = [
        Asking(installation, besieged.people["bilal"].token, question, expected) for _ in range(3)
    ]
    for asker in askers:
        asker.start()
    try:
        for _ in range(2):
            more_answers(askers)
            killed = installation.kill("inference-1")
            installation.revived("inference-1", killed)
        more_answers(askers)
    finally:
        for asker in askers:
            asker.over.set()
        for asker in askers:
            asker.join(60)
    assert [asker.wrong for asker in askers] == [[], [], []]
    ids = {name for asker in askers for name in asker.ids}
    assert len(ids) == sum(len(asker.ids) for asker in askers)
    last = {asker.ids[-1] for asker in askers if asker.ids}

    def arrived():
        logged = besieged.premises.lake.scan("predictions_late", columns=["prediction_id"])
        return last <= set(logged.column("prediction_id").to_pylist())

    eventually(arrived, what="the last predictions in the lake")
    n_rows, n_ids = besieged.counted("predictions_late", "prediction_id")
    assert n_rows == n_ids


def test_the_children_end_with_their_supervisor_and_all_comes_up_again(served):
    besieged = served
    installation = besieged.installation
    children = installation.children()
    assert set(children) == {"control", "inference-1", "log", "worker"}
    installation.process.kill()
    installation.process.wait()
    eventually(lambda: not any(map(alive, children.values())), seconds=30, what="their end")
    installation.up()
    for person in besieged.people.values():
        person.control = installation.control
    with besieged.platform() as engineer:
        assert engineer.endpoints.status("late").active is not None
    with client(installation.inference, installation.ca, besieged.people["bilal"].token) as web:
        answer = web.post(PREDICT, json={"inputs": [besieged.story.QUESTION]})
        assert answer.is_success, answer.text
    assert besieged.counted("departures", "flight") == (900, 900)
    assert besieged.sound()


def test_children_end_though_their_supervisor_is_killed_while_they_start(installed):
    installed.begin()
    marker = str(installed.folder)

    def started():
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            if marker in words and "falaj.interfaces.processes" in words:
                found.append(int(entry.name))
        return found

    children = eventually(lambda: len(found := started()) == 4 and found, every=0.005)
    installed.process.kill()
    installed.process.wait()
    eventually(lambda: not any(map(alive, children)), seconds=60, what="their end")


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_many_kills_at_random_moments_leave_everything_consistent(tmp_path, story):
    made = Besieged(tmp_path / "project", story)
    dice = random.Random(7)
    try:
        for number in range(12):
            folder = made.installation.folder
            story.write_data(folder, n=900 + number)
            with made.platform() as engineer:
                (source,) = (one for one in story.DEFINITIONS if one.ref.key == "departures")
                replacing = source.model_copy(update={"mode": Mode.REPLACE})
                documents = story.documents(replacing)
                retried(partial(engineer.definitions.apply, documents))
                job = retried(lambda: engineer.sources.load("departures"))
            time.sleep(dice.random())
            child = dice.choice(["worker", "worker", "control", "inference-1"])
            made.installation.revived(child, made.installation.kill(child))
            ended = made.ended(job)
            assert ended.state is JobState.DONE, ended.error
            assert made.counted("departures", "flight") == (900 + number, 900 + number)
            for person in made.people.values():
                if number % 4 == 3:
                    retried(person.login)
        assert made.sound()
    finally:
        made.close()


def test_a_stopped_platform_leaves_no_process(installed):
    installed.up()
    children = installed.children()
    os.kill(installed.process.pid, signal.SIGTERM)
    assert installed.process.wait(60) == 0
    assert not any(map(alive, children.values()))
    assert installed.children() == {}
