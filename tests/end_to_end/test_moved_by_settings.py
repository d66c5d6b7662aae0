"""A platform on PostgreSQL and S3: the same flow, moved there by settings alone."""

import json
import os
import shutil
import subprocess

import pytest
from sqlalchemy.engine import make_url

from falaj.kernel.errors import FalajError
from falaj.testing.installations import SURROUNDINGS, Installation, eventually, falaj_command

pytestmark = pytest.mark.services

COPIED = ("keys", "owner.key", "tls")
"""What a second machine takes from the first one's home folder."""


class Elsewhere:
    """Two databases and a bucket, and the settings that name them."""

    def __init__(self, postgres, s3):
        self._postgres = postgres
        self.metadata, self.catalogue = postgres.create_database(), postgres.create_database()
        self.bucket = bucket = s3.create_bucket()
        url = make_url(postgres.url(self.metadata))
        place = f"{url.username}@{url.host}:{url.port}"
        options = f"?endpoint={bucket.endpoint}&region={bucket.region}"
        self.toml = "\n".join(
            [
                f'database = "postgresql+psycopg://{place}/{self.metadata}"',
                f'lake = "ducklake:postgres:postgresql://{place}/{self.catalogue}"',
                f'lake_data = "s3://{bucket.bucket}/lake{options}"',
                f'blobs = "s3://{bucket.bucket}/models{options}"',
            ]
        )
        self.variables = {
            "FALAJ_DATABASE_PASSWORD": url.password,
            "FALAJ_LAKE_PASSWORD": url.password,
            "FALAJ_S3_ACCESS_KEY": bucket.access_key,
            "FALAJ_S3_SECRET_KEY": bucket.secret_key,
        }

    def close(self):
        for name in (self.metadata, self.catalogue):
            self._postgres.drop_database(name)


@pytest.fixture(scope="module")
def elsewhere(postgres_server, s3_service):
    made = Elsewhere(postgres_server, s3_service)
    yield made
    made.close()


@pytest.fixture(scope="module")
def moved(elsewhere, story, tmp_path_factory):
    """A platform there that is up; nothing but its settings differs from any other."""
    made = Installation(tmp_path_factory.mktemp("moved") / "project", variables=elsewhere.variables)
    made.init(more=elsewhere.toml)
    story.write_data(made.folder, n=900)
    made.up()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def people(moved, story):
    """The engineer and the approver."""
    with moved.near(stepped_up=True) as owner:
        links = {
            "bilal": owner.accounts.invite("bilal", story.ENGINEER),
            "salma": owner.accounts.invite("salma", ["approver", "auditor"]),
        }
    return [moved.enrolled(name, link.secret.get_secret_value()) for name, link in links.items()]


@pytest.fixture(scope="module")
def told(moved, people, story):
    """What was answered while the main flow was told there."""
    return story.told(moved, *people)


@pytest.fixture(scope="module")
def other_machine(moved, told, elsewhere, tmp_path_factory):
    """Another folder with the same settings and the first one's keys."""
    made = Installation(
        tmp_path_factory.mktemp("other") / "project",
        variables=elsewhere.variables,
        recovery=moved.recovery,
    )
    made.home.mkdir(parents=True, mode=0o700)
    shutil.copy(moved.folder / "falaj.toml", made.folder)
    for name in COPIED:
        kept = moved.home / name
        (shutil.copytree if kept.is_dir() else shutil.copy2)(kept, made.home / name)
    return made


def test_the_main_flow_ends_in_a_prediction_by_the_approved_version(told, story):
    assert told["departures"]["n_written"] == 900
    assert told["own_approval"] == "forbidden"
    assert told["approved"]["state"] == "approved"
    assert told["answer"]["release"] == told["release"]["id"]
    assert told["answer"]["model"] == f"late/{told['trained']['version']}"
    (prediction,) = told["answer"]["predictions"]
    assert 0 < prediction["score"] < 1


def test_the_prediction_reaches_the_lake_there(moved, people, told):
    (prediction,) = told["answer"]["predictions"]

    def rows():
        with people[0].platform() as platform:
            if "predictions_late" not in {table.name for table in platform.tables.list()}:
                return None
            found = platform.tables.read("predictions_late", limit=100).rows
            return [row for row in found if prediction["id"] in str(row)]

    assert len(eventually(rows, what="the prediction in the lake", every=0.3)) == 1


def test_the_audit_log_there_verifies(people, told):
    with people[1].platform() as auditor:
        found = auditor.audit.verify()
        assert found.sound, found.findings
        assert auditor.audit.search(action="models.promote", outcome="done").records


def test_the_doctor_finds_every_component_well(moved, told):
    done = subprocess.run(
        falaj_command(moved.folder, "--json", "doctor"),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **SURROUNDINGS, **moved.variables},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["component"]: one for one in json.loads(done.stdout)}
    assert all(one["well"] for one in found.values()), found
    assert "postgresql" in found["database"]["told"]
    assert "ducklake:postgres with data in s3://" in found["lake"]["told"]
    assert "s3://" in found["blobs"]["told"]
    for secret in moved.variables.values():
        assert secret not in str(found)


def test_nothing_that_was_moved_is_left_at_home(moved, told):
    kept = {path.relative_to(moved.home).parts[0] for path in moved.home.rglob("*.*")}
    assert not kept & {"falaj.db", "blobs"}
    assert [file for file in (moved.home / "lake").rglob("*") if file.is_file()] == []


def test_no_secret_stands_in_the_settings_file_or_in_what_was_logged(moved, told):
    for text in ((moved.folder / "falaj.toml").read_text(), moved.told()):
        for secret in moved.variables.values():
            assert secret not in text


def test_without_a_secret_one_error_says_which_is_missing(moved, told):
    def variables(*without):
        return {k: v for k, v in moved.variables.items() if not k.startswith(without)}

    bare = Installation(moved.folder, variables=variables("FALAJ_DATABASE"))
    with pytest.raises(FalajError, match=r"(?i)password"), bare.near():
        pass
    bare = Installation(moved.folder, variables=variables("FALAJ_S3"))
    with pytest.raises(FalajError, match="lake_data") as caught, bare.near():
        pass
    assert "FALAJ_S3_ACCESS_KEY" in caught.value.hint


def test_another_machine_sees_the_model_the_table_and_the_records(other_machine, told):
    with other_machine.near(stepped_up=True) as platform:
        assert platform.models.get("late", told["trained"]["version"]).stage == "production"
        assert platform.tables.get("departures").n_rows == 900
        assert platform.audit.verify().sound


def test_what_is_loaded_through_another_machine_is_seen_here(other_machine, moved, story):
    for machine in (other_machine, moved):  # either machine's worker may take the job
        story.write_bulk(machine.folder, n=50)
    with other_machine.near() as there, moved.near() as here:
        there.definitions.apply(story.documents(story.BULK))
        loaded = there.wait(there.sources.load("bulk"))
        assert here.jobs.get(loaded.id).state == "done"
        assert here.tables.get("bulk").n_rows == there.tables.get("bulk").n_rows == 50
