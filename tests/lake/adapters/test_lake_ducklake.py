from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput, LimitExceeded, Unavailable
from falaj.lake.adapters import ducklake_engine as engine
from falaj.lake.adapters.lake_ducklake import DuckLake, Place
from falaj.lake.adapters.writer_lock import FileLock
from falaj.lake.model import QueryRefused
from falaj.testing.lake import LakeSuite, people


def emptied(lake):
    """The lake without its tables and keys: opening a new one for each test takes half a second."""

    def work(cursor):
        for table in lake.tables():
            cursor.execute(f"DROP TABLE lake.{table}")
        cursor.execute("DELETE FROM lake._falaj_writes")

    lake._write(work, [], None)
    return lake


@pytest.fixture(scope="module")
def sqlite_lake(tmp_path_factory):
    lake = DuckLake.in_folder(tmp_path_factory.mktemp("lake"), threads=1)
    yield lake
    lake.close()


@pytest.fixture(scope="module")
def postgres_lake(tmp_path_factory, postgres_server):
    name = postgres_server.create_database()
    url = postgres_server.url(name).replace("postgresql+psycopg", "postgresql")
    data = str(tmp_path_factory.mktemp("data"))
    lake = DuckLake(Place(f"ducklake:postgres:{url}", data), threads=1)
    yield lake
    lake.close()
    postgres_server.drop_database(name)


class TestDuckLakeOnSqlite(LakeSuite):
    @pytest.fixture
    def lake(self, sqlite_lake):
        return emptied(sqlite_lake)


@pytest.mark.services
class TestDuckLakeOnPostgres(LakeSuite):
    @pytest.fixture
    def lake(self, postgres_lake):
        return emptied(postgres_lake)


