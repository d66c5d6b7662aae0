"""Which passwords are accepted, and how they are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.trust.passwords import Passwords, check_strength

CHEAP = Passwords(time_cost=1, memory_kib=64, lanes=1)


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short1!", "shorter"),
        ("x" * 300, "longer"),
        ("aaaaaaaaabbbbbbb", "fewer than six"),
        ("Password1234!", "common word"),
        ("P@ssw0rd!2026", "common word"),
        ("Summer2026!!!!", "common word"),
        ("falajfalaj2026", "common word"),
        ("abcdefghijklm", "sequence"),
        ("qwertyuiopas", "sequence"),
        ("lkjhgfdsapoiu", "sequence"),
        ("amina.hassan1", "account's name"),
        ("729 184 650 33", "no letters"),
    ],
)
def test_what_a_guesser_tries_first_is_refused(password, why):
    with pytest.raises(InvalidInput, match=why):
        check_strength(password, name="amina.hassan")


@pytest.mark.parametrize(
    "password",
    ["seven camels cross the wadi", "tr7-Vq!m2Lx.9", "سبعة جمال في الوادي", "kJ8vQz2mWp4t"],
)
def test_four_words_or_random_characters_are_accepted(password):
    check_strength(password, name="amina")


@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_only_the_hashed_password_fits(password, other):
    hashed = CHEAP.hash(password)
    assert CHEAP.fits(hashed, password)
    from unicodedata import normalize

    if normalize("NFKC", other) != normalize("NFKC", password):
        assert not CHEAP.fits(hashed, other)


def test_the_same_letters_typed_on_another_keyboard_fit():
    assert CHEAP.fits(CHEAP.hash("caf\u00e9 au lait"), "cafe\u0301 au lait")


def test_without_a_hash_nothing_fits():
    assert not CHEAP.fits(None, "nobody has this password")


def test_a_hash_that_is_none_is_reported_as_tampering():
    with pytest.raises(Corrupt):
        CHEAP.fits("plain text", "plain text")


def test_hashes_of_weaker_parameters_are_outdated():
    stronger = Passwords(time_cost=2, memory_kib=64, lanes=1)
    assert stronger.outdated(CHEAP.hash("x"))
    assert not CHEAP.outdated(CHEAP.hash("x"))


def test_the_default_is_argon2id_over_64_mib():
    assert Passwords().hash("x").startswith("$argon2id$v=19$m=65536,t=3,p=4$")
