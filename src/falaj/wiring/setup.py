"""Setting a platform up: its folder, keys, database, certificates and owner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyotp
from pydantic import SecretStr

from falaj.kernel.clock import SystemClock
from falaj.kernel.database import Database
from falaj.kernel.errors import AlreadyExists, Corrupt, NotFound
from falaj.kernel.schema import current, head, upgrade
from falaj.kernel.settings import Settings, is_there, private_folder
from falaj.trust.authentication import OWNER_ROLES
from falaj.trust.model import Account, ConfirmRequest, Role
from falaj.trust.ownerkey import OwnerKey
from falaj.wiring.keyservices import make_keys

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises

MIGRATIONS = Path(__file__).parents[1] / "migrations"
OWNER_KEY_FILE = "owner.key"


@dataclass(frozen=True)
class Initialised:
    """What the owner must keep; shown once."""

    owner: str
    totp_secret: str
    totp_uri: str
    recovery_codes: tuple[str, ...]


def initialise(settings: Settings, *, owner: str) -> Initialised:
    """Make a platform: folder, keyring, database, owner's account, certificate.

    The keyring is written last but one and the owner's key last: a platform that was
    begun and not finished is begun anew.

    Raises:
        AlreadyExists: there is one already; nothing is changed.
        InvalidInput: the folder cannot be used, or the owner's name is no account name.
        Unavailable: the database does not answer.
    """
    from falaj.wiring.assembly import Premises

    clock = SystemClock()
    home = private_folder(settings.home)
    key_file = home / OWNER_KEY_FILE
    if key_file.exists():
        raise AlreadyExists(
            f"There is a platform in {home} already.",
            hint="Use it, or choose another folder with --folder.",
        )
    make_keys(settings, clock)
    premises = Premises(settings, process="init", clock=clock)
    try:
        upgrade(premises.database, MIGRATIONS)
        premises.server_certificate()
        _ = premises.lake.latest()
        begun = home / (OWNER_KEY_FILE + ".new")
        key = _begun_key(begun)
        result = _with_factor(premises, key, _owner(premises, key, owner))
        begun.rename(key_file)
    finally:
        premises.close()
    return result


def _begun_key(path: Path) -> OwnerKey:
    """The key of an attempt that did not finish, or a new one: an account may have it already."""
    try:
        return OwnerKey.load(path)
    except NotFound:
        return OwnerKey.create(path)
    except Corrupt:  # that attempt ended while it wrote the key: no account has it
        path.unlink()
        return OwnerKey.create(path)


def _owner(premises: Premises, key: OwnerKey, name: str) -> Account:
    """The owner's account, made unless an attempt that did not finish has made it."""
    with premises.calls.opened("init.owner", "system:init") as call:
        authentication = premises.authentication
        known = authentication.accounts.by_public_key(call.connection, key.public_key)
        return known or authentication.create_owner(
            call.connection,
            name=name,
            public_key=key.public_key,
            now=call.now,
            roles=(*OWNER_ROLES, Role.AUDITOR),
        )


def owner_key(settings: Settings) -> OwnerKey:
    """The key of the folder's owner.

    Raises:
        NotFound: there is no platform in this folder.
        Forbidden: others than its owner may read the key.
    """
    path = settings.home / OWNER_KEY_FILE
    if not is_there(path):
        raise NotFound(
            f"There is no platform in {settings.home}.",
            hint="Run `falaj init` in your project's folder, or name it with --folder.",
        )
    return OwnerKey.load(path)


def _with_factor(premises: Premises, key: OwnerKey, owner: Account) -> Initialised:
    authentication = premises.authentication
    caller = authentication.by_key(key, via="init")
    if owner.has_factor:  # of an attempt that did not finish: nobody was shown it
        caller = caller.with_factor(premises.clock.now())
    offer = authentication.offer_factor(caller)
    secret = offer.totp_secret.get_secret_value()
    # Whoever runs `init` is shown the secret; the first code proves that it was kept whole.
    code = pyotp.TOTP(secret).at(premises.clock.now())
    confirmed = authentication.confirm(
        ConfirmRequest(ticket=offer.ticket, code=SecretStr(code)), client="falaj init"
    )
    return Initialised(
        owner=owner.name,
        totp_secret=secret,
        totp_uri=offer.otpauth_uri.get_secret_value(),
        recovery_codes=tuple(item.get_secret_value() for item in confirmed.recovery.codes),
    )


def brought_up_to_date(database: Database) -> None:
    """Run the schema's steps that an initialised database lacks.

    Raises:
        NotFound: the database is empty: no platform was made in it.
    """
    revision = current(database)
    if revision is None:
        raise NotFound(
            f"The database {database.shown_url} holds no platform.",
            hint="Run `falaj init` with the same settings.",
        )
    if revision != head(MIGRATIONS):
        upgrade(database, MIGRATIONS)


def first_link(settings: Settings) -> str | None:
    """A one-time enrolment secret for the first administrator, or None if there is one.

    Raises:
        NotFound: ``falaj init`` was not run here.
    """
    from falaj.wiring.assembly import assemble

    premises = assemble(settings, process="setup")
    try:
        with premises.calls.opened("accounts.first_administrator", "system:init") as call:
            invitation = premises.authentication.first_administrator(call.connection, call.now)
        return invitation.secret.get_secret_value() if invitation is not None else None
    finally:
        premises.close()
