"""Space kept for records: actions stop before the disk is full."""

from __future__ import annotations

from pathlib import Path

import pytest

from falaj.kernel.errors import LimitExceeded
from falaj.kernel.space import STILL_DONE, Space
from falaj.wiring.services import service_classes


def test_an_action_goes_on_while_there_is_room(tmp_path: Path) -> None:
    Space(tmp_path, 1).demand("runs.start")


def test_an_action_stops_when_only_what_is_kept_is_left(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="nothing was done"):
        Space(tmp_path, 2**62).demand("runs.start")


def test_what_makes_harm_less_is_still_done(tmp_path: Path) -> None:
    Space(tmp_path, 2**62).demand("accounts.revoke_sessions")


def test_what_makes_harm_less_are_actions_that_there_are() -> None:
    actions = {one.name for kind in service_classes().values() for one in kind.actions()}
    assert actions >= STILL_DONE


def test_the_disk_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = [0.0], []
    real = __import__("os").statvfs
    monkeypatch.setattr(
        "falaj.kernel.space.os.statvfs", lambda path: (looks.append(path), real(path))[1]
    )
    space = Space(tmp_path, 1, ticks=lambda: now[0])
    for _ in range(100):
        space.demand("runs.start")
    assert len(looks) == 1
    now[0] = 0.6
    space.demand("runs.start")
    assert len(looks) == 2
