"""Rotation of the wrapping key: everything moves to the new version, and stays readable."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, select, update

from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Conflict, Corrupt, Unavailable
from falaj.kernel.outbox import Outbox
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.blobs import SealedBlobs, digest_of
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_tables import audit_records
from falaj.trust.factors import Factors, factor_context
from falaj.trust.ports import WRAPPING, UnknownKey
from falaj.trust.rotation import Discarding, Rewrapping, standing
from falaj.trust.sealedcolumns import SealedColumn, SealedColumns
from falaj.trust.sealing import open_bytes, resealed, seal_stream
from falaj.trust.tables import accounts

NOW = datetime(2026, 11, 30, tzinfo=UTC)


class Run:
    """A running job without a database."""

    id = "job_1"
    submitted_by = "user:omar"

    def __init__(self, checkpoint=None):
        self.checkpoint = checkpoint

    def save(self, checkpoint):
        self.checkpoint = checkpoint

    def report(self, progress, message=""):
        assert 0 <= progress <= 1


@pytest.fixture
def clock():
    return SetClock(NOW)


@pytest.fixture
def keys(tmp_path, clock):
    return FileKeyring.create(
        tmp_path / "keys.json", MachineSeal.create(tmp_path / "secret"), clock=clock
    )


@pytest.fixture
def blobs(tmp_path, keys):
    return SealedBlobs(LocalBlobs(tmp_path / "blobs"), keys)


@pytest.fixture
def calls(database, clock):
    return Calls(database, SqlAuditLog(), Outbox(), clock)


@pytest.fixture
def columns(database, keys):
    column = SealedColumn(accounts.c.id, accounts.c.totp_sealed, factor_context)
    return SealedColumns(database, keys, [column])


def put_account(database, keys, name, secret):
    with database.transaction() as connection:
        connection.execute(
            insert(accounts).values(
                id=name, name=name, kind="user", state="active", roles=[], epoch=0,
                totp_last_step=0, totp_sealed=secret and Factors(keys).seal(secret, name),
                created_at=NOW, created_by="test",
            )
        )  # fmt: skip


def secret_of(database, keys, name):
    with database.reading() as connection:
        query = select(accounts.c.totp_sealed).where(accounts.c.id == name)
        return Factors(keys).open(connection.execute(query).scalar_one(), name)


def test_everything_stands_on_the_new_version_afterwards(blobs, columns, keys, calls, database):
    digests = [blobs.keep(f"blob {number}".encode()) for number in range(5)]
    put_account(database, keys, "amina", "SECRET")
    put_account(database, keys, "omar", None)
    made = keys.rotate(WRAPPING)
    result = Rewrapping(keys, lambda: [blobs, columns], calls)(Run(), {})
    assert result == {
        "done": {"blobs": 5, "database": 1},
        "failed": {},
        "standing": {made.id: 6},
        "active": made.id,
    }
    assert [blobs.fetch(digest) for digest in digests] == [b"blob %d" % n for n in range(5)]
    assert secret_of(database, keys, "amina") == "SECRET"
    with database.reading() as connection:
        record = connection.execute(select(audit_records)).one()
    assert (record.action, record.principal, record.resource) == (
        "keys.rewrap", "user:omar", "key:wrapping",
    )  # fmt: skip


def test_a_second_run_changes_nothing(blobs, keys, calls, tmp_path):
    digest = blobs.keep(b"x")
    keys.rotate(WRAPPING)
    job = Rewrapping(keys, lambda: [blobs], calls)
    job(Run(), {})
    files = {path: path.read_bytes() for path in (tmp_path / "blobs").rglob("*") if path.is_file()}
    assert job(Run(), {})["done"] == {}
    assert files == {path: path.read_bytes() for path in files}
    assert blobs.fetch(digest) == b"x"


def test_it_goes_on_where_it_was_when_its_worker_is_lost(blobs, keys, calls, monkeypatch):
    digests = sorted(blobs.keep(f"blob {number}".encode()) for number in range(20))
    keys.rotate(WRAPPING)
    monkeypatch.setattr("falaj.trust.rotation._SAVE_SECONDS", 0.0)
    asked = []

    class Dying(SealedBlobs):
        def rewrap(self, item):
            if len(asked) == 12:
                raise Unavailable("killed")
            asked.append(item)
            return super().rewrap(item)

    dying = Dying(blobs._store, keys)
    run = Run()
    with pytest.raises(Unavailable):
        Rewrapping(keys, lambda: [dying], calls)(run, {})
    assert asked == digests[:12]
    del asked[:12]
    monkeypatch.setattr(Dying, "rewrap", lambda _, item: asked.append(item) or blobs.rewrap(item))
    result = Rewrapping(keys, lambda: [dying], calls)(Run(run.checkpoint), {})
    assert asked == digests[12:]
    assert result["done"] == {"blobs": 20}
    assert len(result["standing"]) == 1


def test_what_is_written_under_the_old_version_meanwhile_is_found_in_another_round(
    blobs, keys, calls
):
    held = keys._keys()

    class Slow:
        """A process that wrapped before the rotation, and writes only now."""

        def wrap(self, data_key, *, context):
            return held.wrap(data_key, context)

    contents = [f"blob {number}".encode() for number in range(20)]
    digests = sorted((digest_of(content), content) for content in contents)
    for _, content in digests[1:]:
        blobs.keep(content)
    made = keys.rotate(WRAPPING)

    class Meanwhile(SealedBlobs):
        def rewrap(self, item):
            SealedBlobs(self._store, Slow()).keep(digests[0][1])  # where it has been already
            return super().rewrap(item)

    store = Meanwhile(blobs._store, keys)
    result = Rewrapping(keys, lambda: [store], calls)(Run(), {})
    assert result["standing"] == {made.id: 20}
    assert [blobs.fetch(digest) for digest, _ in digests] == [content for _, content in digests]


def test_an_item_that_cannot_be_opened_is_named_and_stops_no_other(blobs, keys, calls, tmp_path):
    digests = sorted(blobs.keep(f"blob {number}".encode()) for number in range(3))
    path = tmp_path / "blobs" / blobs._key(digests[1])
    sealed = bytearray(path.read_bytes())
    sealed[90] ^= 1  # in the wrapped data key
    path.write_bytes(sealed)
    old = keys.versions()[0].id
    made = keys.rotate(WRAPPING)
    result = Rewrapping(keys, lambda: [blobs], calls)(Run(), {})
    assert list(result["failed"]) == [f"blobs: {digests[1]}"]
    assert result["standing"] == {made.id: 2, old: 1}


def test_resealing_gives_each_item_a_new_data_key(blobs, columns, keys, calls, database, tmp_path):
    content = bytes(3 * 2**20) + b"end"
    digest = blobs.keep(content)
    put_account(database, keys, "amina", "SECRET")
    path = tmp_path / "blobs" / blobs._key(digest)
    before = path.read_bytes()
    result = Rewrapping(keys, lambda: [blobs, columns], calls, reseal=True)(Run(), {})
    assert result["done"] == {"blobs": 1, "database": 1}
    after = path.read_bytes()
    assert len(after) == len(before)
    assert after[200:] != before[200:]
    assert blobs.fetch(digest) == content
    assert secret_of(database, keys, "amina") == "SECRET"


def test_a_secret_that_is_changed_meanwhile_is_left_as_it_is(columns, keys, database, monkeypatch):
    put_account(database, keys, "amina", "OLD")
    keys.rotate(WRAPPING)
    fresh = Factors(keys).seal("NEW", "amina")
    unwrap = FileKeyring.unwrap

    def changed_meanwhile(self, wrapped, *, context):
        with database.transaction() as connection:
            connection.execute(update(accounts).values(totp_sealed=fresh))
        return unwrap(self, wrapped, context=context)

    with monkeypatch.context() as patched:
        patched.setattr(FileKeyring, "unwrap", changed_meanwhile)
        assert columns.rewrap("accounts.totp_sealed/amina") is False
    assert secret_of(database, keys, "amina") == "NEW"


def test_a_blob_that_was_forgotten_meanwhile_does_not_come_back(blobs, keys, monkeypatch):
    digest = blobs.keep(b"x")
    keys.rotate(WRAPPING)
    wrap = FileKeyring.wrap

    def forgotten_meanwhile(self, data_key, *, context):
        blobs.forget(digest)
        return wrap(self, data_key, context=context)

    monkeypatch.setattr(FileKeyring, "wrap", forgotten_meanwhile)
    assert blobs.rewrap(digest) is False
    assert not blobs.has(digest)
    assert blobs.rewrap(digest) is False


def test_an_old_version_is_destroyed_only_when_nothing_stands_on_it(blobs, keys, calls, clock):
    digest = blobs.keep(b"x")
    old = keys.versions()[0].id
    new = keys.rotate(WRAPPING)
    job = Discarding(keys, lambda: [blobs], calls, clock)
    with pytest.raises(Conflict, match="less than 10 minutes"):
        job(Run(), {"key_id": old})
    clock.move(timedelta(minutes=11))
    with pytest.raises(Conflict, match=f"1 items stand on the key {old}: blobs: {digest}"):
        job(Run(), {"key_id": old})
    with pytest.raises(Conflict, match="active"):
        job(Run(), {"key_id": new.id})
    assert blobs.fetch(digest) == b"x"
    Rewrapping(keys, lambda: [blobs], calls)(Run(), {})
    assert job(Run(), {"key_id": old}) == {"discarded": old}
    assert standing([blobs]) == {new.id: 1}
    assert blobs.fetch(digest) == b"x"
    with pytest.raises(UnknownKey):
        job(Run(), {"key_id": old})


def test_resealing_finds_a_changed_byte_and_leaves_the_blob_as_it_was(blobs, keys, tmp_path):
    digest = blobs.keep(bytes(1000))
    path = tmp_path / "blobs" / blobs._key(digest)
    sealed = bytearray(path.read_bytes())
    sealed[-1] ^= 1
    path.write_bytes(sealed)
    with pytest.raises(Corrupt):
        blobs.reseal(digest)
    assert path.read_bytes() == sealed


def test_sealed_bytes_of_every_length_are_resealed(keys):
    for size in (0, 1, 63, 64, 65, 128, 1000):
        data, source = bytes(range(256)) * 4, io.BytesIO()
        seal_stream(io.BytesIO(data[:size]), source, keys, context="c", frame_bytes=64)
        target = io.BytesIO()
        resealed(io.BytesIO(source.getvalue()), target, keys, context="c")
        assert open_bytes(target.getvalue(), keys, context="c") == data[:size]
        assert target.getvalue()[-16:] != source.getvalue()[-16:]
