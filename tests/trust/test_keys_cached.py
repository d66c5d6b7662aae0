"""What was unwrapped is remembered: bounded in number and in time."""

from datetime import UTC, datetime

import pytest

from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Corrupt
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.keys_cached import CachedKeys
from falaj.trust.ports import WRAPPING, UnknownKey


class Counted:
    """A key service that counts what it is asked."""

    def __init__(self, keys):
        self._keys = keys
        self.asked = []

    def __getattr__(self, name):
        def call(*given, **more):
            self.asked.append(name)
            return getattr(self._keys, name)(*given, **more)

        return call


@pytest.fixture
def keyring(tmp_path):
    clock = SetClock(datetime(2026, 11, 30, tzinfo=UTC))
    return FileKeyring.create(
        tmp_path / "keys.json", MachineSeal.create(tmp_path / "secret"), clock=clock
    )


@pytest.fixture
def counted(keyring):
    return Counted(keyring)


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def keys(counted, now):
    return CachedKeys(counted, seconds=60, most=3, now=lambda: now[0])


def test_a_data_key_is_asked_for_once_and_again_after_its_time(keys, counted, now):
    wrapped = keys.wrap(bytes(32), context="c")
    for at in (0.0, 30.0, 59.0, 61.0, 62.0):
        now[0] = at
        assert keys.unwrap(wrapped, context="c") == bytes(32)
    assert counted.asked.count("unwrap") == 2


def test_what_is_remembered_opens_under_its_own_context_only(keys):
    wrapped = keys.wrap(bytes(32), context="c")
    keys.unwrap(wrapped, context="c")
    with pytest.raises(Corrupt):
        keys.unwrap(wrapped, context="d")


def test_no_more_is_kept_than_asked_for_and_the_least_used_goes(keys, counted):
    wrapped = [keys.wrap(bytes(32), context=str(number)) for number in range(4)]
    for number in (0, 1, 2, 0, 3):
        keys.unwrap(wrapped[number], context=str(number))
    counted.asked.clear()
    keys.unwrap(wrapped[0], context="0")
    assert counted.asked == []
    keys.unwrap(wrapped[1], context="1")
    assert counted.asked == ["unwrap"]
    assert len(keys._kept) == 3


def test_a_failure_is_never_remembered(keys, counted):
    for _ in range(2):
        with pytest.raises(UnknownKey):
            keys.unwrap(type(keys.wrap(bytes(32), context="c"))("other", b"x"), context="c")
    assert counted.asked.count("unwrap") == 2


def test_a_destroyed_version_opens_nothing_here_from_that_moment_on(keys):
    wrapped = keys.wrap(bytes(32), context="c")
    keys.unwrap(wrapped, context="c")
    keys.rotate(WRAPPING)
    keys.discard(wrapped.key_id)
    with pytest.raises(UnknownKey):
        keys.unwrap(wrapped, context="c")


def test_zero_seconds_keep_nothing(counted):
    keys = CachedKeys(counted, seconds=0, most=3)
    wrapped = keys.wrap(bytes(32), context="c")
    for _ in range(2):
        keys.unwrap(wrapped, context="c")
    assert counted.asked.count("unwrap") == 2
    assert "kept" in repr(keys)
    assert bytes(32) not in keys._kept.values()


def test_derived_secrets_are_asked_for_once(keys, counted):
    assert keys.derive("cookies") == keys.derive("cookies")
    assert len(keys.derive("cookies", 64)) == 64
    assert counted.asked.count("derive") == 2
