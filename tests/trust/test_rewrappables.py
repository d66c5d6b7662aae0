"""Every store with wrapped data keys keeps the promises of ``Rewrappable``."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import delete, insert, select

from falaj.ingest.adapters.eventlog_segments import SegmentLog
from falaj.ingest.adapters.segment_partition import Limits
from falaj.ingest.ports import JSON
from falaj.kernel.clock import SetClock
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.blobs import SealedBlobs
from falaj.lake.sealedfiles import SealedFiles
from falaj.testing.eventlog import all_of
from falaj.testing.keys import RewrappableSuite
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.factors import Factors, factor_context
from falaj.trust.sealedcolumns import SealedColumn, SealedColumns
from falaj.trust.sealing import open_bytes, seal_bytes
from falaj.trust.tables import accounts

NOW = datetime(2026, 11, 30, tzinfo=UTC)


class WithKeyring(RewrappableSuite):
    __test__ = False

    @pytest.fixture
    def keys(self, tmp_path):
        seal = MachineSeal.create(tmp_path / "secret")
        return FileKeyring.create(tmp_path / "keys.json", seal, clock=SetClock(NOW))


class TestBlobs(WithKeyring):
    __test__ = True

    @pytest.fixture
    def store(self, keys, tmp_path):
        return SealedBlobs(LocalBlobs(tmp_path / "blobs"), keys)

    @pytest.fixture
    def put(self, store):
        return store.keep

    @pytest.fixture
    def contents(self, store):
        return lambda: [store.fetch(digest) for digest in store.digests()]

    @pytest.fixture
    def gone(self, store):
        return store.forget


class TestFiles(WithKeyring):
    __test__ = True

    @pytest.fixture
    def store(self, keys, tmp_path):
        (tmp_path / "files").mkdir()
        return SealedFiles("files", tmp_path / "files", keys, str)

    @pytest.fixture
    def put(self, store, keys, tmp_path):
        def put(content):
            name = content.decode().replace(" ", "-")
            sealed = seal_bytes(content, keys, context=name)
            (tmp_path / "files" / name).write_bytes(sealed)

        return put

    @pytest.fixture
    def contents(self, keys, tmp_path):
        return lambda: [
            open_bytes(path.read_bytes(), keys, context=path.name)
            for path in (tmp_path / "files").iterdir()
        ]

    @pytest.fixture
    def gone(self, tmp_path):
        return lambda item: (tmp_path / "files" / item).unlink()


class TestColumns(WithKeyring):
    __test__ = True

    @pytest.fixture
    def store(self, keys, database):
        column = SealedColumn(accounts.c.id, accounts.c.totp_sealed, factor_context)
        return SealedColumns(database, keys, [column])

    @pytest.fixture
    def put(self, keys, database):
        def put(content):
            name = content.decode()
            values = {
                "id": name, "name": name, "kind": "user", "state": "active", "roles": [],
                "epoch": 0, "totp_last_step": 0, "created_at": NOW, "created_by": "test",
                "totp_sealed": Factors(keys).seal(name, name),
            }  # fmt: skip
            with database.transaction() as connection:
                connection.execute(insert(accounts).values(**values))

        return put

    @pytest.fixture
    def contents(self, keys, database):
        def contents():
            with database.reading() as connection:
                rows = connection.execute(select(accounts.c.id, accounts.c.totp_sealed)).all()
            return [Factors(keys).open(row.totp_sealed, row.id).encode() for row in rows]

        return contents

    @pytest.fixture
    def gone(self, database):
        def gone(item):
            with database.transaction() as connection:
                name = item.partition("/")[2]
                connection.execute(delete(accounts).where(accounts.c.id == name))

        return gone


class TestSegments(WithKeyring):
    """Each record fills a segment, so that an item is one record."""

    __test__ = True

    @pytest.fixture
    def store(self, keys, tmp_path):
        log = SegmentLog(tmp_path / "log", keys, limits=Limits(segment_bytes=1))
        yield log
        log.close()

    @pytest.fixture
    def put(self, store):
        return lambda content: store.append("t", [content], media=JSON)

    @pytest.fixture
    def contents(self, store):
        return lambda: [record.payload for record in all_of(store, "t", begin=store.begin("t", 0))]

    @pytest.fixture
    def gone(self, store):
        return lambda item: store.release("t", 0, int(item.rpartition("/")[2]) + 1)
