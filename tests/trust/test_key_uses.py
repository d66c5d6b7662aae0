"""Uses of keys are counted, told to the audit log once, and summed up."""

import threading
from datetime import UTC, datetime

import pytest

from falaj.kernel.call import acting
from falaj.kernel.calls import Calls
from falaj.kernel.clock import SetClock
from falaj.kernel.outbox import Outbox
from falaj.testing.keys import KeyServiceSuite
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.audit import SqlAuditLog
from falaj.trust.key_uses import ACTION, CountedKeys, KeyUses, kind_of

NOW = datetime(2026, 11, 30, tzinfo=UTC)


@pytest.fixture
def keyring(tmp_path):
    seal = MachineSeal.create(tmp_path / "secret")
    return FileKeyring.create(tmp_path / "keys.json", seal, clock=SetClock(NOW))


@pytest.fixture
def uses(tmp_path):
    found = KeyUses(tmp_path / "uses", process="worker", clock=SetClock(NOW))
    yield found
    found.leave()


@pytest.fixture
def keys(keyring, uses):
    return CountedKeys(keyring, uses)


@pytest.fixture
def log():
    return SqlAuditLog()


@pytest.fixture
def calls(sqlite_database, log):
    return Calls(sqlite_database, log, Outbox(), SetClock(NOW))


class TestCountedKeys(KeyServiceSuite):
    @pytest.fixture
    def keys(self, keyring, uses):
        return CountedKeys(keyring, uses)

    @pytest.fixture
    def again(self, keys, tmp_path):
        seal = MachineSeal(tmp_path / "secret")
        return FileKeyring(tmp_path / "keys.json", seal, clock=SetClock(NOW))


def told(uses, calls, log):
    """Brings in what waits; returns the records."""

    def records():
        with calls.database.reading() as connection:
            return log.search(connection, action=ACTION).records

    def known():
        newest = records()
        return newest[0].details["files"] if newest else []

    uses.leave()
    uses.told(calls, known)
    return records()


def test_uses_are_counted_by_what_for_which_version_and_whom(keys, uses, calls, log):
    with acting("user:amina"):
        for number in range(5):
            wrapped = keys.wrap(bytes(32), context=f"sealed blob sha256:{number}")
    for _ in range(3):
        keys.unwrap(wrapped, context="sealed blob sha256:4")
    signed = keys.sign("audit", b"m")
    keys.derive("online-key.salaries")
    (record,) = told(uses, calls, log)
    assert (record.principal, record.resource) == ("system:keys", "key:*")
    names = ("operation", "purpose", "key_id", "kind", "caller", "n")
    shown = [tuple(use[name] for name in names) for use in record.details["uses"]]
    assert shown == [
        ("wrap", "wrapping", wrapped.key_id, "blob", "user:amina", 5),
        ("unwrap", "wrapping", wrapped.key_id, "blob", "system:worker", 3),
        ("derive", "online-key", "", "", "system:worker", 1),
        ("sign", "audit", signed.key_id, "", "system:worker", 1),
    ]


def test_thousands_of_uses_are_one_record_and_nothing_is_none(keys, uses, calls, log):
    assert told(uses, calls, log) == []
    wrapped = keys.wrap(bytes(32), context="log t/0 1")

    def work():
        for _ in range(500):
            keys.unwrap(wrapped, context="log t/0 1")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (record,) = told(uses, calls, log)
    assert [use["n"] for use in record.details["uses"]] == [2000, 1]
    assert len(told(uses, calls, log)) == 1


def test_a_refused_unwrap_is_not_a_use(keys, uses, calls, log):
    wrapped = keys.wrap(bytes(32), context="a")
    with pytest.raises(Exception, match="belongs to something else"):
        keys.unwrap(wrapped, context="b")
    (record,) = told(uses, calls, log)
    assert [use["operation"] for use in record.details["uses"]] == ["wrap"]


def test_several_processes_are_told_together(tmp_path, keyring, uses, calls, log):
    other = KeyUses(tmp_path / "uses", process="control", clock=SetClock(NOW))
    CountedKeys(keyring, other).sign("tokens", b"m")
    CountedKeys(keyring, uses).sign("tokens", b"m")
    other.leave()
    (record,) = told(uses, calls, log)
    assert sorted(use["caller"] for use in record.details["uses"]) == [
        "system:control", "system:worker",
    ]  # fmt: skip


def test_what_was_told_before_a_crash_is_not_told_again(keys, uses, calls, log, tmp_path):
    keys.sign("tokens", b"m")
    uses.leave()
    kept = {path: path.read_bytes() for path in (tmp_path / "uses").iterdir()}
    told(uses, calls, log)
    for path, content in kept.items():
        path.write_bytes(content)  # as if the process had died before it removed them
    keys.sign("tokens", b"m")
    records = told(uses, calls, log)
    assert [record.details["uses"][0]["n"] for record in records] == [1, 1]
    assert list((tmp_path / "uses").iterdir()) == []


def test_kinds_without_end_do_not_fill_the_memory(uses, calls, log):
    for number in range(5000):
        uses.count("sign", "tokens", f"key_{number}", "")
    assert len(uses._counts) <= 2001
    (record,) = told(uses, calls, log)
    assert len(record.details["uses"]) == 501
    assert sum(use["n"] for use in record.details["uses"]) == 5000


def test_a_disk_that_refuses_stops_no_use_and_loses_no_count(keys, uses, calls, log, tmp_path):
    (tmp_path / "uses").write_text("in the way")
    keys.sign("tokens", b"m")
    uses.leave()
    keys.sign("tokens", b"m")
    (tmp_path / "uses").unlink()
    (record,) = told(uses, calls, log)
    assert record.details["uses"][0]["n"] == 2


def test_a_file_that_somebody_damaged_is_put_aside(keys, uses, calls, log, tmp_path):
    keys.sign("tokens", b"m")
    uses.leave()
    (tmp_path / "uses" / "uses_0.json").write_text("{}")
    assert len(told(uses, calls, log)) == 1
    assert [path.name for path in (tmp_path / "uses").iterdir()] == ["uses_0.unreadable"]


@pytest.mark.parametrize(
    ("context", "kind"),
    [
        ("sealed blob sha256:00", "blob"), ("sealed spool predictions 1", "spool"),
        ("log payments/0 17", "log"), ("sealed second factor of account_1", "second factor"),
        ("sealed feature index 1 abc", "feature index"), ("something else", "other"),
    ],
)  # fmt: skip
def test_a_kind_says_nothing_of_whom_or_what(context, kind):
    assert kind_of(context) == kind
