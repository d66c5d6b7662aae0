"""The key service that the settings name, and how a new platform's is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falaj.kernel.clock import Clock
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.settings import Settings, is_there, private_folder
from falaj.trust.ports import WRAPPING, KeyService

if TYPE_CHECKING:
    from pydantic import SecretStr

    from falaj.trust.adapters.bao_connection import BaoPlace
    from falaj.trust.adapters.keys_file import Seal

KEYRING = "keyring:"


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
    if is_remote(settings):
        return _remote(settings)
    from falaj.trust.adapters.keys_file import FileKeyring

    path = keyring_file(settings)
    if not is_there(path):
        raise NotFound(
            f"There is no platform in {settings.home}.",
            hint="Run `falaj init` in your project's folder, or name it with --folder.",
        )
    return FileKeyring(path, seal_of(settings), clock=clock)


def make_keys(settings: Settings, clock: Clock) -> None:
    """Make the keys of a new platform, unless an attempt that did not finish has made them."""
    if is_remote(settings):
        keys = _remote(settings)
        if not any(version.purpose == WRAPPING for version in keys.versions()):
            keys.wrap(os.urandom(32), context="init")  # makes the key
        return
    from falaj.trust.adapters.keys_file import FileKeyring

    path = keyring_file(settings)
    if not path.exists():
        private_folder(path.parent)
        create = not machine_secret_file(settings).exists()
        FileKeyring.create(path, seal_of(settings, create=create), clock=clock)


def is_remote(settings: Settings) -> bool:
    """True if the keys are not in a file of ours; raises InvalidInput if they are nowhere."""
    if settings.keys == KEYRING:
        return False
    bao_place(settings)
    return True


def bao_place(settings: Settings) -> BaoPlace:
    """The transit engine that ``keys`` names.

    Raises:
        InvalidInput: it names none, or nothing is set that opens it.
    """
    if not settings.keys.startswith(("openbao:", "vault:")):
        raise InvalidInput(
            f"The setting keys = {settings.keys.partition(':')[0]!r} names no key service.",
            hint="Use `keyring:` or `openbao://host:8200/transit?prefix=falaj`.",
        )
    from falaj.trust.adapters.bao_connection import BaoPlace

    given = settings.key_service
    return BaoPlace.of(
        settings.keys,
        token=_shown(given.token),
        token_file=given.token_file,
        role_id=given.role_id,
        secret_id=_shown(given.secret_id),
        ca_file=given.ca_file,
        certificate_file=given.certificate_file,
        private_key_file=given.private_key_file,
        timeout_seconds=given.timeout_seconds,
    )


def sealed_by(settings: Settings) -> str:
    """What keeps the keys, in words."""
    if settings.keys != KEYRING:
        return "in the key service"
    passphrase = settings.keyring_passphrase
    return "sealed by " + ("a passphrase" if passphrase else "a secret file in home")


def _remote(settings: Settings) -> KeyService:
    from falaj.trust.adapters.keys_openbao import BaoKeys
    from falaj.trust.keys_cached import CachedKeys

    given = settings.key_service
    return CachedKeys(
        BaoKeys(bao_place(settings)), seconds=given.cache_seconds, most=given.cache_keys
    )


def _shown(secret: SecretStr | None) -> Any:
    return secret.get_secret_value() if secret is not None else ""
