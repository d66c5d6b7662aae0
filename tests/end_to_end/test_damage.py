"""A home that was damaged, shared, filled up, or set up halfway; and settings that are wrong."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager

import pytest

import falaj
from falaj.interfaces.platform import JobFailed
from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, LimitExceeded
from falaj.kernel.schema import SchemaNewer
from falaj.kernel.settings import Settings
from falaj.testing.installations import SURROUNDINGS, Installation, falaj_command
from falaj.trust.adapters.keyring_seals import WrongSeal
from falaj.wiring.assembly import assemble
from falaj.wiring.setup import initialise


def refused(done, *words):
    """Fails the test unless a command ended with one clear error and a way out."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    assert "error " in done.stderr
    assert "→ " in done.stderr
    for word in words:
        assert word in done.stderr


def files_of(folder):
    """Every file below a folder with its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_init_twice_changes_nothing(installed, command):
    keys = files_of(installed.home / "keys")
    command(installed.folder, "init").refused(str(installed.home), "already")
    assert files_of(installed.home / "keys") == keys
    with installed.near() as owner:
        assert owner.accounts.me().principal == "user:owner"


KILLED_INIT = """
import os, signal, sys
from pathlib import Path
import falaj.wiring.setup as setup
from falaj.kernel.settings import Settings
from falaj.trust.authentication import Authentication
from falaj.trust.adapters.keys_file import FileKeyring
import falaj.wiring.keyservices as keyservices

