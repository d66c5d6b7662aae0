"""The keys of data subjects as one process uses them."""

import pytest

from falaj.kernel.errors import Corrupt, Unavailable
from falaj.testing.subjectkeys import MemorySubjectKeys
from falaj.trust.subjectciphers import SubjectCiphers
from falaj.trust.subjects import Subject

AMINA, OMAR = Subject("person", "amina"), Subject("person", "omar")


class Seconds:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def keys():
    return MemorySubjectKeys()


@pytest.fixture
def seconds():
    return Seconds()


def ciphers_of(keys, seconds, **values):
    return SubjectCiphers(keys, b"test", now=seconds, **values)


def test_what_is_sealed_opens_again_only_with_the_same_key_purpose_and_context(keys, seconds):
    amina, omar = ciphers_of(keys, seconds).of([AMINA, OMAR], make=True)
    sealed = amina.seal(b"four thousand", b"row 1")
    assert amina.open(sealed, b"row 1") == b"four thousand"
    (elsewhere,) = SubjectCiphers(keys, b"other", now=seconds).of([AMINA], make=False)
    for cipher, about in ((amina, b"row 2"), (omar, b"row 1"), (elsewhere, b"row 1")):
        with pytest.raises(Corrupt):
            cipher.open(sealed, about)
    assert len({amina.name(b"x"), omar.name(b"x"), elsewhere.name(b"x"), amina.name(b"y")}) == 4


def test_keys_in_use_are_asked_for_once_by_name_and_by_pseudonym(keys, seconds):
    ciphers = ciphers_of(keys, seconds)
    (amina,) = ciphers.of([AMINA], make=True)
    asked = keys.n_asked
    assert ciphers.of([AMINA, AMINA], make=False) == [amina, amina]
    assert ciphers.by_pseudonym([amina.pseudonym]) == [amina]
    assert ciphers.one(AMINA) is amina
    assert keys.n_asked == asked


def test_a_destruction_is_known_as_soon_as_destructions_are_asked_for(keys, seconds):
    ciphers = ciphers_of(keys, seconds)
    amina, omar = ciphers.of([AMINA, OMAR], make=True)
    keys.destroy(AMINA)
    assert ciphers.one(AMINA) is amina
    seconds.now = 0.3
    assert ciphers.erasures() == 1
    assert ciphers.of([AMINA, OMAR], make=False) == [None, omar]
    assert ciphers.by_pseudonym([amina.pseudonym]) == [None]


def test_that_there_is_no_key_is_not_remembered(keys, seconds):
    ciphers = ciphers_of(keys, seconds)
    assert ciphers.one(AMINA) is None
    keys.of([AMINA], make=True)
    assert ciphers.one(AMINA) is not None


def test_few_are_kept_and_those_not_met_for_longest_are_let_go(keys, seconds):
    ciphers = ciphers_of(keys, seconds, most=10)
    people = [Subject("person", str(i)) for i in range(100)]
    ciphers.of(people, make=True)
    asked = keys.n_asked
    assert ciphers.one(people[-1]) is not None
    assert keys.n_asked == asked
    assert ciphers.one(people[0]) is not None
    assert keys.n_asked == asked + 1
    assert len(ciphers._young) + len(ciphers._old) <= 40


class LateKeys(MemorySubjectKeys):
    """Keys that somebody remembers a while after they were destroyed."""

    def destroy(self, subject):
        (kept,) = super().of([subject], make=False)
        done = super().destroy(subject)
        self._keys[subject] = kept
        return done


def test_a_key_that_a_store_still_gives_after_its_destruction_is_not_believed(seconds):
    keys = LateKeys()
    ciphers = ciphers_of(keys, seconds)
    ciphers.of([AMINA], make=True)
    keys.destroy(AMINA)
    seconds.now = 0.5
    assert ciphers.of([AMINA], make=False) == [None]


def test_nothing_is_answered_while_destructions_cannot_be_asked_for(keys, seconds, monkeypatch):
    ciphers = ciphers_of(keys, seconds)
    ciphers.of([AMINA], make=True)

    def fail(*, after=0):
        raise Unavailable("The keys cannot be read.")

    monkeypatch.setattr(keys, "destroyed", fail)
    seconds.now = 0.5
    with pytest.raises(Unavailable):
        ciphers.one(AMINA)
