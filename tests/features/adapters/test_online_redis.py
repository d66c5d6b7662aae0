"""The online store on Redis keeps the port's promises, over processes, kills and refusals."""

import dataclasses
import os
import secrets
import threading
import time

import pytest

from falaj.features.adapters import online_redis
from falaj.features.adapters.online_redis import RedisOnlineStore
from falaj.features.adapters.redis_connection import RedisConnection, RedisPlace
from falaj.features.ports import Merge, Write
from falaj.kernel.errors import ComponentRefused, InvalidInput, LimitExceeded, Unavailable
from falaj.testing.guarded import ServerUnavailable
from falaj.testing.killable import TlsFront, own_redis
from falaj.testing.online import OnlineStoreSuite, row
from falaj.testing.onlineprocesses import OnlineProcessesSuite
from falaj.testing.servers import services_required

pytestmark = pytest.mark.services

RIGHTS = "-@all +evalsha +eval +mget +mset +get +set +exists +del +keys +waitaof +select +info"
"""What docs/guide/settings.md says that a user needs."""
DURABLE = ("appendonly yes", "appendfsync always")


def started(folder, *lines):
    try:
        server, broker = own_redis(folder, *lines)
    except ServerUnavailable as error:
        if services_required():
            raise
        pytest.skip(str(error))
    server.start()
    return server, broker


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """A durable server with a user who may do what the store needs, and no more."""
    folder = tmp_path_factory.mktemp("redis")
    server, broker = started(
        folder, *DURABLE,
        f"user falaj on >feature ~falaj:* resetchannels {RIGHTS}",
        f"user reader on >feature ~falaj:* resetchannels {RIGHTS} -mset",
        f"user other on >feature ~other:* resetchannels {RIGHTS}",
    )  # fmt: skip
    yield broker
    server.close()


@pytest.fixture(scope="module")
def front(redis, tmp_path_factory):
    front = TlsFront(tmp_path_factory.mktemp("tls"), redis.port)
    yield front
    front.close()


@pytest.fixture
def prefix():
    return f"falaj:{secrets.token_hex(6)}:"


@pytest.fixture
def place(redis, prefix):
    return RedisPlace(
        "127.0.0.1", redis.port, tls=False, user="falaj", password="feature", prefix=prefix
    )


@pytest.fixture
def store(place):
    store = RedisOnlineStore(place)
    yield store
    store.close()


class Reopening(OnlineStoreSuite):
    @pytest.fixture
    def reopen(self, place):
        opened = []

        def again():
            for store in opened:
                store.close()
            opened[:] = [RedisOnlineStore(place)]
            return opened[0]

        yield again
        for store in opened:
            store.close()


class TestRedisOnlineStore(Reopening):
    """With the rights of a user who may do nothing else."""


@pytest.mark.nightly
class TestRedisOnlineStoreOverTls(Reopening):
    @pytest.fixture
    def place(self, front, prefix):
        return RedisPlace(
            "127.0.0.1", front.port, user="falaj", password="feature", prefix=prefix,
            ca_file=front.ca_file,
        )  # fmt: skip


OPENING = """
from falaj.features.adapters.online_redis import RedisOnlineStore
from falaj.features.adapters.redis_connection import RedisPlace
store = RedisOnlineStore(RedisPlace(
    "127.0.0.1", {port}, tls=False, user="falaj", password="feature", prefix="{prefix}"))
"""


class TestRedisOnlineStoreAmongProcesses(OnlineProcessesSuite):
    @pytest.fixture
    def opening(self, place):
        return OPENING.format(port=place.port, prefix=place.prefix)

    @pytest.fixture
    def opened(self, place):
        return lambda: RedisOnlineStore(place)


def test_a_replayed_write_is_acknowledged_only_when_the_first_one_is_safe(store, place):
    write = Write(newer=[(b"k", row(1))], once=b"m")
    assert store.write(write).applied
    appended = said(place, b"INFO", b"persistence")
    assert not store.write(write).applied
    assert said(place, b"INFO", b"persistence") != appended  # something was written to wait for


def said(place, *command):
    connection = RedisConnection(place, seconds=5)
    try:
        (reply,) = connection.asked(command)
    finally:
        connection.close()
    return [line for line in reply.splitlines() if line.startswith(b"aof_current_size")]


