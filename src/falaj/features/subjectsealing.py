"""Rows of a view with a subject: they stand under the key of the person whom they are about.

The key of such a row tells nobody: behind the view's prefix it is the person's pseudonym,
eight bytes, and a hash of the entity's key that is keyed with the person's own key, 24. The
row is sealed under that key too. Once the key is destroyed nothing ties the row to a name,
and nobody can read it; until then its owner's rows are found by their pseudonym.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from falaj.features.entitykeys import KeyCodec, plain
from falaj.features.order import ORDER_BYTES
from falaj.features.types import DType
from falaj.kernel.errors import Corrupt
from falaj.trust.subjectciphers import SubjectCiphers
from falaj.trust.subjects import Subject

ENTITY_BYTES = 32
"""What stands for an entity in a key: its subject's pseudonym, and a hash."""
_PSEUDONYM_BYTES = 8
_NOBODY = b"\xff" * ENTITY_BYTES
"""No pseudonym begins with a byte above 127."""
PURPOSE = b"falaj-live"
"""What the ciphers of online rows and of pushed events are for."""


def pseudonym_of(key: bytes) -> bytes:
    """The pseudonym in the key of a row of a view with a subject."""
    return key[-ENTITY_BYTES : _PSEUDONYM_BYTES - ENTITY_BYTES]


class SubjectKeyCodec:
    """Encodes the keys of entities under the keys of their subjects; as ``KeyCodec`` does.

    Args:
        prefix: the first bytes of every key.
        keys: the names and types of the entity's keys, in order.
        subject: which of them names the person, and of which kind persons they are.
        ciphers: the keys of persons.

    To ask for a person who has no key gives a key under which nothing ever stands: an erased
    person reads as one of whom nothing was ever known.
    """

    one = None
    """No key is encoded without the key of its subject."""

    def __init__(
        self,
        prefix: bytes,
        keys: Mapping[str, DType],
        subject: tuple[str, str],
        ciphers: SubjectCiphers,
    ) -> None:
        name, self._kind = subject
        self._prefix = prefix
        self._plain = KeyCodec(b"", keys)
        self._place = list(keys).index(name)
        self._ciphers = ciphers
        self.names = tuple(keys)

    def encoded(self, values: Sequence[Any]) -> bytes | None:
        """The key of one entity; None if a value is null.

        Raises:
            InvalidInput: a value of another type. LimitExceeded: the key is too long.
            Unavailable: the keys of subjects cannot be read.
        """
        key = self._plain.encoded(values)
        if key is None:
            return None
        cipher = self._ciphers.one(Subject(self._kind, str(values[self._place])))
        if cipher is None:
            return self._prefix + _NOBODY
        return self._prefix + cipher.pseudonym + cipher.name(key)

    def asked(self, columns: Sequence[Sequence[Any]]) -> list[bytes | None]:
        """The keys of m entities, given as columns of Python values or numpy arrays.

        None where a value is null. Raises as ``encoded``.
        """
        given = [plain(one) for one in columns]
        keys = self._plain.asked(given)
        people = given[self._place]
        there = [i for i, key in enumerate(keys) if key is not None]
        subjects = [Subject(self._kind, str(people[i])) for i in there]
        found: list[bytes | None] = [None] * len(keys)
        ciphers = self._ciphers.of(subjects, make=False)
        for i, cipher in zip(there, ciphers, strict=True):
            named = _NOBODY if cipher is None else cipher.pseudonym + cipher.name(keys[i] or b"")
            found[i] = self._prefix + named
        return found

    def column(self, keys: Sequence[pa.Array], since: int | None = None) -> list[bytes]:
        """The keys of many entities that are written, given as typed Arrow columns without
        nulls; subjects who have no key get one.

        Args:
            keys: the columns, of equal length.
            since: see ``SubjectCiphers.named``.

        Raises:
            LimitExceeded: a key is too long. ErasedMeanwhile, Unavailable: see there.
        """
        plain_keys = self._plain.column(keys)
        subjects = [Subject(self._kind, str(one)) for one in keys[self._place].to_pylist()]
        return [
            self._prefix + cipher.pseudonym + cipher.name(key)
            for key, cipher in zip(plain_keys, self._ciphers.named(subjects, since), strict=True)
        ]


class SubjectSealer:
    """Encrypts rows under the keys of their subjects; fulfils ``sealing.Sealing``.

    The whole key of a row is authenticated with it, so that a row cannot be moved.

    Args:
        ciphers: the keys of persons.
    """

    def __init__(self, ciphers: SubjectCiphers) -> None:
        self._ciphers = ciphers

    def seal_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes], clear: int = ORDER_BYTES
    ) -> list[bytes | None]:
        """Rows with their bodies encrypted; None for one whose subject's key is gone."""
        ciphers = self._ciphers.by_pseudonym([pseudonym_of(key) for key in keys])
        return [
            None if cipher is None else row[:clear] + cipher.seal(row[clear:], key + row[:clear])
            for cipher, key, row in zip(ciphers, keys, rows, strict=True)
        ]

    def open_all(
        self, keys: Sequence[bytes], rows: Sequence[bytes | None], clear: int = ORDER_BYTES
    ) -> list[bytes | None]:
        """Rows as they were; None where there is none, or its subject's key is gone.

        Raises:
            Corrupt: a row is not what was sealed for its key.
        """
        there = [i for i, row in enumerate(rows) if row is not None]
        ciphers = self._ciphers.by_pseudonym([pseudonym_of(keys[i]) for i in there])
        found: list[bytes | None] = [None] * len(rows)
        for i, cipher in zip(there, ciphers, strict=True):
            row = rows[i]
            if cipher is not None and row is not None:
                try:
                    found[i] = row[:clear] + cipher.open(row[clear:], keys[i] + row[:clear])
                except Corrupt:
                    raise Corrupt(
                        "A sealed row of the online store is not what was written.",
                        hint="Materialise the view again, and look for who changed the store.",
                    ) from None
        return found