def dying(function, before):
    def call(*values, **named):
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        function(*values, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return call

step = sys.argv[2]
if step == "seal":
    keyservices.seal_of = dying(keyservices.seal_of, False)
elif step == "keyring":
    FileKeyring.create = dying(FileKeyring.create, False)
elif step == "schema":
    setup.upgrade = dying(setup.upgrade, False)
elif step == "in-owner":
    Authentication.create_owner = dying(Authentication.create_owner, False)
elif step == "owner":
    setup._with_factor = dying(setup._with_factor, True)
elif step == "factor":
    setup._with_factor = dying(setup._with_factor, False)
setup.initialise(Settings.read(sys.argv[1]), owner="owner")
"""


@pytest.mark.parametrize("step", ["seal", "keyring", "schema", "in-owner", "owner", "factor"])
def test_an_init_that_was_killed_is_begun_anew(tmp_path, step):
    folder = tmp_path / "project"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_INIT, str(folder), step],
        env={**os.environ, **SURROUNDINGS},
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -9, killed.stderr
    made = initialise(Settings.read(folder), owner="owner")
    with falaj.open(folder) as owner:
        owner.step_up(made.recovery_codes[0])
        assert owner.accounts.me().stepped_up
        assert owner.audit.verify().sound
        assert [account.name for account in owner.accounts.list()] == ["owner"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('keyring_passphrase = "open sesame"', ["keyring_passphrase", "falaj.toml"]),
        ('database_password = "x"', ["database_password"]),
        ('s3_secret_key = "x"', ["s3_secret_key"]),
        ('database = "postgresql+psycopg://falaj:hunter2@db/falaj"', ["database"]),
        ("[http]\nport = 99999", ["http.port"]),
        ("[http]\nporch = 1", ["http.porch"]),
        ("colour = 'blue'", ["colour"]),
        ("home = ", ["falaj.toml"]),
    ],
)
def test_a_wrong_settings_file_is_refused_and_shows_no_secret(tmp_path, text, words):
    (tmp_path / "falaj.toml").write_text(text)
    with pytest.raises(InvalidInput) as raised:
        Settings.read(tmp_path)
    told = str(raised.value)
    assert all(word in told for word in words), told
    assert raised.value.hint
    assert "sesame" not in told
    assert "hunter2" not in told


def test_a_database_of_a_newer_version_is_left_alone(installed, command):
    with sqlite3.connect(installed.home / "falaj.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(SchemaNewer, match="9999") as raised:
        falaj.open(installed.folder)
    assert raised.value.hint
    command(installed.folder, "whoami").refused("9999")
    command(installed.folder, "up").refused("9999")


def test_a_wrong_passphrase_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FALAJ_KEYRING_PASSPHRASE", "the right long passphrase")
    Installation(tmp_path / "project").init()
    monkeypatch.setenv("FALAJ_KEYRING_PASSPHRASE", "another long passphrase")
    with pytest.raises(WrongSeal) as raised:
        falaj.open(tmp_path / "project")
    assert raised.value.hint
    assert "passphrase" in raised.value.message
    assert "another long" not in str(raised.value)
    monkeypatch.delenv("FALAJ_KEYRING_PASSPHRASE")
    with pytest.raises(FalajError, match=r"passphrase|sealed"):
        falaj.open(tmp_path / "project")
    monkeypatch.setenv("FALAJ_KEYRING_PASSPHRASE", "the right long passphrase")
    falaj.open(tmp_path / "project").close()


def changed(document):
    return json.dumps({**document, "keys": document["keys"][:-8] + "AAAAAAAA"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "{}",
        lambda text: changed(json.loads(text)),
    ],
    ids=["empty", "cut", "another document", "changed bytes"],
)
def test_a_damaged_keyring_is_refused_and_not_replaced(installed, command, damage):
    ring = installed.home / "keys" / "keyring.json"
    ring.write_text(damage(ring.read_text()))
    damaged = ring.read_bytes()
    with pytest.raises(FalajError) as raised:
        falaj.open(installed.folder)
    assert isinstance(raised.value, Corrupt | WrongSeal)
    assert "keyring" in raised.value.message
    assert raised.value.hint
    command(installed.folder, "whoami").refused("keyring")
    assert ring.read_bytes() == damaged


@pytest.mark.parametrize(
    "crime",
    [
        "UPDATE audit_records SET principal = 'user:nobody' WHERE seq = 2",
        "UPDATE audit_records SET body = body || ' ' WHERE seq = 1",
        "DELETE FROM audit_records WHERE seq = 2",
        "DELETE FROM audit_records WHERE seq >= (SELECT max(size) FROM audit_checkpoints)",
    ],
    ids=["who", "what", "a row from the middle", "the signed end"],
)
def test_a_falsified_audit_log_is_found_out(installed, crime):
    with installed.near() as owner:
        owner.accounts.me()
        owner.audit.checkpoint()
        assert owner.audit.verify().sound
        owner.audit.checkpoint()
    database = sqlite3.connect(installed.home / "falaj.db")
    with database:
        for (name,) in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            database.execute(f"DROP TRIGGER {name}")
        assert database.execute(crime).rowcount
    database.close()
    with installed.near() as owner:
        found = owner.audit.verify()
    assert not found.sound
    assert found.findings


def test_the_audit_log_itself_refuses_changes(installed):
    database = sqlite3.connect(installed.home / "falaj.db")
    for crime in ("UPDATE audit_records SET principal = 'x'", "DELETE FROM audit_records"):
        with pytest.raises(sqlite3.DatabaseError):
            database.execute(crime)
    database.close()


WITHOUT_RIGHTS = ("dac_override", "dac_read_search", "fowner", "chown")


def powerless(*command):
    """A command line without root's right to open what belongs to others."""
    if os.geteuid() != 0:
        return list(command)
    if shutil.which("setpriv") is None:
        pytest.skip("we are root, and there is no setpriv to give rights up with")
    bounds = ",".join(f"-{name}" for name in WITHOUT_RIGHTS)
    return ["setpriv", f"--bounding-set={bounds}", *command]


def run_powerless(folder, *arguments):
    return subprocess.run(
        powerless(*falaj_command(folder, *arguments)),
        env={**os.environ, **SURROUNDINGS},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir(mode=0o555)
    refused(run_powerless(folder, "init"), str(folder / ".falaj"))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ["whoami", "up", "init"])
def test_a_home_of_another_user_is_named(installed, command):
    if os.geteuid() == 0:
        os.chown(installed.home, 65534, 65534)
    else:
        installed.home.chmod(0)
    try:
        refused(run_powerless(installed.folder, command), str(installed.home))
    finally:
        if os.geteuid() == 0:
            os.chown(installed.home, 0, 0)
        installed.home.chmod(0o700)


@contextmanager
def small_disk(path, megabytes):
    """A disk of a few megabytes, or a skip where none can be made."""
    path.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def filled(path):
    """Use up what is free on a disk."""
    with (path / "ballast").open("wb", buffering=0) as file:
        block = bytes(64 * 1024)
        try:
            while True:
                file.write(block)
        except OSError:
            pass


def test_a_load_onto_a_full_disk_says_so_and_can_be_repeated(tmp_path, story):
    with small_disk(tmp_path / "disk", 24) as disk:
        installation = Installation(disk / "project")
        installation.init()
        story.write_data(installation.folder, n=600)
        with installation.near() as owner:
            owner.definitions.apply(story.documents(story.DEPARTURES))
            ballast = disk / "project" / ".falaj" / "lake"
            job = owner.sources.load("departures")
            filled(ballast)
            with pytest.raises((JobFailed, LimitExceeded)) as raised:
                owner.wait(job, timeout_seconds=20)
            told = str(raised.value).lower()
            assert "full" in told or "space" in told, told
            (ballast / "ballast").unlink()
            done = owner.wait(owner.sources.load("departures"))
            assert done.result["n_written"] == 600
            assert owner.tables.get("departures").n_rows == 600
            assert owner.audit.verify().sound


def test_a_blob_on_a_full_disk_is_kept_whole_or_not_at_all(installed):
    home = installed.home
    with small_disk(home / "blobs", 2) as disk:
        premises = assemble(installed.settings, process="test")
        try:
            small = premises.blobs.keep(b"small")
            filled(disk)
            with pytest.raises(LimitExceeded, match="full") as raised:
                premises.blobs.keep(os.urandom(3_000_000))
            assert raised.value.hint
            assert list(premises.blobs.digests()) == [small]
            (disk / "ballast").unlink()
            large = premises.blobs.keep(bytes(1_000_000))
            assert premises.blobs.fetch(large) == bytes(1_000_000)
        finally:
            premises.close()


def test_a_platform_may_be_open_twice_in_one_process(installed, story):
    with installed.near() as first, installed.near() as second:
        first.definitions.apply(story.documents())
        assert len(second.definitions.list()) == len(story.DEFINITIONS)
        assert second.endpoints.list()[0].name == "late"
    with installed.near() as third:
        assert third.endpoints.status("late").active is None
