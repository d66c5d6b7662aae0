"""Sealed page tokens: they come back as they were, and tell nothing on the way."""

import os

import pytest

from falaj.kernel.errors import InvalidInput
from falaj.training.tracking.pageseal import PageSeal

KEY = os.urandom(32)
SEAL = PageSeal(lambda: KEY)


def test_a_token_comes_back_in_any_process_that_has_the_key():
    for text in ("W10=", "x" * 2_000):
        assert PageSeal(lambda: KEY).open(SEAL.close(text)) == text
    assert SEAL.close(None) is SEAL.open(None) is SEAL.open("") is None


def test_no_length_tells_how_large_a_place_is():
    assert len(SEAL.close("x" * 90)) == len(SEAL.close("x" * 99))
    assert SEAL.close("x") != SEAL.close("x")


@pytest.mark.parametrize("token", ["x", "W10=", "é", "\ud800", "A" * 400, "A" * 20_000])
def test_what_was_not_sealed_here_is_refused(token):
    with pytest.raises(InvalidInput, match="page token"):
        SEAL.open(token)


def test_a_token_that_was_changed_or_is_of_another_platform_is_refused():
    token = SEAL.close("W10=")
    changed = token[:40] + ("A" if token[40] != "A" else "B") + token[41:]
    for one in (changed, token[:-4], PageSeal(lambda: bytes(32)).close("W10=")):
        with pytest.raises(InvalidInput, match="page token"):
            SEAL.open(one)
