"""Looking for what must not be there: through every file below a folder, and every store."""

from __future__ import annotations

import base64
import binascii
import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from falaj.kernel.database import Database
    from falaj.lake.ports import Lake
    from falaj.wiring.assembly import Premises


def files_with(folder: Path, needle: bytes) -> list[Path]:
    """The files below a folder that hold some bytes: as they are, in hex, base64 or UTF-16.

    Args:
        folder: every regular file below it is looked through, relative paths are returned.
        needle: at least eight bytes, so that chance does not find it.
    """
    if len(needle) < 8:
        raise ValueError("so few bytes are found everywhere")
    wanted = list(_forms(needle))
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or not path.stat().st_size:
            continue
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            if any(content.find(form) >= 0 for form in wanted):
                found.append(path.relative_to(folder))
    return found


def _forms(needle: bytes) -> Iterator[bytes]:
    yield needle
    yield binascii.hexlify(needle)
    yield binascii.hexlify(needle).upper()
    for shift in range(3):  # wherever it stands among other bytes
        encoded = base64.b64encode(bytes(shift) + needle)
        whole = encoded[4 if shift else 0 : len(encoded) - 4]
        yield whole
        yield whole.replace(b"+", b"-").replace(b"/", b"_")
    try:
        yield needle.decode("utf-8").encode("utf-16-le")
    except UnicodeDecodeError:
        return


def readable_copies(made: Premises, needles: Sequence[str]) -> dict[str, list[str]]:
    """Where texts can be read in the stores of a platform, with all the keys that it has left.

    Args:
        made: the platform; every table of its lake is read at every kept snapshot, as whoever
            has the keys sees it and as it is stored.
        needles: texts that stand nowhere by chance.

    Returns:
        The places by store; a store that was looked through and holds none has none.
    """
    searches: dict[str, Callable[[], Iterator[tuple[str, object]]]] = {
        "lake": lambda: _of_lake(made.lake),
        "lake as it is stored": lambda: _of_lake(made.lake._inner),
        "database": lambda: _of_database(made.database),
        "blobs": lambda: _of_blobs(made),
        "event log": lambda: _of_log(made),
        "event log, opened": lambda: _of_events(made),
        "online store": lambda: _of_online(made),
        "predictions on their way": lambda: _of_spool(made),
        "subject keys": lambda: _of_keys(made),
    }
    found = {
        store: sorted({place for place, value in search() if _holds(value, needles)})
        for store, search in searches.items()
    }
    in_clear = [path for needle in needles for path in files_with(_home(made), needle.encode())]
    return {"files as they lie on disk": sorted(map(str, set(in_clear))), **found}


def _home(made: Premises) -> Path:
    return made.settings.home


def _holds(value: object, needles: Sequence[str]) -> bool:
    said = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return any(needle in said for needle in needles)


def _of_lake(lake: Lake) -> Iterator[tuple[str, object]]:
    for snapshot in lake.snapshots():
        for table in lake.tables(snapshot.id):
            place = f"{table} at snapshot {snapshot.id}"
            for batch in lake.batches(table, snapshot=snapshot.id):
                yield place, batch.to_pylist()


def _of_database(database: Database) -> Iterator[tuple[str, object]]:
    from sqlalchemy import MetaData, select

    with database.reading() as connection:
        there = MetaData()
        there.reflect(connection)
        for table in there.sorted_tables:
            for row in connection.execute(select(table)):
                yield table.name, tuple(row)


def _of_blobs(made: Premises) -> Iterator[tuple[str, object]]:
    for digest in made.blobs.digests():
        yield digest, made.blobs.fetch(digest)


def _of_log(made: Premises) -> Iterator[tuple[str, object]]:
    folder = _home(made) / "log"
    for topic in sorted(path.name for path in folder.glob("[a-z]*") if path.is_dir()):
        for partition in range(made.event_log.partitions(topic)):
            place = made.event_log.begin(topic, partition)
            while records := made.event_log.read(topic, partition, place):
                for record in records:
                    place = record.offset + 1
                    yield topic, record.payload


def _of_events(made: Premises) -> Iterator[tuple[str, object]]:
    """What a stream's worker can read, with all keys of persons."""
    from falaj.features.streams.sealedrows import SEALED, SealedRows

    opening = SealedRows(made.subject_ciphers)
    for table in made.features.streams.tables():
        topic = made.features.streams.topic(table)
        for partition in range(made.event_log.partitions(topic)):
            place = made.event_log.begin(topic, partition)
            while records := made.event_log.read(topic, partition, place):
                for record in records:
                    place = record.offset + 1
                    if record.media == SEALED:
                        opened = opening.opened(topic, record.payload)
                        yield topic, opened.rows.to_pylist()


def _of_online(made: Premises) -> Iterator[tuple[str, object]]:
    """Keys and rows as they stand, and what a reader can open of them."""
    from falaj.features.versions import live_plans

    for key in made.online.keys(b""):
        yield "as it stands", key
        yield "as it stands", made.online.read([key])[0]
    for plan in live_plans(made.features.definitions):
        keys = list(made.online.keys(plan.storage_id))
        if plan.view.aggregates or not plan.sealed:
            continue  # tiles hold partial sums; what stands in clear was looked through above
        rows = made.online.read(keys)
        for row in made.features.storage(plan).opened(keys, rows):
            yield plan.name, row


def _of_spool(made: Premises) -> Iterator[tuple[str, object]]:
    from falaj.wiring.liveparts import prediction_drain

    for table, rows in prediction_drain(made).waiting():
        yield table, rows.to_pylist()


def _of_keys(made: Premises) -> Iterator[tuple[str, object]]:
    for rows in made.subject_keys.table.pages():
        for key in made.subject_keys.by_pseudonym([row.pseudonym for row in rows]):
            if key is not None:
                yield key.text, key.subject.name
