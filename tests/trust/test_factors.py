"""Codes, recovery codes and one-time secrets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falaj.kernel.errors import Corrupt
from falaj.trust.factors import (
    Factors,
    new_recovery_codes,
    new_secret,
    recovery_hash,
    secret_hash,
)

SECRET = pyotp.random_base32()
TOTP = pyotp.TOTP(SECRET)


@pytest.fixture(scope="module")
def factors(keys) -> Factors:
    return Factors(keys)


@given(
    at=st.integers(1_767_225_600, 2_208_988_800).map(lambda at: datetime.fromtimestamp(at, UTC)),
    offset=st.integers(-4, 4),
)
def test_a_code_is_right_in_its_step_and_its_two_neighbours(factors, at, offset):
    code = TOTP.at(at, counter_offset=offset)
    step = factors.step_of(SECRET, code, now=at, last_step=0)
    present = int(at.timestamp()) // 30
    if abs(offset) <= 1:
        assert step is not None and abs(step - present) <= 1
    elif step is not None:  # one chance in 333,000 that two steps share a code
        assert TOTP.generate_otp(step) == code


@given(last=st.integers(-3, 3))
def test_no_step_is_accepted_that_is_not_later_than_the_last(factors, last):
    at = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
    present = int(at.timestamp()) // 30
    for offset in (-1, 0, 1):
        code = TOTP.at(at, counter_offset=offset)
        step = factors.step_of(SECRET, code, now=at, last_step=present + last)
        assert (step is not None) is (offset > last)


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "１２３４５６", "12 34"])
def test_what_is_not_six_digits_is_no_code(factors, code):
    assert factors.step_of(SECRET, code, now=datetime.now(UTC), last_step=0) is None


def test_blanks_in_a_code_do_not_matter(factors):
    at = datetime(2026, 11, 23, 8, 0, tzinfo=UTC) + timedelta(seconds=12)
    code = TOTP.at(at)
    assert factors.step_of(SECRET, f" {code[:3]} {code[3:]} ", now=at, last_step=0) is not None


def test_a_sealed_secret_opens_for_its_account_only(factors):
    sealed = factors.seal(SECRET, "user_1")
    assert SECRET.encode() not in sealed
    assert factors.open(sealed, "user_1") == SECRET
    with pytest.raises(Corrupt):
        factors.open(sealed, "user_2")
    with pytest.raises(Corrupt):
        factors.open(sealed[:-1] + bytes([sealed[-1] ^ 1]), "user_1")


def test_recovery_codes_differ_and_are_hashed_for_their_account():
    codes = new_recovery_codes()
    assert len(set(codes)) == 10
    assert all(len(code) == 19 and code.count("-") == 3 for code in codes)
    assert recovery_hash(codes[0], "user_1") != recovery_hash(codes[0], "user_2")
    assert recovery_hash(codes[0].upper(), "user_1") == recovery_hash(codes[0], "user_1")


def test_one_time_secrets_say_what_they_are_and_hold_256_bits():
    secret = new_secret("sk")
    assert secret.startswith("falaj_sk_")
    assert len(secret) - len("falaj_sk_") == 43
    assert len({new_secret("sk") for _ in range(100)}) == 100
    assert len(secret_hash(secret)) == 64
