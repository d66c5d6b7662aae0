"""Backups: made while a platform is in use, opened by nobody else, restored and proven."""

import os
import random
import shutil
import sqlite3
import threading

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import SecretStr

from falaj.ingest.ports import JSON
from falaj.kernel.errors import AlreadyExists, Conflict, Corrupt, FalajError, InvalidInput, NotFound
from falaj.kernel.settings import Settings
from falaj.trust.adapters.keys_file import WrongSeal
from falaj.trust.audit_checkpoints import Checkpointer
from falaj.wiring import backups
from falaj.wiring.assembly import assemble
from falaj.wiring.keyservices import machine_secret_file
from falaj.wiring.setup import initialise

MARKER = "marker-7f3a"


def made(folder, **given):
    """A platform with something in each store."""
    folder.mkdir()
    settings = Settings.read(folder, **given)
    initialise(settings, owner="owner")
    premises = assemble(settings)
    digest = premises.blobs.keep(f"blob {MARKER}".encode() * 1000)
    premises.lake.append("flights", pa.table({"who": [MARKER, "b"], "n": [1, 2]}))
    premises.event_log.append("pushed", [MARKER.encode()], media=JSON)
    premises.close()
    return settings, digest


def contents(settings, digest):
    """What a platform holds."""
    premises = assemble(settings)
    try:
        return (
            premises.blobs.fetch(digest),
            premises.lake.scan("flights", order_by=["n"]).to_pylist(),
            [record.payload for record in premises.event_log.read("pushed", 0, 0)],
        )
    finally:
        premises.close()


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backups")
    settings, digest = made(folder / "p")
    file = folder / "backup"
    told = backups.create(settings, file)
    return settings, digest, file, told


def elsewhere(tmp_path, **given):
    (tmp_path / "r").mkdir()
    return Settings.read(tmp_path / "r", **given)


def test_a_restored_platform_holds_what_the_first_one_held(platform, tmp_path):
    settings, digest, file, told = platform
    secret = machine_secret_file(settings)
    there = elsewhere(tmp_path)
    done = backups.restore(there, file, secret=secret)
    assert (done.n_files, done.n_bytes) == (told.n_files, told.n_bytes)
    assert done.n_audit_records > 0
    assert contents(there, digest) == contents(settings, digest)
    assert (there.home / "keys" / "machine.secret").stat().st_mode & 0o777 == 0o600
    premises = assemble(there)
    try:
        premises.keys.sign("audit", b"m")
        authority = premises.certificates.authority
        assert authority.checked().public_bytes(Encoding.PEM) == (
            (settings.home / "tls" / "ca.pem").read_bytes()
        )
        assert authority.server_certificate(["restored.test"]).names == ("restored.test",)
        assert not list(there.home.rglob("ca.key"))
        premises.blobs.keep(b"more")
        with premises.calls.opened("test", "system:test"):
            pass
        Checkpointer(
            premises.database, premises.checkpoints, clock=premises.clock, witness=premises.witness
        ).run_once()  # it goes on with the log that the witness of the backup knows
        with premises.database.reading() as connection:
            assert premises.audit_verifier.verify(connection).sound
    finally:
        premises.close()


def test_a_backup_is_verified_without_writing_anything(platform, tmp_path):
    settings, _, file, told = platform
    assert backups.verify(settings, file) == told
    there = elsewhere(tmp_path)
    assert backups.verify(there, file, secret=machine_secret_file(settings)) == told
    assert list((tmp_path / "r").iterdir()) == []


def test_nothing_of_the_platform_is_readable_in_the_file(platform):
    settings, _, file, _ = platform
    content = file.read_bytes()
    secret = machine_secret_file(settings).read_bytes().strip()
    for clear in (MARKER.encode(), b"owner", secret, bytes.fromhex(secret.decode()), b"SQLite"):
        assert clear not in content
    assert file.stat().st_mode & 0o777 == 0o600


