"""Where the keys of data subjects are kept, and the lake that seals under them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import SecretStr

    from falaj.lake.erasure import Erasures
    from falaj.lake.erasure_service import PrivacyService
    from falaj.trust.ports import KeyService
    from falaj.trust.subjectkeys import KeyTable, StoredKeys
    from falaj.trust.subjects import SubjectCopies
    from falaj.wiring.assembly import Premises

SQLITE = "sqlite:"


def privacy_service(made: Premises) -> PrivacyService:
    """The actions of privacy."""
    from falaj.lake.erasure_service import PrivacyService
    from falaj.lake.sealing import Sealing

    return PrivacyService(erasures(made), lambda: Sealing(made.lake, made.clock))


def erasures(made: Premises) -> Erasures:
    """Finds and erases subjects in all stores of this platform."""
    from falaj.lake.erasure import Erasures

    return Erasures(made.subject_keys, lambda: copies(made), made.keys)


def weaknesses(made: Premises) -> list[tuple[str, str]]:
    """What is not as it should be with the keys of data subjects, and what to do about it."""
    from falaj.lake.tables import newest_sequence

    table = made.subject_keys.table
    found = _unsound(table)
    sealed = made.lake.sealed_tables()
    with made.database.reading() as connection:
        certified = newest_sequence(connection)
    if sealed and not table.count():
        found.append(
            (
                f"The store of subject keys is empty: personal fields of {len(sealed)} tables of"
                " the lake are unreadable.",
                "If it was lost, let privacy.subject_keys name its replica.",
            )
        )
    elif table.sequence() < certified:
        found.append(
            (
                f"The store of subject keys knows {table.sequence()} destructions and the"
                f" certificates {certified}: it is an older copy, and holds keys that were"
                " destroyed.",
                "Let privacy.subject_keys name the newer one, and destroy this one.",
            )
        )
    clear = {name: n for name in made.lake.tables() if (n := made.lake.n_in_clear(name))}
    for name, n in clear.items():
        found.append(
            (
                f"{n} rows of the table {name!r} stand in clear, from before its personal rule.",
                f"`falaj privacy seal {name}` writes them anew.",
            )
        )
    return found


def _unsound(table: KeyTable) -> list[tuple[str, str]]:
    """A replica that has what the store does not know, and a store that is not whole."""
    from falaj.trust.subjectreplica import MEND, ReplicatedTable

    found = []
    if isinstance(table, ReplicatedTable) and table.behind() and (more := table.ahead()):
        found.append((f"The replica of the subject keys has {more}; nothing is written.", MEND))
    if flaw := table.flaw():
        found.append(
            (
                f"The store of subject keys is damaged: {flaw}.",
                "Bring the store's own replica back (privacy.replica), or make the replica anew.",
            )
        )
    return found


def copies(made: Premises) -> Sequence[SubjectCopies]:
    """The stores with rows about subjects."""
    from falaj.lake.erasure import LakeCopies
    from falaj.wiring.liveparts import live_copies

    return [LakeCopies(made.lake), *live_copies(made)]


def subject_keys(made: Premises) -> StoredKeys:
    """The keys of data subjects; the store is opened when it is first used."""
    from falaj.trust.subjectkeys import StoredKeys

    return StoredKeys(key_table(made.settings, made.keys), made.keys, made.clock)


def key_table(settings: Settings, keys: KeyService) -> KeyTable:
    """The table that ``privacy.subject_keys`` names, with its replica.

    Raises:
        InvalidInput: a setting names no place, or both name the same one.
    """
    privacy = settings.privacy
    place = privacy.subject_keys
    first = _table(settings, "privacy.subject_keys", place, privacy.subject_keys_password)
    if not privacy.replica:
        return first
    if _told(settings, privacy.replica) == _told(settings, place):
        raise InvalidInput(
            "privacy.replica names the place of privacy.subject_keys.",
            hint="Name another disk or another database.",
        )
    from falaj.trust.subjectkeys import data_key_opens
    from falaj.trust.subjectreplica import ReplicatedTable

    second = _table(settings, "privacy.replica", privacy.replica, privacy.replica_password)
    return ReplicatedTable(first, second, partial(data_key_opens, keys))


def sqlite_folder(settings: Settings, place: str) -> Path | None:
    """The folder that such a setting names; None if it names a database."""
    if not place.startswith(SQLITE):
        return None
    named = place.removeprefix(SQLITE)
    return settings.home / (named or "subjects")


def _told(settings: Settings, place: str) -> str:
    folder = sqlite_folder(settings, place)
    return place if folder is None else str(folder.resolve())


def _table(settings: Settings, setting: str, place: str, password: SecretStr | None) -> KeyTable:
    folder = sqlite_folder(settings, place)
    if folder is not None:
        from falaj.trust.adapters.subjects_sqlite import SqliteKeyTable

        return SqliteKeyTable(folder)
    if place.startswith("postgresql://"):
        from falaj.kernel import postgres_tls
        from falaj.trust.adapters.subjects_postgres import PostgresKeyTable

        url = postgres_tls.secured(place, settings.database_ca_file, setting=setting)
        return PostgresKeyTable(url, password=password.get_secret_value() if password else "")
    raise InvalidInput(
        f"The setting {setting} = {place.partition(':')[0]!r} names no place for subject keys.",
        hint="Use `sqlite:`, `sqlite:/path/to/folder` or `postgresql://user@host/database`.",
    )
