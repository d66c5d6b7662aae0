"""Which adapter each setting chooses, and what is said of a setting that chooses none."""

from __future__ import annotations

import pytest

from falaj.features.adapters.online_lmdb import LmdbOnlineStore
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.adapters.blobs_s3 import S3Blobs
from falaj.lake.adapters.ducklake_engine import _without_password
from falaj.wiring import stores
from falaj.wiring.scoring import plain_settings
from falaj.wiring.stores import Bucket

KEYS = {"s3_access_key": "AK", "s3_secret_key": "hush-hush"}
ENDPOINT = "?endpoint=https://objects.internal:9000&region=me-central-1"


def settings(folder, **given):
    return Settings.read(folder, **given)


def test_the_defaults_keep_everything_at_home(tmp_path):
    made = settings(tmp_path)
    assert isinstance(stores.blob_store(made), LocalBlobs)
    place = stores.lake(made).place
    assert place.sqlite == made.home / "lake" / "catalog.sqlite"
    assert place.folder == made.home / "lake" / "data"


def test_settings_alone_move_the_blobs_and_the_lake(tmp_path):
    made = settings(
        tmp_path,
        blobs=f"s3://models/falaj{ENDPOINT}",
        lake="ducklake:postgres:postgresql://falaj@db.internal:5433/lake",
        lake_password="it's hu sh",
        lake_data=f"s3://tables/falaj/{ENDPOINT}",
        **KEYS,
    )
    assert isinstance(stores.blob_store(made), S3Blobs)
    place = stores.lake(made).place
    assert place.folder is None
    assert place.data_path == "s3://tables/falaj/"
    assert place.dsn == (
        r"host='db.internal' port='5433' dbname='lake' user='falaj' sslmode='require' "
        r"ssl_min_protocol_version='TLSv1.3' password='it\'s hu sh'"
    )
    assert place.s3 == {
        "KEY_ID": "AK",
        "SECRET": "hush-hush",
        "REGION": "me-central-1",
        "ENDPOINT": "objects.internal:9000",
        "USE_SSL": "true",
        "URL_STYLE": "path",
    }
    for told in (repr(place), repr(made), _without_password(f"cannot reach {place.dsn} now")):
        assert "hu" not in told
        assert "sh'" not in told


def test_a_connection_string_takes_the_password_too(tmp_path):
    made = settings(tmp_path, lake="ducklake:postgres:dbname=lake host=::1", lake_password="hush")
    assert stores.lake(made).place.dsn == "dbname=lake host=::1 password='hush'"


def test_a_bucket_of_amazon_needs_no_endpoint(tmp_path):
    found = Bucket.named(settings(tmp_path, **KEYS), "lake_data", "s3://tables")
    assert (found.name, found.prefix, found.endpoint, found.region) == (
        "tables",
        "",
        None,
        "us-east-1",
    )
    assert found.as_duckdb == {"KEY_ID": "AK", "SECRET": "hush-hush", "REGION": "us-east-1"}
    assert "hush" not in repr(found)


WRONG = [
    "",
    "s3:",
    "s3://",
    "file:///x",
    "gs://bucket",
    "s3://user:word@bucket/x",
    "s3://bucket?endpiont=https://x",
    "s3://bucket?endpoint=objects.internal",
]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("setting", ["blobs", "lake_data"])
def test_a_setting_that_names_no_place_is_named_with_what_to_write(tmp_path, setting, value):
    made = settings(tmp_path, **{setting: value}, **KEYS)
    with pytest.raises(InvalidInput, match=setting) as caught:
        stores.blob_store(made) if setting == "blobs" else stores.lake(made)
    assert "s3://bucket/prefix" in caught.value.hint


@pytest.mark.parametrize("missing", KEYS)
@pytest.mark.parametrize("setting", ["blobs", "lake_data"])
def test_s3_without_a_key_says_which_variables_to_set(tmp_path, setting, missing):
    given = {name: value for name, value in KEYS.items() if name != missing}
    made = settings(tmp_path, **{setting: "s3://bucket"}, **given)
    with pytest.raises(InvalidInput, match=setting) as caught:
        stores.blob_store(made) if setting == "blobs" else stores.lake(made)
    assert "FALAJ_S3_SECRET_KEY" in caught.value.hint


