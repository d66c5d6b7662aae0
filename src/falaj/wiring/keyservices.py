"""The key service that the settings name, and how a new platform's is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.kernel.clock import Clock
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.settings import Settings, is_there, private_folder
from falaj.trust.ports import WRAPPING, KeyService

if TYPE_CHECKING:
    from pydantic import SecretStr

    from falaj.trust.adapters.bao_connection import BaoPlace
    from falaj.trust.adapters.keys_aws import KmsPlace
    from falaj.trust.adapters.keys_file import FileKeyring, Seal
    from falaj.trust.adapters.keys_pkcs11 import Pkcs11Place
    from falaj.trust.adapters.seals_remote import RemoteSeal
    from falaj.trust.keys_hybrid import WrappingKeys
    from falaj.trust.ports import Rewrappable

KEYRING = "keyring:"
BAO = "openbao"
HSM = "pkcs11"
KMS = "awskms"


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
    kind = kind_of(settings)
    if moved(settings):
        from falaj.trust.keys_moved import MovedKeys

        return _cached(settings, MovedKeys(_wraps_now(settings, clock), _keyring(settings, clock)))
    if kind == BAO:
        return _cached(settings, _bao(settings))
    keyring = _keyring(settings, clock)
    if kind == KEYRING:
        return keyring
    from falaj.trust.keys_hybrid import HybridKeys

    return _cached(settings, HybridKeys(_wrapping(settings, clock), keyring))


def make_keys(settings: Settings, clock: Clock) -> None:
    """Make the keys of a new platform, unless an attempt that did not finish has made them."""
    if moved(settings):
        raise InvalidInput(
            "A new platform has no keys that could have moved.",
            hint="Leave the setting key_service.moved_from empty.",
        )
    if kind_of(settings) == BAO:
        keys = key_service(settings, clock)
        if not any(version.purpose == WRAPPING for version in keys.versions()):
            keys.wrap(os.urandom(32), context="init")  # makes the key
        return
    from falaj.trust.adapters.keys_file import FileKeyring

    path = keyring_file(settings)
    if not path.exists():
        private_folder(path.parent)
        FileKeyring.create(path, _seal(settings, clock, create=True), clock=clock)


def sealed_keyring(settings: Settings, clock: Clock) -> Rewrappable | None:
    """The seal of the keyring, if it stands on the wrapping key itself."""
    if kind_of(settings) in (BAO, KEYRING) or moved(settings):
        return None
    from falaj.trust.adapters.seals_remote import SealedKeyring

    return SealedKeyring(_keyring(settings, clock), _remote_seal(settings, clock))


def moved(settings: Settings) -> bool:
    """Whether the keys were in a keyring before; raises InvalidInput if they still are."""
    if not settings.key_service.moved_from:
        return False
    if kind_of(settings) == KEYRING:
        raise InvalidInput(
            "The keys have moved from the keyring to the keyring.",
            hint="Set `keys` to the key service that wraps now, or empty key_service.moved_from.",
        )
    return True


def kind_of(settings: Settings) -> str:
    """Which kind of key service ``keys`` names; raises InvalidInput if it names none."""
    if settings.keys == KEYRING:
        return KEYRING
    scheme = settings.keys.partition(":")[0]
    if scheme in ("openbao", "vault"):
        bao_place(settings)
        return BAO
    if scheme == HSM:
        hsm_place(settings)
        return HSM
    if scheme == KMS:
        kms_place(settings)
        return KMS
    raise InvalidInput(
        f"The setting keys = {scheme!r} names no key service.",
        hint="Use `keyring:`, `openbao://host:8200/transit?prefix=falaj`, "
        "`pkcs11:/path/module.so?token=label` or `awskms://region?prefix=falaj`.",
    )


def bao_place(settings: Settings) -> BaoPlace:
    """The transit engine that ``keys`` names; raises InvalidInput."""
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


def hsm_place(settings: Settings) -> Pkcs11Place:
    """The token that ``keys`` names; raises InvalidInput."""
    from falaj.trust.adapters.keys_pkcs11 import Pkcs11Place

    return Pkcs11Place.of(settings.keys, pin=_shown(settings.key_service.pin))


def kms_place(settings: Settings) -> KmsPlace:
    """The KMS that ``keys`` names; raises InvalidInput."""
    from falaj.trust.adapters.keys_aws import KmsPlace
    from falaj.trust.adapters.sigv4 import Credentials

    given = settings.key_service
    credentials = Credentials(
        _shown(given.access_key), _shown(given.secret_key), _shown(given.session_token)
    )
    return KmsPlace.of(
        settings.keys,
        credentials=credentials,
        ca_file=given.ca_file,
        timeout_seconds=given.timeout_seconds,
    )


def sealed_by(settings: Settings) -> str:
    """What keeps the keys, in words."""
    kind = kind_of(settings)
    if moved(settings):
        return "wrapping in the key service, signing by the keyring that wrapped before"
    if kind == BAO:
        return "in the key service"
    if kind == HSM:
        return "wrapping in the hardware module, signing by a keyring that it seals"
    if kind == KMS:
        return "wrapping in KMS, signing by a keyring that it seals"
    passphrase = settings.keyring_passphrase
    return "sealed by " + ("a passphrase" if passphrase else "a secret file in home")


def _keyring(settings: Settings, clock: Clock) -> FileKeyring:
    from falaj.trust.adapters.keys_file import FileKeyring

    path = keyring_file(settings)
    if not is_there(path):
        raise NotFound(
            f"There is no platform in {settings.home}.",
            hint="Run `falaj init` in your project's folder, or name it with --folder.",
        )
    return FileKeyring(path, _seal(settings, clock), clock=clock)


def _seal(settings: Settings, clock: Clock, *, create: bool = False) -> Seal:
    if kind_of(settings) == KEYRING or moved(settings):
        new = create and not machine_secret_file(settings).exists()
        return seal_of(settings, create=new)
    return _remote_seal(settings, clock)


def _remote_seal(settings: Settings, clock: Clock) -> RemoteSeal:
    from falaj.trust.adapters.seals_remote import RemoteSeal

    return RemoteSeal(kind_of(settings), _wrapping(settings, clock))


def _bao(settings: Settings) -> KeyService:
    from falaj.trust.adapters.keys_openbao import BaoKeys

    return BaoKeys(bao_place(settings))


def _wraps_now(settings: Settings, clock: Clock) -> WrappingKeys:
    """What wraps on a platform whose keys have moved."""
    if kind_of(settings) == BAO:
        from falaj.trust.keys_moved import WrapsFor

        return WrapsFor(_bao(settings))
    return _wrapping(settings, clock)


def _wrapping(settings: Settings, clock: Clock) -> WrappingKeys:
    from falaj.trust.adapters.keys_pkcs11 import Pkcs11Wrapping

    lock_file = settings.home / "keys" / "versions.lock"
    if kind_of(settings) == KMS:
        from falaj.trust.adapters.keys_aws import KmsWrapping

        return KmsWrapping(kms_place(settings), lock_file=lock_file, clock=clock)
    return Pkcs11Wrapping(hsm_place(settings), lock_file=lock_file, clock=clock)


def _cached(settings: Settings, keys: KeyService) -> KeyService:
    from falaj.trust.keys_cached import CachedKeys

    given = settings.key_service
    return CachedKeys(keys, seconds=given.cache_seconds, most=given.cache_keys)


def _shown(secret: SecretStr | None) -> str:
    return secret.get_secret_value() if secret is not None else ""
