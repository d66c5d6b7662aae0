"""Adapters chosen by the settings: which lake, which blobs, which store, which log."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from falaj.kernel.clock import Clock
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings, private_folder
from falaj.wiring.keyservices import kind_of
from falaj.wiring.traces import traces_address

if TYPE_CHECKING:
    from falaj.features.adapters.redis_connection import RedisPlace
    from falaj.features.foreign import ForeignTables, Places
    from falaj.features.ports import OnlineStore
    from falaj.ingest.adapters.kafka_clients import KafkaPlace
    from falaj.ingest.ports import EventLog
    from falaj.kernel.lentcompute import AnyCompute
    from falaj.lake.ports import BlobStore, StandInLake
    from falaj.trust.ports import KeyService


def blob_store(settings: Settings) -> BlobStore:
    """The blob store that ``blobs`` names.

    Raises:
        InvalidInput: the URL is not one that this version knows, or keys are missing.
        Unavailable: the adapter's package is not installed.
    """
    if settings.blobs == "file:":
        from falaj.lake.adapters.blobs_local import LocalBlobs

        return LocalBlobs(private_folder(settings.home / "blobs"))
    found = Bucket.named(settings, "blobs", settings.blobs)
    from falaj.lake.adapters.blobs_s3 import S3Blobs

    return S3Blobs(
        found.name,
        prefix=found.prefix,
        access_key=found.access_key,
        secret_key=found.secret_key,
        endpoint=found.endpoint,
        region=found.region,
    )


@dataclass(frozen=True)
class Bucket:
    """A place in S3 that a setting names, with the keys that open it."""

    name: str
    prefix: str
    endpoint: str | None
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    @classmethod
    def named(
        cls,
        settings: Settings,
        setting: str,
        value: str,
        *,
        keys: tuple[SecretStr | None, SecretStr | None] = (None, None),
    ) -> Bucket:
        """The bucket of one setting.

        Args:
            keys: an access key and a secret key of its own, in the place of the common ones.

        Raises:
            InvalidInput: the value is no such URL, or the keys are missing.
        """
        url = urlsplit(value)
        options = {name: values[-1] for name, values in parse_qs(url.query).items()}
        endpoint = options.get("endpoint")
        if (
            url.scheme != "s3"
            or not url.hostname
            or url.netloc != url.hostname
            or not options.keys() <= {"endpoint", "region"}
            or (endpoint is not None and not endpoint.startswith(("https://", "http://")))
        ):
            raise InvalidInput(
                f"The setting {setting} = {value!r} names no place that this version knows.",
                hint="Use `file:` or `s3://bucket/prefix?endpoint=https://…&region=…`.",
            )
        access_key = keys[0] or settings.s3_access_key
        secret_key = keys[1] or settings.s3_secret_key
        if access_key is None or secret_key is None:
            raise InvalidInput(
                f"The setting {setting} is in S3, which needs an access key and a secret key.",
                hint="Set FALAJ_S3_ACCESS_KEY and FALAJ_S3_SECRET_KEY.",
            )
        return cls(
            url.netloc,
            prefix=url.path.strip("/"),
            endpoint=endpoint,
            region=options.get("region", "us-east-1"),
            access_key=access_key.get_secret_value(),
            secret_key=secret_key.get_secret_value(),
        )

    @property
    def as_duckdb(self) -> dict[str, str]:
        """The options of a DuckDB secret that opens it."""
        options = {"KEY_ID": self.access_key, "SECRET": self.secret_key, "REGION": self.region}
        if self.endpoint is None:
            return options
        scheme, _, server = self.endpoint.partition("://")
        return {
            **options,
            "ENDPOINT": server.rstrip("/"),
            "USE_SSL": str(scheme == "https").lower(),
            "URL_STYLE": "path",
        }


def lake(settings: Settings) -> StandInLake:
    """The lake that ``lake`` and ``lake_data`` name; its files are opened at first use.

    Raises:
        InvalidInput: a setting names no place that this version knows, or keys are missing.
    """
    from falaj.lake.adapters.ducklake_engine import Place
    from falaj.lake.adapters.lake_ducklake import DuckLake

    home = private_folder(settings.home / "lake")
    secret = settings.lake_password
    password = secret.get_secret_value() if secret is not None else ""
    if settings.lake_data == "file:":
        return DuckLake(Place.of(settings.lake_url, home, password=password))
    found = Bucket.named(settings, "lake_data", settings.lake_data)
    data = f"s3://{found.name}/{found.prefix}".rstrip("/")
    return DuckLake(
        Place.of(settings.lake_url, home, data=data, s3=found.as_duckdb, password=password)
    )


def checked(settings: Settings) -> Settings:
    """The settings, if each names a store that this version knows and has its secrets.

    Stores are opened when they are used first; a wrong setting is told at once.

    Raises:
        InvalidInput: which setting is wrong, and what it may be.
    """
    kind_of(settings)
    _ = settings.database_url, settings.lake_url
    for setting, value in (("lake_data", settings.lake_data), ("blobs", settings.blobs)):
        if value != "file:":
            Bucket.named(settings, setting, value)
    if not settings.lake.startswith("ducklake:"):
        raise InvalidInput(
            f"The setting lake = {settings.lake.partition(':')[0]!r} names no lake.",
            hint="Use `ducklake:` or `ducklake:postgres:dbname=… host=…`.",
        )
    if settings.online != "lmdb:":
        redis_place(settings)
    if settings.event_log != "segments:":
        kafka_place(settings)
    compute_place(settings)
    if settings.traces:
        traces_address(settings)
    return settings


def compute_place(settings: Settings) -> tuple[str, str]:
    """The kind of the compute that ``compute`` names (local, ray) and where or how many.

    Raises:
        InvalidInput: it names none.
    """
    kind, colon, rest = settings.compute.partition(":")
    local = kind == "local" and (not rest or (rest.isdecimal() and 1 <= int(rest) <= 256))
    ray = kind == "ray" and (not rest or re.fullmatch(r"//[^/@\s]+:\d{1,5}", rest) is not None)
    if not colon or not (local or ray):
        raise InvalidInput(
            f"The setting compute = {settings.compute!r} names nothing that runs tasks.",
            hint="Use `local:`, `local:2`, `ray:` or `ray://host:10001`.",
        )
    return kind, rest


def compute(settings: Settings) -> AnyCompute:
    """What runs tasks, as ``compute`` says; to be closed by whoever opens it.

    Raises:
        InvalidInput: the setting names none.
        Unavailable: Ray is not installed, or does not answer.
    """
    kind, rest = compute_place(settings)
    memory = settings.compute_memory_bytes
    if kind == "local":
        from falaj.kernel.adapters.compute_local import LocalCompute

        return LocalCompute(int(rest) if rest else None, memory_bytes=memory)
    from falaj.kernel.adapters.compute_ray import RayCompute

    return RayCompute(settings.compute if rest else None, memory_bytes=memory)


def kafka_place(settings: Settings) -> KafkaPlace:
    """The Kafka cluster that ``event_log`` names.

    Raises:
        InvalidInput: it names none, or holds a password.
        Unavailable: the adapter's package is not installed.
    """
    if not settings.event_log.startswith(("kafka:", "kafkas:")):
        raise InvalidInput(
            f"The setting event_log = {settings.event_log!r} names no event log.",
            hint="Use `segments:` or `kafkas://user@host:9093,host:9093`.",
        )
    from falaj.ingest.adapters.kafka_clients import KafkaPlace

    secret = settings.event_log_password
    return KafkaPlace.of(
        settings.event_log,
        password=secret.get_secret_value() if secret is not None else "",
        ca_file=settings.event_log_ca_file,
        certificate_file=settings.event_log_certificate_file,
        private_key_file=settings.event_log_private_key_file,
    )


def redis_place(settings: Settings) -> RedisPlace:
    """The Redis server that ``online`` names.

    Raises:
        InvalidInput: it names none, or holds a password.
        Unavailable: the adapter's package is not installed.
    """
    if not settings.online.startswith(("redis:", "rediss:")):
        raise InvalidInput(
            f"The setting online = {settings.online!r} names no online store.",
            hint="Use `lmdb:` or `rediss://user@host:6379/0?prefix=falaj:`.",
        )
    from falaj.features.adapters.redis_connection import RedisPlace

    secret = settings.online_password
    return RedisPlace.of(
        settings.online,
        password=secret.get_secret_value() if secret is not None else "",
        ca_file=settings.online_ca_file,
        certificate_file=settings.online_certificate_file,
        private_key_file=settings.online_private_key_file,
    )


def online_store(settings: Settings) -> OnlineStore:
    """The online store that ``online`` names; raises as ``checked`` does."""
    checked(settings)
    if settings.online == "lmdb:":
        from falaj.features.adapters.online_lmdb import LmdbOnlineStore

        return LmdbOnlineStore(private_folder(settings.home / "online"))
    from falaj.features.adapters.online_redis import RedisOnlineStore

    return RedisOnlineStore(redis_place(settings))


def event_log(settings: Settings, keys: KeyService, clock: Clock) -> EventLog:
    """The event log that ``event_log`` names; raises as ``checked`` does."""
    checked(settings)
    if settings.event_log != "segments:":
        from falaj.ingest.adapters.eventlog_kafka import KafkaLog

        clear = settings.streams.kafka_records == "clear"
        return KafkaLog(kafka_place(settings), keys=keys, clear=clear)
    from falaj.ingest.adapters.eventlog_segments import SegmentLog
    from falaj.ingest.adapters.segment_partition import Limits

    limits = Limits(
        segment_bytes=min(32 << 20, settings.streams.waiting_bytes // 4),
        waiting_bytes=settings.streams.waiting_bytes,
    )
    return SegmentLog(private_folder(settings.home / "log"), keys, limits=limits, clock=clock)


def foreign_tables(places: Places) -> ForeignTables:
    """Opens tables that others write, of every format.

    Args:
        places: says which files and folders may be read.
    """
    from falaj.features.adapters.foreign_delta import DeltaReader
    from falaj.features.adapters.foreign_iceberg import IcebergReader
    from falaj.features.adapters.foreign_parquet import ParquetReader
    from falaj.features.foreign import ForeignTables
    from falaj.features.sources import Format

    return ForeignTables(
        {
            Format.PARQUET: ParquetReader(places),
            Format.DELTA: DeltaReader(places),
            Format.ICEBERG: IcebergReader(places),
        }
    )