def test_a_merge_that_was_overtaken_is_made_again_of_what_stands_there_now(store, place):
    other, seen = RedisOnlineStore(place), []

    def grow(stored):
        seen.append(stored[0])
        if len(seen) == 1:
            other.write(Write(newer=[(b"k", row(2, b"fast"))]))
        return [(stored[0] or row(0)) + b"+"]

    store.write(Write(merges=[Merge([b"k"], grow)]))
    assert seen == [None, row(2, b"fast")]
    assert store.read([b"k"]) == [row(2, b"fast+")]
    other.close()


def test_a_merge_is_not_blamed_for_rows_of_two_states(store, place):
    """Its keys are read one after the other; what it raises counts if nothing came between."""
    other, asked = RedisOnlineStore(place), []
    store.write(Write(newer=[(b"a", row(1, b"1")), (b"b", row(1, b"1"))]))

    def more(stored):
        if len(stored) > 1:
            return []
        asked.append(stored)
        if len(asked) == 1:
            other.write(Write(newer=[(b"a", row(2, b"2")), (b"b", row(2, b"2"))]))
        return [b"b"]

    def change(stored):
        if stored[0] != stored[1]:
            raise RuntimeError("torn")
        return [row(3, b"3"), None]

    store.write(Write(merges=[Merge([b"a"], change, more)]))
    assert len(asked) == 2
    assert store.read([b"a", b"b"]) == [row(3, b"3"), None]
    other.close()


def test_rows_are_compared_byte_by_byte_whatever_their_length(store):
    """The marks of views are shorter than an order; no locale may sort bytes above 127."""
    for smaller, greater in [
        (b"", b"\0"), (b"\x7f", b"\x80"), (b"a\xff", b"b"), (b"\0" * 23, b"\0" * 24),
        (b"\xff" * 23 + b"\x00", b"\xff" * 24), (b"\0" * 16 + b"\x80", b"\0" * 16 + b"\x80\0"),
        (b"\0" * 11 + b"\x7f" + b"\xff" * 12, b"\0" * 11 + b"\x80" + b"\0" * 12),
    ]:  # fmt: skip
        store.forget([b"k"])
        assert store.write(Write(newer=[(b"k", smaller)])).n_rows == 1
        assert store.write(Write(newer=[(b"k", greater)])).n_rows == 1
        assert store.write(Write(newer=[(b"k", smaller)])).n_older == 1
        assert store.read([b"k"]) == [greater]


def test_the_server_may_forget_its_scripts(store, place, redis):
    store.write(Write(newer=[(b"k", row(1))]))
    as_admin = dataclasses.replace(place, user="", password=redis.password)
    admin = RedisConnection(as_admin, seconds=5)
    admin.asked([b"SCRIPT", b"FLUSH"])
    admin.close()
    assert store.write(Write(newer=[(b"k", row(2))])).n_rows == 1


def test_keys_with_signs_of_a_pattern_are_taken_literally(store):
    keys = [b"*", b"[a]", b"a", b"\\x", b"?", b"^", b"x\n\0"]
    store.write(Write(newer=[(key, row(1)) for key in keys]))
    for key in keys:
        assert list(store.keys(key)) == [key]
    assert list(store.keys(b"")) == sorted(keys)
    assert store.read(keys) == [row(1)] * len(keys)


REFUSED = [
    ({"password": "wrong"}, ComponentRefused, "user 'falaj' with this password"),
    ({"password": "", "user": ""}, ComponentRefused, "user 'default' with this password"),
    ({"user": "nobody"}, ComponentRefused, "user 'nobody'"),
    ({"user": "reader"}, ComponentRefused, "mset"),
    ({"user": "other"}, ComponentRefused, "does not permit the user 'other'"),
    ({"database": 99}, Unavailable, "out of range"),
    ({"port": 1}, Unavailable, "cannot be reached"),
    ({"host": "no.such.host.invalid"}, Unavailable, "cannot be reached"),
    ({"tls": True}, Unavailable, "did not agree on TLS"),
    ({"tls": True, "ca_file": "no such file"}, InvalidInput, "certificate"),
]


@pytest.mark.parametrize(("given", "kind", "told"), REFUSED)
def test_a_server_that_refuses_is_told_with_what_to_do(place, given, kind, told):
    store = RedisOnlineStore(dataclasses.replace(place, **given), seconds=0.5)
    with pytest.raises(kind, match=told) as caught:
        store.write(Write(newer=[(b"k", row(1))], once=b"m"))
    assert caught.value.hint
    assert "feature" not in f"{caught.value} {place!r}".replace("features/", "")
    store.close()


