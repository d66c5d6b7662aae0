"""A key for each data subject: the words, and what whoever keeps the keys promises.

A data subject is the person whom rows are about, named by a kind (``person``, or another
word that the operator's tables share) and a value of the column that names them. Personal
fields are sealed under the subject's key wherever they are written, and the subject's
*pseudonym*, a random number that says nothing, stands in place of the name. Destroying the
key is the erasure: every copy of what was sealed under it is unreadable from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, Protocol


class Subject(NamedTuple):
    """Whom rows are about."""

    kind: str
    """A lower snake case word; tables and views that name the same kind share keys."""
    name: str
    """The text of the column's value, such as ``4711``."""


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """A subject's key, in memory."""

    pseudonym: int
    """Random, from 0 to 2**63 - 1, unique; as text, 16 hexadecimal digits."""
    secret: bytes
    """32 bytes, for AES-256-GCM."""
    subject: Subject

    @property
    def text(self) -> str:
        """The pseudonym as text."""
        return f"{self.pseudonym:016x}"


@dataclass(frozen=True, slots=True)
class Destroyed:
    """Proof that a subject's key is gone, without the subject's name."""

    pseudonym: int
    destroyed_at: datetime
    """UTC."""
    sequence: int
    """Counts the destructions of this installation, from 1."""


class SubjectKeys(Protocol):
    """The keys of data subjects.

    Guarantees:

    - A subject has one key for its life; callers in different processes that make it at the
      same time get the same one.
    - A made key is on stable storage before it is returned.
    - When ``destroy`` returns, the key and the row that tied the subject's name to its
      pseudonym are off the disk (overwritten, not only unlinked), no later call in any
      process finds them, and what other processes remember is dropped within a second.
    - A subject that is named again afterwards gets a new key and a new pseudonym.
    """

    def of(self, subjects: Sequence[Subject], *, make: bool) -> list[SubjectKey | None]:
        """The key of each subject, in order; None where there is none and ``make`` is false."""
        ...

    def by_pseudonym(self, pseudonyms: Sequence[int]) -> list[SubjectKey | None]:
        """The key behind each pseudonym, in order; None where it was destroyed."""
        ...

    def destroy(self, subject: Subject) -> Destroyed | None:
        """Destroy a subject's key; None if there is none (never made, or destroyed before)."""
        ...

    def destroyed(self, *, after: int = 0) -> list[Destroyed]:
        """The destructions with a sequence above ``after``, in order; from then on this
        process opens nothing with the keys of these."""
        ...


class SubjectCopies(Protocol):
    """A store with rows about subjects, which are found and removed when one is erased.

    What it holds of a subject is sealed under the subject's key, or stands under the
    pseudonym: destroying the key is the erasure, and ``forget`` frees the place.
    """

    @property
    def name(self) -> str:
        """As an officer reads it: ``online store``."""
        ...

    def count(self, key: SubjectKey) -> dict[str, int]:
        """How many rows there are about the subject, by table or view, without zeros."""
        ...

    def forget(self, key: SubjectKey) -> int:
        """Remove all of them; returns how many. Called after the key was destroyed, with
        its pseudonym and the subject, and an empty secret; a repeat removes what is left.
        """
        ...


__all__ = ["Destroyed", "Subject", "SubjectCopies", "SubjectKey", "SubjectKeys"]
