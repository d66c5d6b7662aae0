"""What every ``SubjectKeys`` must do; a store's test inherits ``SubjectKeysSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from falaj.trust.subjects import Subject, SubjectKey, SubjectKeys

FORGOTTEN_SECONDS = 1.0


def persons(*names: object) -> list[Subject]:
    """Subjects of the kind ``person``."""
    return [Subject("person", str(name)) for name in names]


def made(keys: SubjectKeys, *names: object) -> list[SubjectKey]:
    """The keys of these persons, made where there are none."""
    found = keys.of(persons(*names), make=True)
    return [key for key in found if key is not None]


class SubjectKeysSuite:
    """Inherit it and give the fixtures ``keys`` (a fresh store) and ``again`` (the same store
    as another process opens it).
    """

    @pytest.fixture
    def keys(self) -> SubjectKeys:
        """A store without keys."""
        raise NotImplementedError

    @pytest.fixture
    def again(self, keys: SubjectKeys) -> SubjectKeys:
        """The same store through another object."""
        raise NotImplementedError

    def test_a_subject_has_one_key_whoever_asks(
        self, keys: SubjectKeys, again: SubjectKeys
    ) -> None:
        first, second = made(keys, "4711", "4712")
        assert made(again, "4711", "4712") == [first, second]
        assert keys.of(persons("4711"), make=False) == [first]
        assert first.subject == Subject("person", "4711")
        assert len(first.secret) == 32
        assert 0 <= first.pseudonym < 2**63
        assert first.secret != second.secret
        assert first.pseudonym != second.pseudonym
        assert first.text == f"{first.pseudonym:016x}"

    def test_a_name_of_another_kind_is_somebody_else(self, keys: SubjectKeys) -> None:
        person, company = keys.of([Subject("person", "7"), Subject("company", "7")], make=True)
        assert person is not None
        assert company is not None
        assert person.secret != company.secret

    def test_no_key_is_made_unless_it_is_asked_for(self, keys: SubjectKeys) -> None:
        assert keys.of(persons("a", "b"), make=False) == [None, None]
        (key,) = made(keys, "b")
        assert keys.of(persons("a", "b", "a"), make=False) == [None, key, None]

    def test_thousands_are_answered_in_their_order_with_repeats(
        self, keys: SubjectKeys, again: SubjectKeys
    ) -> None:
        names = [*range(3000), *range(100)]
        found = made(keys, *names)
        assert [key.subject.name for key in found] == [str(name) for name in names]
        assert len({key.pseudonym for key in found}) == 3000
        assert again.of(persons(*names), make=False) == found
        pseudonyms = [key.pseudonym for key in found]
        assert again.by_pseudonym([*pseudonyms, 2**63 - 1]) == [*found, None]

    def test_a_destroyed_key_is_gone_for_everyone(
        self, keys: SubjectKeys, again: SubjectKeys
    ) -> None:
        key, other = made(keys, "gone", "stays")
        assert made(again, "gone", "stays") == [key, other]
        done = keys.destroy(key.subject)
        assert done is not None
        assert (done.pseudonym, done.sequence) == (key.pseudonym, 1)
        assert keys.of([key.subject], make=False) == [None]
        assert keys.by_pseudonym([key.pseudonym, other.pseudonym]) == [None, other]
        until = time.monotonic() + FORGOTTEN_SECONDS
        while again.by_pseudonym([key.pseudonym]) != [None] and time.monotonic() < until:
            time.sleep(0.02)
        assert again.by_pseudonym([key.pseudonym, other.pseudonym]) == [None, other]
        assert again.of([key.subject], make=False) == [None]

    def test_somebody_who_is_named_again_is_somebody_new(self, keys: SubjectKeys) -> None:
        (key,) = made(keys, "back")
        keys.destroy(key.subject)
        (new,) = made(keys, "back")
        assert new.pseudonym != key.pseudonym
        assert new.secret != key.secret
        assert keys.by_pseudonym([key.pseudonym]) == [None]

    def test_destructions_are_counted_and_told_without_names(
        self, keys: SubjectKeys, again: SubjectKeys
    ) -> None:
        found = made(keys, 1, 2, 3)
        for key in found:
            keys.destroy(key.subject)
        assert keys.destroy(found[0].subject) is None
        assert keys.destroy(Subject("person", "never")) is None
        told = again.destroyed()
        assert [(one.sequence, one.pseudonym) for one in told] == [
            (place + 1, key.pseudonym) for place, key in enumerate(found)
        ]
        assert again.destroyed(after=2) == told[2:]
        assert all(one.destroyed_at.tzinfo is not None for one in told)

    def test_those_who_make_a_key_at_once_get_the_same_one(
        self, keys: SubjectKeys, again: SubjectKeys
    ) -> None:
        def ask(store: SubjectKeys) -> Sequence[SubjectKey]:
            return made(store, *range(200))

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(ask, [keys, again, keys, again]))
        assert answers[1:] == answers[:-1]


__all__ = ["SubjectKeysSuite", "made", "persons"]