def test_a_missing_right_leaves_nothing_half_written(place, store):
    reader = RedisOnlineStore(dataclasses.replace(place, user="reader"))
    merge = Merge([b"a", b"b"], lambda _: [row(1), row(1)])
    with pytest.raises(ComponentRefused):
        reader.write(Write(newer=[(b"c", row(1))], merges=[merge], once=b"m"))
    assert store.read([b"a", b"b", b"c"]) == [None] * 3
    assert store.write(Write(newer=[(b"c", row(1))], once=b"m")).applied
    reader.close()


def test_rows_go_through_tls(front, place):
    store = RedisOnlineStore(
        dataclasses.replace(place, tls=True, port=front.port, ca_file=front.ca_file)
    )
    rows = [(b"%d" % i, row(1, os.urandom(500))) for i in range(3000)]
    assert store.write(Write(newer=rows, once=b"m")).n_rows == 3000
    assert store.read([key for key, _ in rows]) == [body for _, body in rows]
    store.close()


def test_tls_checks_who_answers(front, place, tmp_path):
    stranger = TlsFront(tmp_path / "stranger", place.port)
    elsewhere = TlsFront(tmp_path / "elsewhere", place.port, names=["other.internal"])
    try:
        for port, ca_file in [
            (front.port, None), (front.port, stranger.ca_file),
            (stranger.port, front.ca_file), (elsewhere.port, elsewhere.ca_file),
        ]:  # fmt: skip
            where = dataclasses.replace(place, tls=True, port=port, ca_file=ca_file)
            with pytest.raises(ComponentRefused, match="certificate") as caught:
                RedisOnlineStore(where).read([b"k"])
            assert "online_ca_file" in caught.value.hint
        with pytest.raises(Unavailable):  # clear text to a port that speaks TLS
            RedisOnlineStore(dataclasses.replace(place, port=front.port), seconds=2).read([b"k"])
    finally:
        stranger.close()
        elsewhere.close()


def test_a_full_memory_is_told_and_changes_nothing(tmp_path):
    server, broker = started(tmp_path / "redis", *DURABLE, "maxmemory 12mb")
    place = RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password)
    store = RedisOnlineStore(place)
    full = None
    try:
        for number in range(200):
            rows = [(b"%d %d" % (number, i), row(1, os.urandom(1000))) for i in range(500)]
            merge = Merge([b"count"], lambda stored: [(stored[0] or row(0)) + b"+"])
            before = store.read([b"count"])
            try:
                store.write(Write(newer=rows, merges=[merge], once=b"%d" % number))
            except LimitExceeded as error:
                full = error
                break
        assert full is not None
        assert "maxmemory" in full.hint
        assert store.read([key for key, _ in rows]) == [None] * len(rows)
        assert store.read([b"count"]) == before
        store.forget([b"%d %d" % (n, i) for n in range(number) for i in range(500)])
        assert store.write(Write(newer=rows, merges=[merge], once=b"%d" % number)).applied
    finally:
        store.close()
        server.close()


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.nightly)])
def test_kill_9_of_the_server_loses_nothing_acknowledged_and_tears_nothing(tmp_path, times):
    server, broker = started(tmp_path / "redis", *DURABLE)
    place = RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password)
    stop, acknowledged, wrong = threading.Event(), [0], []

    def count(stored):
        return [row(0, b"%d" % (int((stored[0] or row(0, b"0"))[24:]) + 1))]

    def work():
        store, number = RedisOnlineStore(place, seconds=5), 1
        while not stop.is_set():
            body = row(number, b"%d " % number * 700)
            rows = [(b"row %d" % i, body) for i in range(5)]
            try:
                store.write(Write(rows, [Merge([b"count"], count)], once=b"%d" % number))
            except Unavailable:
                time.sleep(0.01)
                continue  # repeated, and must count once
            except Exception as error:  # noqa: BLE001 - whatever else is raised is a fault
                wrong.append(error)
                return
            acknowledged[0] = number
            number += 1
        store.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(times):
            aim = acknowledged[0] + 20
            while acknowledged[0] < aim and worker.is_alive():
                time.sleep(0.005)
            server.kill()
            server.start()
        aim = acknowledged[0] + 20
        while acknowledged[0] < aim and worker.is_alive():
            time.sleep(0.005)
        server.kill()
        known = acknowledged[0]
        stop.set()
        server.start()
        worker.join()
        assert not wrong
        known = max(known, acknowledged[0])
        store = RedisOnlineStore(place)
        rows = store.read([*[b"row %d" % i for i in range(5)], b"count"])
        assert len(set(rows[:5])) == 1
        number = int(rows[0][24:].split()[0])
        assert rows[0] == row(number, b"%d " % number * 700)
        assert number >= known > 0
        assert int(rows[5][24:]) == number
        store.close()
    finally:
        stop.set()
        server.close()
        worker.join()


