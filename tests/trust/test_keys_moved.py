"""Wrapping keys that move from a keyring to another key service, with everything in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Conflict
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.keys_moved import MovedKeys, WrapsFor
from falaj.trust.ports import WRAPPING, KeyState, UnknownKey
from falaj.trust.rotation import active_version, discardable, standing


def keyring(folder: Path, name: str) -> FileKeyring:
    seal = MachineSeal.create(folder / f"{name}.secret")
    return FileKeyring.create(folder / f"{name}.json", seal, clock=SystemClock())


class Items:
    """A store of data keys in memory; ends like a killed process after some of them."""

    name = "items"

    def __init__(self, keys: Any, n: int) -> None:
        self.keys = keys
        self.plain = {f"item-{at:02}": os.urandom(32) for at in range(n)}
        self.kept = {name: keys.wrap(key, context=name) for name, key in self.plain.items()}
        self.left = n

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        for name in sorted(self.kept):
            if name > after:
                yield name, self.kept[name].key_id

    def rewrap(self, item: str) -> bool:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        key = self.keys.unwrap(self.kept[item], context=item)
        self.kept[item] = self.keys.wrap(key, context=item)
        return True

    def readable(self) -> bool:
        return all(
            self.keys.unwrap(self.kept[name], context=name) == key
            for name, key in self.plain.items()
        )


@pytest.fixture
def before(tmp_path: Path) -> FileKeyring:
    made = keyring(tmp_path, "before")
    made.rotate(WRAPPING)
    return made


@pytest.fixture
def moved(tmp_path: Path, before: FileKeyring) -> MovedKeys:
    return MovedKeys(WrapsFor(keyring(tmp_path, "after")), before)


def test_what_was_wrapped_before_is_unwrapped_and_what_is_wrapped_now_is_elsewhere(
    before: FileKeyring, moved: MovedKeys
) -> None:
    old = before.wrap(b"k" * 32, context="a")
    assert moved.unwrap(old, context="a") == b"k" * 32
    new = moved.wrap(b"k" * 32, context="a")
    assert moved.unwrap(new, context="a") == b"k" * 32
    with pytest.raises(UnknownKey):
        before.unwrap(new, context="a")


def test_signatures_and_derived_secrets_stay_what_they_were(
    before: FileKeyring, moved: MovedKeys
) -> None:
    signature = before.sign("audit", b"head")
    secret = before.derive("online")
    moved.verify("audit", b"head", signature)
    assert moved.derive("online") == secret
    assert moved.public_keys("audit") == before.public_keys("audit")
    made = moved.rotate("audit")
    assert moved.sign("audit", b"x").key_id == made.id == before.sign("audit", b"x").key_id


def test_the_versions_of_before_are_retired_and_older_than_those_of_now(
    before: FileKeyring, moved: MovedKeys
) -> None:
    told = [one for one in moved.versions() if one.purpose == WRAPPING]
    assert [(one.version, one.state) for one in told] == [
        (-1, KeyState.RETIRED), (0, KeyState.RETIRED), (1, KeyState.ACTIVE)
    ]  # fmt: skip
    assert active_version(moved).id == told[-1].id
    for one in told[:-1]:
        assert discardable(moved, one.id) >= before.versions()[0].created_at


def test_a_move_that_is_killed_in_the_middle_leaves_everything_readable_and_goes_on(
    before: FileKeyring, moved: MovedKeys, tmp_path: Path
) -> None:
    items = Items(before, 20)
    items.keys = moved
    items.left = 7
    with pytest.raises(KeyboardInterrupt):
        for name, _ in list(items.items()):
            items.rewrap(name)
    active = active_version(moved).id
    assert standing([items])[active] == 7
    assert items.readable()
    again = Items(moved, 0)
    again.plain, again.kept = items.plain, items.kept
    again.left = 20
    for name, key_id in list(again.items()):
        if key_id != active:
            again.rewrap(name)
    assert standing([again]) == {active: 20}
    assert again.readable()


def test_a_version_of_before_is_destroyed_like_any_other(
    before: FileKeyring, moved: MovedKeys
) -> None:
    old = before.wrap(b"k" * 32, context="a")
    for one in [one for one in moved.versions() if one.state is KeyState.RETIRED]:
        moved.discard(one.id)
    with pytest.raises(UnknownKey):
        moved.unwrap(old, context="a")
    assert old.key_id not in {one.id for one in before.versions()}
    with pytest.raises(Conflict):
        moved.discard(active_version(moved).id)
    assert moved.unwrap(moved.wrap(b"k" * 32, context="a"), context="a") == b"k" * 32
