"""Events in the log, each sealed under the key of the person whom it is about.

A payload groups the rows of one record by person. Of a row nothing stands in clear but the
person's pseudonym, its number in the record and its event time, which moves the watermark
on even when the row can no longer be opened: what came behind it is as late as it was. Rows
that name nobody stand as they are; the log as a whole is sealed all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from falaj.features.columns import Ints, instants
from falaj.features.streams.progress import NEVER
from falaj.kernel.errors import Corrupt, InvalidInput, Unavailable
from falaj.trust.subjectciphers import SubjectCiphers
from falaj.trust.subjects import Subject

SEALED = "application/vnd.falaj.sealed-rows"
"""The media type of such payloads."""
_NOBODY = b""


class _Group(msgspec.Struct, array_like=True, frozen=True):
    """The rows of one person."""

    pseudonym: bytes
    numbers: bytes
    """int64 each, ascending."""
    times: bytes
    """int64 each: event times (UTC microseconds), ``NEVER`` where there is none; empty if the
    stream has no event time."""
    rows: bytes
    """The message of an Arrow record batch, sealed unless it is nobody's."""


class _Payload(msgspec.Struct, array_like=True, frozen=True):
    schema: bytes
    groups: list[_Group]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Payload).decode


@dataclass(frozen=True)
class Lost:
    """Rows that nobody can open any more: their numbers and event times (n,)."""

    numbers: Ints
    times: Ints


@dataclass(frozen=True)
class Opened:
    """The rows of a payload that could be opened, with their numbers, and those that could not."""

    rows: pa.Table
    numbers: Ints
    lost: Lost


class SealedRows:
    """Seals rows of events, and opens them again.

    Args:
        ciphers: the keys of persons; without them sealed rows wait to be opened.
    """

    def __init__(self, ciphers: SubjectCiphers | None) -> None:
        self._ciphers = ciphers

    def sealed(
        self, topic: str, rows: pa.RecordBatch, subject: tuple[str, str], event_time: str | None
    ) -> bytes:
        """Rows as a payload.

        Args:
            topic: where they go; they open nowhere else.
            subject: the column that names the person, and the kind of persons.
            event_time: the column of event times.

        Raises:
            Unavailable: keys cannot be made.
        """
        column, kind = subject
        rows = _plain(rows)
        places: dict[str | None, list[int]] = {}
        for place, value in enumerate(rows.column(column).to_pylist()):
            places.setdefault(None if value is None else str(value), []).append(place)
        times = _times(rows, event_time)
        people = [name for name in places if name is not None]
        ciphers = self._at_hand().named([Subject(kind, name) for name in people], None)
        by_name = dict(zip(people, ciphers, strict=True))
        groups = []
        for name, some in places.items():
            numbers = np.array(some, np.int64)
            batch = rows if len(places) == 1 else rows.take(pa.array(numbers))
            data = batch.serialize().to_pybytes()
            when = b"" if times is None else times[numbers].tobytes()
            pseudonym = _NOBODY
            if name is not None:
                cipher = by_name[name]
                pseudonym = cipher.pseudonym
                data = cipher.seal(data, _about(topic, pseudonym, numbers.tobytes(), when))
            groups.append(_Group(pseudonym, numbers.tobytes(), when, data))
        return _encode(_Payload(rows.schema.serialize().to_pybytes(), groups))

    def opened(self, topic: str, payload: bytes) -> Opened:
        """The rows of a payload, in order.

        Raises:
            InvalidInput: it is none. Corrupt: it is not what was sealed for the topic.
            Unavailable: keys cannot be read; the payload waits.
        """
        told = _told(payload)
        try:
            schema = pa.ipc.read_schema(pa.py_buffer(told.schema))
        except (pa.ArrowInvalid, OSError) as error:
            raise _no_rows(error) from None
        named = [group.pseudonym for group in told.groups if group.pseudonym]
        ciphers = iter(self._at_hand().by_pseudonym(named) if named else ())
        batches: list[pa.RecordBatch] = []
        numbers: list[Ints] = []
        gone: list[tuple[Ints, Ints]] = []
        for group in told.groups:
            data, own = group.rows, np.frombuffer(group.numbers, np.int64)
            if group.pseudonym:
                cipher = next(ciphers)
                if cipher is None:
                    when = np.frombuffer(group.times, np.int64)
                    gone.append((own, when if len(when) else np.full(len(own), NEVER)))
                    continue
                about = _about(topic, group.pseudonym, group.numbers, group.times)
                data = cipher.open(data, about)
            batches.append(_batch(data, schema))
            numbers.append(own)
        order = np.argsort(np.concatenate([*numbers, np.zeros(0, np.int64)]), kind="stable")
        rows = pa.Table.from_batches(batches, schema)
        if len(batches) > 1:
            rows = rows.combine_chunks().take(pa.array(order))
        none = np.zeros(0, np.int64)
        return Opened(
            rows,
            np.concatenate([*numbers, none])[order],
            Lost(
                np.concatenate([*(own for own, _ in gone), none]),
                np.concatenate([*(when for _, when in gone), none]),
            ),
        )

    def _at_hand(self) -> SubjectCiphers:
        if self._ciphers is None:
            raise Unavailable(
                "The events are about persons, and their keys are not at hand.",
                hint="Open the store with the keys of data subjects; nothing is lost.",
            )
        return self._ciphers


def rows_of(payload: bytes, pseudonym: bytes) -> int:
    """How many rows of a payload are of that person; raises InvalidInput if it is none."""
    return sum(
        len(group.numbers) // 8 for group in _told(payload).groups if group.pseudonym == pseudonym
    )


def _told(payload: bytes) -> _Payload:
    try:
        return _decode(payload)
    except msgspec.MsgspecError as error:
        raise _no_rows(error) from None


def _no_rows(error: Exception) -> InvalidInput:
    return InvalidInput(
        f"The payload is no sealed rows: {str(error)[:200]}.",
        hint="Only the platform writes this media type.",
    )


def _about(topic: str, *parts: bytes) -> bytes:
    return b"\0".join([b"events", topic.encode(), *parts])


def _times(rows: pa.RecordBatch, event_time: str | None) -> Ints | None:
    if event_time is None:
        return None
    time = instants(pa.chunked_array([rows.column(event_time)]), event_time)
    return np.where(time.valid, time.values, NEVER)


def _plain(rows: pa.RecordBatch) -> pa.RecordBatch:
    """Rows without dictionaries, which stand beside a batch and not in it."""
    columns = [
        one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in rows.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=rows.schema.names)


def _batch(data: bytes, schema: pa.Schema) -> pa.RecordBatch:
    try:
        return pa.ipc.read_record_batch(pa.py_buffer(data), schema)
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(
            f"Rows of the event log are not readable: {error}.",
            hint="Another version of Falaj may have written them.",
        ) from None