def test_a_server_that_hangs_is_told_in_time_and_is_used_again(tmp_path):
    server, broker = started(tmp_path / "redis", *DURABLE)
    place = RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password)
    store = RedisOnlineStore(place, seconds=0.2, write_seconds=0.2)
    try:
        store.write(Write(newer=[(b"k", row(1))]))
        timer = server.suspend(0.6)
        with pytest.raises(Unavailable, match="does not answer"):
            store.read([b"k"])
        with pytest.raises(Unavailable):
            store.write(Write(newer=[(b"k", row(2))]))
        timer.join()
        assert store.read([b"k"])[0] in (row(1), row(2))
        server.kill()
        with pytest.raises(Unavailable) as caught:
            store.read([b"k"])
        assert caught.value.retryable
        server.start()
        assert store.read([b"k"])[0] in (row(1), row(2))
    finally:
        store.close()
        server.close()


def test_a_replica_is_refused_since_it_may_be_behind(tmp_path, redis):
    server, broker = started(tmp_path / "redis", f"replicaof 127.0.0.1 {redis.port}")
    place = RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password)
    try:
        with pytest.raises(ComponentRefused, match="replica"):
            RedisOnlineStore(place).read([b"k"])
    finally:
        server.close()


WEAK = [
    (["appendonly no"], "keeps no append-only file", "appendonly yes"),
    (["appendonly yes", "appendfsync everysec"], "syncs its append-only file late", "always"),
    ([*DURABLE, "maxmemory-policy allkeys-lru"], "throws rows away", "noeviction"),
]


@pytest.mark.parametrize(("lines", "what", "do"), WEAK)
def test_what_weakens_a_promise_is_told_to_the_doctor(tmp_path, lines, what, do):
    server, broker = started(tmp_path / "redis", *lines)
    store = RedisOnlineStore(
        RedisPlace("127.0.0.1", broker.port, tls=False, password=broker.password)
    )
    try:
        store.write(Write(newer=[(b"k", row(1))]))  # works all the same
        assert store.read([b"k"]) == [row(1)]
        (found,) = store.weaknesses()
        assert what in found[0]
        assert do in found[1]
    finally:
        store.close()
        server.close()


def test_a_sound_server_has_no_weakness(store):
    assert list(store.weaknesses()) == []


def test_too_many_replicas_to_wait_for_are_told(place):
    store = RedisOnlineStore(dataclasses.replace(place, replicas=1), write_seconds=0.8)
    with pytest.raises(Unavailable, match="1 replicas") as caught:
        store.write(Write(newer=[(b"k", row(1))]))
    assert "applied" in caught.value.hint
    store.close()


def test_a_closed_store_is_not_used_again(place):
    store = RedisOnlineStore(place)
    store.read([b"k"])
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.read([b"k"])


@pytest.mark.parametrize(
    "url",
    ["redis:", "redis://", "rediss:///0", "redis://h:x", "redis://h/x", "redis://h?prefx=a",
     "redis://h?replicas=x", "http://h"],
)  # fmt: skip
def test_a_setting_that_names_no_server_is_refused_with_what_to_write(url):
    with pytest.raises(InvalidInput, match="online") as caught:
        RedisPlace.of(url)
    assert "rediss://user@host" in caught.value.hint


def test_a_url_names_server_user_database_and_prefix():
    place = RedisPlace.of("rediss://fa%40laj@[::1]:7000/3?prefix={a}:&replicas=2", password="hush")
    assert (place.host, place.port, place.database, place.user) == ("::1", 7000, 3, "fa@laj")
    assert (place.tls, place.prefix, place.replicas, place.password) == (True, "{a}:", 2, "hush")
    assert "hush" not in f"{place} {place.shown}"
    assert place.is_this_machine
    assert not RedisPlace.of("redis://db.internal").is_this_machine
    with pytest.raises(InvalidInput, match="password") as caught:
        RedisPlace.of("redis://u:hush@h")
    assert "FALAJ_ONLINE_PASSWORD" in caught.value.hint


def test_a_write_that_is_too_large_is_refused(store, monkeypatch):
    monkeypatch.setattr(online_redis, "LARGEST_WRITE", 1000)
    with pytest.raises(LimitExceeded, match="too large"):
        store.write(Write(newer=[(b"k", row(1, b"x" * 2000))]))
    assert store.read([b"k"]) == [None]