@pytest.mark.parametrize("line", ['lake_password = "x"', 'lake = "ducklake:postgres:password=x"'])
def test_the_lakes_password_may_not_stand_in_the_file(tmp_path, line):
    (tmp_path / "falaj.toml").write_text(line)
    with pytest.raises(InvalidInput, match="holds a secret") as caught:
        settings(tmp_path)
    assert "FALAJ_LAKE_PASSWORD" in caught.value.hint


def test_the_online_store_is_at_home_or_on_a_redis_server(tmp_path):
    store = stores.online_store(settings(tmp_path))
    assert isinstance(store, LmdbOnlineStore)
    store.close()
    made = settings(
        tmp_path,
        online="rediss://falaj@features.internal/2",
        online_password="hush",
        online_ca_file="ca.pem",
    )
    place = stores.online_store(made).place
    assert (place.host, place.port, place.database) == ("features.internal", 6379, 2)
    assert (place.tls, place.user, place.password) == (True, "falaj", "hush")
    assert str(place.ca_file) == "ca.pem"
    assert "hush" not in f"{place} {made!r}"


@pytest.mark.parametrize("value", ["", "lmdb:x", "redis:", "rediss://", "memcached://h"])
def test_a_setting_that_names_no_online_store_is_refused_at_once(tmp_path, value):
    with pytest.raises(InvalidInput, match="online") as caught:
        stores.checked(settings(tmp_path, online=value))
    assert "rediss://user@host" in caught.value.hint


def test_the_password_of_redis_may_not_stand_in_the_file(tmp_path):
    (tmp_path / "falaj.toml").write_text('online = "rediss://falaj:hush@features.internal"')
    with pytest.raises(InvalidInput, match="holds a secret") as caught:
        settings(tmp_path)
    assert "FALAJ_ONLINE_PASSWORD" in caught.value.hint


def test_the_event_log_is_at_home_or_on_kafka(tmp_path):
    made = settings(
        tmp_path,
        event_log="kafkas://falaj@k1.internal:9093,k2.internal?replication=3",
        event_log_password="hush",
        event_log_ca_file="ca.pem",
    )
    place = stores.kafka_place(stores.checked(made))
    assert place.servers == ("k1.internal:9093", "k2.internal:9092")
    assert (place.tls, place.user, place.password) == (True, "falaj", "hush")
    assert (place.replication, str(place.ca_file)) == (3, "ca.pem")
    assert "hush" not in f"{place} {made!r}"


@pytest.mark.parametrize("value", ["", "segments:x", "kafka:", "kafkas://", "pulsar://h"])
def test_a_setting_that_names_no_event_log_is_refused_at_once(tmp_path, value):
    with pytest.raises(InvalidInput, match="event_log") as caught:
        stores.checked(settings(tmp_path, event_log=value))
    assert "kafkas://user@host" in caught.value.hint


def test_the_password_of_kafka_may_not_stand_in_the_file(tmp_path):
    (tmp_path / "falaj.toml").write_text('event_log = "kafkas://falaj:hush@k1.internal"')
    with pytest.raises(InvalidInput, match="holds a secret") as caught:
        settings(tmp_path)
    assert "FALAJ_EVENT_LOG_PASSWORD" in caught.value.hint


@pytest.mark.parametrize(("setting", "slots"), [("local:2", 2), ("local:7", 7)])
def test_tasks_run_in_as_many_processes_as_are_asked_for(tmp_path, setting, slots):
    compute = stores.compute(settings(tmp_path, compute=setting))
    assert compute.n_slots == slots
    assert compute.pids() == []  # none is begun before there is work
    compute.close()


@pytest.mark.parametrize(
    "value", ["", "local", "local:0", "local:-1", "local:two", "ray", "ray://", "ray://host",
              "ray://user@host:1", "dask://host:1"]
)  # fmt: skip
def test_a_setting_that_names_no_compute_says_what_to_write(tmp_path, value):
    with pytest.raises(InvalidInput, match="compute") as caught:
        stores.checked(settings(tmp_path, compute=value))
    assert "ray://host:10001" in caught.value.hint


def test_the_settings_of_a_task_hold_no_secret_and_are_read_as_they_were(tmp_path):
    made = settings(tmp_path, keyring_passphrase="hush", compute="local:3", **KEYS)
    told = plain_settings(made)
    assert "hush" not in str(told)
    again = Settings(**told)
    assert (again.home, again.compute, again.http) == (made.home, "local:3", made.http)
