"""Folders of rings whose platform was removed are removed as well, and no others."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from falaj.serving import rings
from falaj.serving.leftrings import KEPT_SECONDS, remove_left_folders
from falaj.serving.rings import Ring, Rings, ring_folder

CAPACITY = 1 << 16


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], tuple[Path, Path]]:
    """Makes a platform's home and its folder of rings."""
    memory = tmp_path / "memory"
    memory.mkdir()
    monkeypatch.setattr(rings, "MEMORY", memory)

    def one(name: str) -> tuple[Path, Path]:
        home = tmp_path / name
        home.mkdir()
        return home, ring_folder(home)

    return one


Made = Callable[[str], tuple[Path, Path]]


def test_a_folder_says_whose_it_is_to_its_owner_alone(made: Made) -> None:
    home, folder = made("one")
    assert (folder / "home").read_text() == str(home.resolve())
    assert (folder / "home").stat().st_mode & 0o777 == 0o600


def test_the_folder_of_a_platform_that_is_gone_is_removed(made: Made) -> None:
    home, folder = made("one")
    other = made("other")[1]
    ring = Ring(folder, CAPACITY)
    ring.close()
    Rings(folder).close()
    assert remove_left_folders() == 0
    home.rmdir()
    assert remove_left_folders() == 1
    assert not folder.exists()
    assert other.exists()


def test_a_folder_that_somebody_reads_or_writes_stays(made: Made) -> None:
    home, folder = made("one")
    home.rmdir()
    ring = Ring(folder, CAPACITY)
    assert remove_left_folders() == 0
    ring.close()
    reader = Rings(folder)
    assert remove_left_folders() == 0
    reader.close()
    assert remove_left_folders() == 1


def test_rows_that_wait_are_kept_for_a_day_in_case_the_home_comes_back(made: Made) -> None:
    home, folder = made("one")
    ring = Ring(folder, CAPACITY)
    ring.put(b"rows", 3)
    ring.close()
    home.rmdir()
    now = folder.stat().st_mtime
    assert remove_left_folders(now) == 0
    assert remove_left_folders(now + KEPT_SECONDS - 10) == 0
    home.mkdir()
    ring_folder(home)  # it was only away: the day begins anew
    home.rmdir()
    later = now + KEPT_SECONDS + 10
    assert remove_left_folders(later) == 0
    assert remove_left_folders(later + KEPT_SECONDS + 10) == 1


def test_what_is_not_known_to_be_ours_stays(made: Made, tmp_path: Path) -> None:
    home, folder = made("one")
    home.rmdir()
    named_wrongly = folder.with_name(f"falaj-{os.getuid()}-0123456789abcdef")
    shutil.copytree(folder, named_wrongly)
    silent = folder.with_name(f"falaj-{os.getuid()}-fedcba9876543210")
    silent.mkdir(mode=0o700)
    linked = folder.with_name(f"falaj-{os.getuid()}-aaaaaaaaaaaaaaaa")
    linked.symlink_to(tmp_path)
    folder.chmod(0o755)
    assert remove_left_folders() == 0
    folder.chmod(0o700)
    assert remove_left_folders() == 1
    assert named_wrongly.exists()
    assert silent.exists()
    assert linked.is_symlink()
