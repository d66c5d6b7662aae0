"""Adapters chosen by the settings: which keeper of keys, which lake, which blobs, which store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from falaj.kernel.clock import Clock
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.settings import Settings, is_there, private_folder

if TYPE_CHECKING:
    from falaj.features.ports import OnlineStore
    from falaj.lake.ports import BlobStore, Lake
    from falaj.trust.adapters.keys_file import Seal
    from falaj.trust.ports import KeyService


def keyring_file(settings: Settings) -> Path:
    """Where the keyring lies."""
    return settings.home / "keys" / "keyring.json"


def machine_secret_file(settings: Settings) -> Path:
    """Where the secret lies that seals the keyring when no passphrase does."""
    return settings.home / "keys" / "machine.secret"


def seal_of(settings: Settings, *, create: bool = False) -> Seal:
    """What seals the keyring: the passphrase if one is set, else the machine's secret."""
    from falaj.trust.adapters.keys_file import MachineSeal, PassphraseSeal

    if settings.keyring_passphrase is not None:
        return PassphraseSeal(settings.keyring_passphrase.get_secret_value())
    path = machine_secret_file(settings)
    if create:
        private_folder(path.parent)
        return MachineSeal.create(path)
    return MachineSeal(path)


def key_service(settings: Settings, clock: Clock) -> KeyService:
    """The key service that ``keys`` names.

    Raises:
        NotFound: there is no platform in this folder yet.
        InvalidInput: the setting names none.
    """
    if settings.keys != "keyring:":
        raise InvalidInput(
            f"The setting keys = {settings.keys!r} names no key service.",
            hint="This version knows `keyring:`.",
        )
    from falaj.trust.adapters.keys_file import FileKeyring

    path = keyring_file(settings)
    if not is_there(path):
        raise NotFound(
            f"There is no platform in {settings.home}.",
            hint="Run `falaj init` in your project's folder, or name it with --folder.",
        )
    return FileKeyring(path, seal_of(settings), clock=clock)


def blob_store(settings: Settings) -> BlobStore:
    """The blob store that ``blobs`` names.

    Raises:
        InvalidInput: the URL is not one that this version knows, or keys are missing.
        Unavailable: the adapter's package is not installed.
    """
    if settings.blobs == "file:":
        from falaj.lake.adapters.blobs_local import LocalBlobs

        return LocalBlobs(private_folder(settings.home / "blobs"))
    url = urlsplit(settings.blobs)
    if url.scheme != "s3" or not url.netloc:
        raise InvalidInput(
            f"The setting blobs = {settings.blobs!r} names no blob store.",
            hint="Use `file:` or `s3://bucket/prefix?endpoint=https://…&region=…`.",
        )
    if settings.s3_access_key is None or settings.s3_secret_key is None:
        raise InvalidInput(
            "Blobs in S3 need an access key and a secret key.",
            hint="Set FALAJ_S3_ACCESS_KEY and FALAJ_S3_SECRET_KEY.",
        )
    from falaj.lake.adapters.blobs_s3 import S3Blobs

    options = {name: values[-1] for name, values in parse_qs(url.query).items()}
    return S3Blobs(
        url.netloc,
        prefix=url.path.strip("/"),
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        endpoint=options.get("endpoint"),
        region=options.get("region", "us-east-1"),
    )


def lake(settings: Settings) -> Lake:
    """The lake that ``lake`` names; its files are opened at first use."""
    from falaj.lake.adapters.ducklake_engine import Place
    from falaj.lake.adapters.lake_ducklake import DuckLake

    return DuckLake(Place.of(settings.lake, private_folder(settings.home / "lake")))


def online_store(settings: Settings) -> OnlineStore:
    """The online store that ``online`` names."""
    if settings.online != "lmdb:":
        raise InvalidInput(
            f"The setting online = {settings.online!r} names no online store.",
            hint="This version knows `lmdb:`.",
        )
    from falaj.features.adapters.online_lmdb import LmdbOnlineStore

    return LmdbOnlineStore(private_folder(settings.home / "online"))