def test_nothing_on_disk_is_in_clear_or_open_to_others(lake, tmp_path):
    lake.append("people", pa.table({"name": ["Amina bint Saif"] * 50, "n": list(range(50))}))
    folder = tmp_path / "lake"
    (file,) = (folder / "data").rglob("*.parquet")
    assert b"Amina" not in file.read_bytes()
    assert file.read_bytes()[:4] == b"PARE"  # Parquet with an encrypted footer
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700
    for path in folder.glob("catalog*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_small_writes_do_not_leave_rows_in_the_catalogue(lake, tmp_path):
    lake.append("people", pa.table({"name": ["Amina", "Bilal", "Chahd"]}))
    for path in (tmp_path / "lake").glob("catalog*"):
        assert b"Bilal" not in path.read_bytes()  # the least and the greatest value do stand there


HOSTILE = [
    "DELETE FROM people",
    "INSERT INTO people SELECT * FROM people",
    "UPDATE people SET n = 1",
    "DROP TABLE people",
    "CREATE TABLE x AS SELECT 1",
    "CREATE TEMP TABLE x AS SELECT 1",
    "COPY people TO '/tmp/falaj-out.csv'",
    "COPY (SELECT 1) TO '/tmp/falaj-out.csv'",
    "EXPORT DATABASE '/tmp/falaj-out'",
    "ATTACH '/tmp/falaj-x.db'",
    "DETACH lake",
    "USE memory",
    "INSTALL spatial",
    "LOAD spatial",
    "PRAGMA database_list",
    "PRAGMA version",
    "SET threads = 1",
    "RESET threads",
    "CALL lake.set_option('encrypted', 'false')",
    "CALL ducklake_expire_snapshots('lake')",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "COMMIT",
    "EXPLAIN ANALYZE SELECT 1",
    "EXECUTE x",
    "PREPARE x AS SELECT 1",
    "SELECT 1; DROP TABLE people",
    "SELECT 1; SELECT 2",
    "/* SELECT */ DROP TABLE people",
    "",
    ";",
    "SELECT * FROM '/etc/passwd'",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM read_parquet('x.parquet')",
    "SELECT * FROM read_json_auto('http://127.0.0.1:1/x')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM sqlite_scan('catalog.sqlite', 'ducklake_data_file')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM query_table('people')",
    "SELECT * FROM json_execute_serialized_sql('{}')",
    "SELECT * FROM ducklake_list_files('lake', 'people')",
    "SELECT * FROM ducklake_snapshots('lake')",
    "SELECT * FROM __ducklake_metadata_lake.ducklake_data_file",
    "SELECT * FROM __ducklake_metadata_lake.main.ducklake_data_file",
    "SELECT * FROM lake.main.people",
    "SELECT * FROM main.people",
    "SELECT * FROM _falaj_writes",
    "SELECT * FROM duckdb_databases()",
    "SELECT * FROM duckdb_databases",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM pragma_database_list()",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM sqlite_master",
    "WITH duckdb_databases AS (SELECT 1) SELECT * FROM duckdb_databases",
    "SELECT (SELECT count(*) FROM read_csv('/etc/passwd'))",
    "SELECT 1 WHERE EXISTS (FROM duckdb_secrets())",
    "SELECT * FROM people, LATERAL (SELECT * FROM read_text('/etc/passwd'))",
    "SELECT * FROM people ORDER BY (SELECT max(a) FROM duckdb_secrets() t(a))",
    "SELECT 1 UNION ALL SELECT 1 FROM read_csv('/etc/passwd')",
    "SELECT current_setting('temp_directory')",
    "SELECT getenv('HOME')",
    "SHOW TABLES",
    "DESCRIBE people",
    "SUMMARIZE people",
    "FROM (SHOW ALL TABLES)",
    "FROM (DESCRIBE people)",
]


def test_hostile_sql_is_refused_and_changes_nothing(lake, tmp_path):
    before = lake.append("people", people(1))
    for sql in HOSTILE:
        with pytest.raises(QueryRefused):
            lake.query(sql)
    assert lake.latest() == before.id
    assert lake.count("people") == 1
    assert not list(tmp_path.glob("falaj*"))


@pytest.mark.parametrize(
    "where", ["1=1) UNION SELECT * FROM (FROM duckdb_secrets()", "n = (SELECT 1 FROM glob('/*'))"]
)
def test_hostile_conditions_are_refused(lake, where):
    lake.append("people", people(1))
    with pytest.raises(InvalidInput):
        lake.scan("people", where=where)


def test_the_engine_itself_reaches_no_file_no_network_and_no_setting(lake, tmp_path):
    """Even if the reading of SQL were fooled, the engine below refuses."""
    lake.append("people", people(1))
    with lake._reading() as cursor:
        for sql in (
            "FROM read_text('/etc/passwd')",
            f"FROM read_text('{tmp_path}/k')",
            "COPY (SELECT 1) TO '/tmp/falaj-out.csv'",
            "ATTACH '/tmp/falaj-x.db'",
            "FROM read_text('http://127.0.0.1:9/')",
            "LOAD '/tmp/x.duckdb_extension'",
            "SET enable_external_access = true",
            "SET allowed_directories = ['/']",
        ):
            with pytest.raises(engine.duckdb.Error, match=r"(?i)disabled|locked"):
                cursor.execute(sql)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        with pytest.raises(engine.duckdb.Error, match="read-only"):
            cursor.execute("DELETE FROM lake.people")


def test_a_changed_data_file_is_told_as_corrupt(lake, tmp_path):
    lake.append("people", people(*range(2000)))
    (file,) = (tmp_path / "lake" / "data").rglob("*.parquet")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    lake.close()
    with pytest.raises(Corrupt):
        lake.scan("people")


def run(body, *arguments, **options):
    head = """
        import sys, os, pathlib, resource
        import pyarrow as pa
        from falaj.lake.adapters.lake_ducklake import DuckLake
        lake = DuckLake.in_folder(pathlib.Path(sys.argv[1]) / "lake", threads=1)
    """
    text = textwrap.dedent(head) + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_four_processes_that_write_at_once_all_succeed_and_a_reader_never_waits(lake, tmp_path):
    writers = [
        run(
            """
            me = int(sys.argv[2])
            for i in range(10):
                lake.append("t", pa.table({"who": [me], "i": [i]}))
            """,
            tmp_path,
            who,
        )
        for who in range(4)
    ]
    slowest, seen = 0.0, 0
    while any(writer.poll() is None for writer in writers):
        started = time.perf_counter()
        found = lake.count("t") if lake.exists("t") else 0
        slowest = max(slowest, time.perf_counter() - started)
        assert found >= seen
        seen = found
        time.sleep(0.02)
    for writer in writers:
        _, told = writer.communicate()
        assert writer.returncode == 0, told
    rows = lake.query("SELECT count(*) AS n, count(DISTINCT (who, i)) AS d FROM t").to_pylist()
    assert rows == [{"n": 40, "d": 40}]
    assert slowest < 10
    assert len(lake.snapshots("t")) == 40


def test_kill_9_in_the_middle_of_an_append_leaves_the_old_snapshot(lake, tmp_path):
    before = lake.append("t", pa.table({"n": [0]}))
    child = run(
        """
        import falaj.lake.adapters.lake_ducklake as adapter
        sync = DuckLake._sync
        def stop(*given):
            sync(*given)
            print("written, not committed", flush=True)
            import time; time.sleep(60)
        DuckLake._sync = stop
        lake.append("t", pa.table({"n": list(range(1, 100_000))}), key="k")
        """,
        tmp_path,
    )
    assert child.stdout.readline().startswith("written")
    assert len(list((tmp_path / "lake" / "data").rglob("*.parquet"))) == 2
    assert lake.count("t") == 1  # a reader is not blocked by the open transaction
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert lake.latest() == before.id
    lake.append("t", pa.table({"n": [1]}), key="k")
    assert lake.scan("t", order_by=["n"])["n"].to_pylist() == [0, 1]
    from datetime import UTC, datetime

    lake.expire(older_than=datetime(2000, 1, 1, tzinfo=UTC), grace_seconds=-60)
    assert len(list((tmp_path / "lake" / "data").rglob("*.parquet"))) == 2  # the orphan is gone


def test_a_full_disk_is_told_and_leaves_nothing_half_done(lake, tmp_path):
    before = lake.append("t", pa.table({"n": [0]}))
    child = run(
        """
        import random
        from falaj.kernel.errors import LimitExceeded
        lake.latest()
        rows = pa.table({"n": [random.getrandbits(62) for _ in range(400_000)]})
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        try:
            lake.append("t", rows)
        except LimitExceeded as error:
            print(error)
        """,
        tmp_path,
    )
    out, told = child.communicate()
    assert "The disk of the lake is full" in out, told
    assert lake.latest() == before.id
    assert lake.append("t", pa.table({"n": [1]})).id == before.id + 1
    assert lake.count("t") == 2


def test_a_writer_that_waits_too_long_is_told_so(tmp_path):
    path = tmp_path / "lock"
    with (
        FileLock(path, wait_seconds=1).held(),
        pytest.raises(Unavailable, match="Other writers"),
        FileLock(path, wait_seconds=0.05).held(),
    ):
        pass
    with FileLock(path, wait_seconds=0.05).held():
        pass


@pytest.mark.parametrize("setting", ["", "sqlite:/x", "ducklake:oracle:x", "ducklake:postgres:"])
def test_a_setting_that_names_no_lake_is_refused(setting, tmp_path):
    with pytest.raises(InvalidInput, match="catalogue"):
        DuckLake(Place(setting, str(tmp_path)))


def test_settings_name_places(tmp_path):
    assert Place.of("ducklake:", tmp_path).sqlite == tmp_path / "catalog.sqlite"
    assert Place.of("ducklake:sqlite:/x/c.db", tmp_path, data="s3://b/p").folder is None
    place = Place("ducklake:postgres:postgresql://u:p%27w@h:5/db?sslmode=require", "d")
    assert place.dsn == r"host='h' port='5' dbname='db' user='u' password='p\'w' sslmode='require'"
    assert "p'w" not in repr(engine.told(engine.duckdb.IOException(f"cannot reach {place.dsn}")))
    assert Place("ducklake:postgres:dbname=x", "d").target == "ducklake:postgres:dbname=x"


def test_the_signature_of_an_extension_is_checked_again_once_its_file_is_another(
    tmp_path, monkeypatch
):
    copied = tmp_path / "copied" / Path(engine.extension("httpfs")).name
    copied.parent.mkdir()
    shutil.copyfile(engine.extension("httpfs"), copied)
    real = engine.extension
    monkeypatch.setattr(
        engine, "extension", lambda name: str(copied) if name == "httpfs" else real(name)
    )
    for number in range(2):  # checked, then known
        lake = DuckLake.in_folder(tmp_path / f"lake {number}", threads=1)
        asked = lake._cursor().execute("SELECT current_setting('allow_unsigned_extensions')")
        assert asked.fetchone() == (False,)
        lake.close()
    changed = bytearray(copied.read_bytes())
    changed[len(changed) // 2] ^= 1
    other = copied.with_suffix(".new")
    other.write_bytes(changed)
    os.utime(other, ns=(copied.stat().st_atime_ns, copied.stat().st_mtime_ns))
    other.replace(copied)
    with pytest.raises(FalajError, match="signature"):
        DuckLake.in_folder(tmp_path / "another", threads=1).latest()


def test_a_missing_extension_is_named_with_its_remedy():
    with pytest.raises(Unavailable, match="nope") as caught:
        engine.extension("nope")
    assert "pip install duckdb-extension-nope" in caught.value.hint


def test_a_server_that_is_away_is_told_without_its_password(tmp_path):
    place = Place("ducklake:postgres:postgresql://u:hush@127.0.0.1:9/x", str(tmp_path))
    with pytest.raises(Unavailable) as caught:
        DuckLake(place, wait_seconds=1).tables()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (engine.duckdb.OutOfMemoryException("Out of Memory Error: x"), LimitExceeded),
        (engine.duckdb.IOException("database is locked"), Unavailable),
        (engine.duckdb.InternalException("boom"), engine.LakeBroken),
    ],
)
def test_the_engines_errors_are_told_as_ours(error, kind):
    assert type(engine.told(error)) is kind


