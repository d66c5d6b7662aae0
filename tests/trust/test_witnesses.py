"""Witnesses: a file, a locked bucket and a server, each held to the same suite."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.errors import Corrupt, InvalidInput, Unavailable
from falaj.kernel.settings import Settings
from falaj.testing.audit import Tamperer, fill
from falaj.testing.servers import S3Bucket
from falaj.testing.witnesses import WitnessServer, WitnessSuite, a_sighting
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.adapters.s3_requests import S3Place, S3Requests
from falaj.trust.adapters.witness_file import FileWitness
from falaj.trust.adapters.witness_http import HttpWitness
from falaj.trust.adapters.witness_s3 import S3Witness
from falaj.trust.audit_checkpoints import Checkpointer, Checkpoints
from falaj.trust.audit_model import FindingKind
from falaj.trust.audit_verification import Verifier
from falaj.trust.ports import Witness
from falaj.wiring.assembly import Premises
from falaj.wiring.auditparts import witness as named_witness

TOKEN = "a-token-of-the-witness"
Again = Callable[[], Witness]


@pytest.fixture
def server() -> Iterator[WitnessServer]:
    made = WitnessServer(TOKEN)
    yield made
    made.close()


@pytest.fixture
def place(s3_server: S3Bucket) -> S3Place:
    """A bucket with object lock on SeaweedFS."""
    place = S3Place(
        f"locked-{secrets.token_hex(8)}",
        s3_server.endpoint,
        s3_server.region,
        s3_server.access_key,
        s3_server.secret_key,
    )
    made = S3Requests(place, SystemClock()).send(
        "PUT", headers={"x-amz-bucket-object-lock-enabled": "true"}
    )
    assert made.status_code == 200
    return place


def in_bucket(place: S3Place) -> S3Witness:
    return S3Witness(place, prefix="a log/of ours", retain=timedelta(days=1), clock=SystemClock())


class TestFile(WitnessSuite):
    @pytest.fixture
    def again(self, tmp_path: Path) -> Again:
        return lambda: FileWitness(tmp_path / "elsewhere" / "checkpoints")

    @pytest.fixture
    def witness(self, again: Again) -> Witness:
        return again()


class TestBucket(WitnessSuite):
    @pytest.fixture
    def again(self, place: S3Place) -> Again:
        return lambda: in_bucket(place)

    @pytest.fixture
    def witness(self, again: Again) -> Witness:
        return again()


class TestServer(WitnessSuite):
    @pytest.fixture
    def again(self, server: WitnessServer) -> Again:
        return lambda: HttpWitness(server.address, token=TOKEN)

    @pytest.fixture
    def witness(self, again: Again) -> Witness:
        return again()


@pytest.fixture(params=["file", "bucket", "server"])
def witness(request: pytest.FixtureRequest, tmp_path: Path) -> Witness:
    """Each of them in turn."""
    if request.param == "file":
        return FileWitness(tmp_path / "elsewhere" / "checkpoints")
    if request.param == "bucket":
        return in_bucket(request.getfixturevalue("place"))
    return HttpWitness(request.getfixturevalue("server").address, token=TOKEN)


def test_a_log_cut_back_to_an_older_checkpoint_is_found_by_each(
    witness: Witness, sqlite_database: Database, tmp_path: Path
) -> None:
    seal = MachineSeal.create(tmp_path / "seal")
    keys = FileKeyring.create(tmp_path / "keys.json", seal, clock=SystemClock())
    checkpoints = Checkpoints(keys)
    worker = Checkpointer(sqlite_database, checkpoints, clock=SystemClock(), witness=witness)
    for first in (1, 11, 21):
        fill(sqlite_database, 10, first=first)
        worker.run_once(force=True)
    log = Tamperer(sqlite_database)
    log.run("DELETE FROM audit_records WHERE seq > 20")
    log.run("DELETE FROM audit_checkpoints WHERE size > 20")
    with sqlite_database.reading() as connection:
        assert Verifier(checkpoints).verify(connection).sound  # nothing inside shows it
        found = Verifier(checkpoints, witness=witness).verify(connection)
    assert [(one.kind, one.seq) for one in found.findings] == [(FindingKind.ROLLED_BACK, 21)]


# The bucket against whoever holds its keys.


def test_a_locked_sighting_cannot_be_deleted(place: S3Place) -> None:
    witness, owner = in_bucket(place), S3Requests(place, SystemClock())
    witness.keep(a_sighting(20))
    found = witness._oldest_version_of_the_first_key()
    assert found is not None
    key, version = found
    assert owner.send("DELETE", key, query={"versionId": version}).status_code == 403
    assert witness.latest() == a_sighting(20)


def test_a_delete_marker_hides_no_sighting(place: S3Place) -> None:
    witness = in_bucket(place)
    witness.keep(a_sighting(20))
    assert S3Requests(place, SystemClock()).send("DELETE", witness._key(20)).status_code == 204
    assert in_bucket(place).latest() == a_sighting(20)


def test_a_newer_version_takes_no_sightings_place(place: S3Place) -> None:
    witness, owner = in_bucket(place), S3Requests(place, SystemClock())
    witness.keep(a_sighting(20))
    for number in range(3):
        assert owner.send("PUT", witness._key(20), body=b"%d" % number).status_code == 200
    assert in_bucket(place).latest() == a_sighting(20)


def test_what_is_no_sighting_is_told_and_not_believed(place: S3Place) -> None:
    witness, owner = in_bucket(place), S3Requests(place, SystemClock())
    witness.keep(a_sighting(20))
    owner.send("PUT", witness._key(999), body=b"nothing of the kind")
    with pytest.raises(Corrupt, match="no sighting"):
        witness.latest()


def test_a_bucket_without_object_lock_is_refused(s3_server: S3Bucket) -> None:
    place = S3Place(
        s3_server.bucket,
        s3_server.endpoint,
        s3_server.region,
        s3_server.access_key,
        s3_server.secret_key,
    )
    with pytest.raises(Unavailable, match="locked object") as raised:
        in_bucket(place).keep(a_sighting(20))
    assert "object lock" in raised.value.hint


def test_a_wrong_key_of_the_bucket_is_refused(place: S3Place) -> None:
    wrong = S3Place(place.bucket, place.endpoint, place.region, place.access_key, "wrong")
    with pytest.raises(Unavailable, match="403"):
        in_bucket(wrong).latest()


# The server against whoever stands between.


def test_a_server_that_asks_for_another_token_is_told_nothing(server: WitnessServer) -> None:
    with pytest.raises(Unavailable, match="401"):
        HttpWitness(server.address, token="another").keep(a_sighting(20))
    assert server.kept == {}


def test_a_redirect_is_not_followed(server: WitnessServer) -> None:
    other = WitnessServer(TOKEN)
    server.redirect_to = other.address
    with pytest.raises(Unavailable, match="307"):
        HttpWitness(server.address, token=TOKEN).keep(a_sighting(20))
    other.close()
    assert other.kept == {}


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    gone = WitnessServer(TOKEN)
    gone.close()
    with pytest.raises(Unavailable, match="does not answer"):
        HttpWitness(gone.address, token=TOKEN).latest()


# The settings choose.


@pytest.mark.parametrize(
    ("named", "kind"),
    [
        ("file:", FileWitness),
        ("file:/srv/witness/checkpoints", FileWitness),
        ("s3://bucket/log?endpoint=https://s3.test&region=me-central-1", S3Witness),
        ("https://witness.test/falaj", HttpWitness),
    ],
)
def test_the_setting_chooses_the_witness(named: str, kind: type[Any], tmp_path: Path) -> None:
    settings = Settings(
        home=tmp_path,
        audit={"witness": named},
        s3_access_key=SecretStr("a"),
        s3_secret_key=SecretStr("b"),
    )
    premises = Premises(settings)
    assert type(premises.witness) is kind
    premises.close()


@pytest.mark.parametrize("named", ["http://witness.test", "ftp://x", "", "s3://user@bucket/x"])
def test_what_names_no_witness_is_refused(named: str, tmp_path: Path) -> None:
    premises = Premises(Settings(home=tmp_path, audit={"witness": named}))
    with pytest.raises(InvalidInput, match=r"audit\.witness"):
        named_witness(premises)