def test_it_opens_with_the_secret_of_its_keyring_alone(platform, tmp_path):
    _, _, file, _ = platform
    there = elsewhere(tmp_path)
    with pytest.raises(NotFound, match="--secret"):
        backups.restore(there, file)
    wrong = tmp_path / "wrong"
    wrong.write_text(os.urandom(32).hex())
    wrong.chmod(0o600)
    with pytest.raises(WrongSeal):
        backups.restore(there, file, secret=wrong)
    assert not there.home.exists()
    assert list((tmp_path / "r").iterdir()) == []


def test_every_changed_byte_is_refused_and_nothing_is_left(platform, tmp_path):
    settings, _, file, _ = platform
    secret = machine_secret_file(settings)
    content = file.read_bytes()
    there = elsewhere(tmp_path)
    length = int.from_bytes(content[13:17], "big")
    chance = random.Random(5)
    places = [0, 5, 13, 16, 17, 40, 17 + length - 3, 17 + length + 1, len(content) - 1]
    places += [chance.randrange(len(content)) for _ in range(12)]
    changed = tmp_path / "changed"
    for place in places:
        other = bytearray(content)
        other[place] ^= 1
        changed.write_bytes(other)
        with pytest.raises(FalajError):
            backups.restore(there, changed, secret=secret)
    for cut in (0, 10, 20, 17 + length, 17 + length + 200, len(content) // 2, len(content) - 1):
        changed.write_bytes(content[:cut])
        with pytest.raises(Corrupt):
            backups.restore(there, changed, secret=secret)
    changed.write_bytes(content + b"\0")
    with pytest.raises(Corrupt):
        backups.restore(there, changed, secret=secret)
    assert list((tmp_path / "r").iterdir()) == []


def test_a_backup_whose_audit_log_was_changed_before_it_was_made_is_not_restored(tmp_path):
    settings, _ = made(tmp_path / "p")
    premises = assemble(settings)
    Checkpointer(
        premises.database, premises.checkpoints, clock=premises.clock, witness=premises.witness
    ).run_once()
    premises.close()
    with sqlite3.connect(settings.home / "falaj.db") as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute("UPDATE audit_records SET principal = 'user:nobody' WHERE seq = 1")
    connection.close()
    backups.create(settings, tmp_path / "backup")
    there = elsewhere(tmp_path)
    with pytest.raises(Corrupt, match="audit log in the backup is not whole"):
        backups.restore(there, tmp_path / "backup", secret=machine_secret_file(settings))
    assert list((tmp_path / "r").iterdir()) == []


def test_a_passphrase_opens_it_on_another_machine(tmp_path):
    phrase = SecretStr("five words nobody will guess")
    settings, digest = made(tmp_path / "p", keyring_passphrase=phrase)
    backups.create(settings, tmp_path / "backup")
    shutil.rmtree(settings.home)
    there = elsewhere(tmp_path, keyring_passphrase=phrase)
    backups.restore(there, tmp_path / "backup")
    assert contents(there, digest)[0].startswith(b"blob marker")


def test_nothing_is_replaced(platform, tmp_path):
    settings, _, file, _ = platform
    with pytest.raises(AlreadyExists):
        backups.create(settings, file)
    with pytest.raises(AlreadyExists):
        backups.restore(settings, file)
    with pytest.raises(NotFound):
        backups.verify(settings, tmp_path / "missing")


def test_a_platform_with_stores_elsewhere_is_told_to_use_their_tools(tmp_path):
    settings = Settings.read(tmp_path, database="postgresql+psycopg://u@h/n", blobs="s3://b")
    with pytest.raises(InvalidInput, match="database, blobs outside of its folder"):
        backups.create(settings, tmp_path / "backup")


def test_a_backup_that_is_made_while_others_write_is_whole(tmp_path):
    settings, digest = made(tmp_path / "p")
    premises = assemble(settings)
    stopped, failures, n = threading.Event(), [], [0]

    def write():
        try:
            while not stopped.is_set():
                n[0] += 1
                rows = pa.table({"who": [f"w{n[0]}"], "n": [n[0] + 10]})
                premises.event_log.append("pushed", [b"%d" % n[0]], media=JSON)
                premises.lake.append("flights", rows)
                kept = premises.blobs.keep(b"%d" % n[0])
                with premises.calls.opened("test", "system:test") as call:
                    call.note(blob=kept)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(3):
            backups.create(settings, tmp_path / f"backup{number}")
    finally:
        stopped.set()
        writer.join()
        premises.close()
    assert failures == []
    assert n[0] > 0
    there = elsewhere(tmp_path)
    backups.restore(there, tmp_path / "backup2", secret=machine_secret_file(settings))
    restored = assemble(there)
    try:
        rows = restored.lake.scan("flights", order_by=["n"]).to_pylist()
        assert [row["n"] for row in rows[2:]] == list(range(11, 11 + len(rows) - 2))
        with restored.database.reading() as connection:
            page = restored.audit.search(connection, action="test", limit=1000)
        for record in page.records:
            assert restored.blobs.has(record.details["blob"])
        assert restored.blobs.fetch(digest)
    finally:
        restored.close()
    assert not list(settings.home.glob(".backup-*"))


def test_a_backup_during_a_rotation_opens_all_that_is_in_it(tmp_path, monkeypatch):
    settings, digest = made(tmp_path / "p")
    premises = assemble(settings)
    copied, heads = backups._copied, backups._head

    def rotated_meanwhile(source, target):
        premises.keys.rotate("wrapping")
        premises.blobs.rewrap(digest)
        copied(source, target)

    asked = []

    def rotated_at_the_beginning(given, now):
        asked.append(now)
        if len(asked) == 2:
            premises.keys.rotate("wrapping")
        return heads(given, now)

    monkeypatch.setattr(backups, "_copied", rotated_meanwhile)
    monkeypatch.setattr(backups, "_head", rotated_at_the_beginning)
    try:
        backups.create(settings, tmp_path / "backup")
    finally:
        premises.close()
    assert len(asked) == 4  # begun anew once
    there = elsewhere(tmp_path)
    backups.restore(there, tmp_path / "backup", secret=machine_secret_file(settings))
    assert contents(there, digest) == contents(settings, digest)


def test_a_version_that_is_destroyed_meanwhile_undoes_the_backup(tmp_path, monkeypatch):
    settings, _ = made(tmp_path / "p")
    premises = assemble(settings)
    old = premises.keys.versions()[-1].id
    premises.keys.rotate("wrapping")
    copied = backups._copied

    def destroyed_meanwhile(source, target):
        if old in {version.id for version in premises.keys.versions()}:
            premises.keys.discard(old)
        copied(source, target)

    monkeypatch.setattr(backups, "_copied", destroyed_meanwhile)
    try:
        with pytest.raises(Conflict, match="destroyed while the backup was made"):
            backups.create(settings, tmp_path / "backup")
    finally:
        premises.close()
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_sessions_that_were_ended_after_the_backup_are_not_open_again(tmp_path):
    settings, _ = made(tmp_path / "p")
    premises = assemble(settings)
    parts = premises.authentication
    with premises.calls.opened("test", "system:test") as call:
        account = parts.accounts.get(call.connection, "owner")
        session = parts.sessions.begin(
            call.connection, account, client="test", address=None, mfa_at=None, now=call.now
        )
    premises.close()
    backups.create(settings, tmp_path / "backup")
    there = elsewhere(tmp_path)
    backups.restore(there, tmp_path / "backup", secret=machine_secret_file(settings))
    restored = assemble(there)
    try:
        with restored.database.reading() as connection:
            found = restored.authentication.sessions.get(connection, session.id)
            assert found.revoked_because == "restored from a backup"
            page = restored.audit.search(connection, action="backups.restore")
        assert page.records[0].details["n_sessions_ended"] >= 1
    finally:
        restored.close()