def test_a_busy_catalogue_is_tried_again(lake):
    calls = []

    def work():
        calls.append(1)
        if len(calls) < 3:
            raise engine.duckdb.TransactionException("database is locked")
        return "done"

    assert lake._retried(work) == "done"


def test_a_forked_process_opens_an_engine_of_its_own(lake):
    lake.append("t", pa.table({"n": [1]}))
    lake._pid -= 1
    assert lake.count("t") == 1
    assert lake._pid == os.getpid()


def test_tree_of_an_unreadable_query_is_refused():
    from falaj.lake.readonly import tables_of

    with pytest.raises(QueryRefused):
        tables_of(json.loads('{"error": true}'), set())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)


@pytest.mark.services
def test_data_files_may_lie_in_s3(tmp_path, s3_server):
    access = {
        "KEY_ID": s3_server.access_key,
        "SECRET": s3_server.secret_key,
        "ENDPOINT": s3_server.endpoint.removeprefix("http://"),
        "REGION": s3_server.region,
        "USE_SSL": "false",
        "URL_STYLE": "path",
    }
    place = Place.of("ducklake:", tmp_path, data=f"s3://{s3_server.bucket}/lake", s3=access)
    lake = DuckLake(place, threads=1)
    first = lake.append("people", people(1, 2), key="k")
    lake.append("people", people(3))
    assert lake.append("people", people(1, 2), key="k").id == first.id
    assert lake.scan("people", order_by=["n"])["n"].to_pylist() == [1, 2, 3]
    assert lake.count("people", first.id) == 2
    with lake._reading() as cursor, pytest.raises(engine.duckdb.Error, match="disabled"):
        cursor.execute("FROM read_text('s3://other-bucket/x')")
    lake.close()
    assert s3_server.secret_key not in repr(place)


def test_a_lake_whose_folder_was_moved_is_read_and_written_where_it_is_now(tmp_path):
    lake = DuckLake.in_folder(tmp_path / "old", threads=1)
    lake.append("people", people(1, 2, 3))
    lake.close()
    (tmp_path / "old").rename(tmp_path / "new")
    moved = DuckLake.in_folder(tmp_path / "new", threads=1)
    moved.append("people", people(4, 5))
    assert moved.count("people") == 5
    moved.close()
    assert not (tmp_path / "old").exists()
