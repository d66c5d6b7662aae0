"""A world is filled once for all folders that stand beside each other, and copied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from falaj.testing.asked import falaj_here
from falaj.testing.worldcopies import copied


class Filling:
    """Fills a folder with one file; fails as often as it was told."""

    def __init__(self, failures: int = 0) -> None:
        self.n, self._failures = 0, failures

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.n += 1
        (folder / f"attempt-{self.n}").touch()
        if self.n <= self._failures:
            raise RuntimeError("not now")
        (folder / "file").write_text("filled")
        return {"made": 3}


def test_a_world_is_filled_once_and_each_copy_is_a_folder_of_its_own(tmp_path: Path) -> None:
    fill = Filling()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert copied(tmp_path / name, fill) == {"made": 3}
        assert (tmp_path / name / "file").read_text() == "filled"
        (tmp_path / name / "file").write_text(name)
    assert fill.n == 1


def test_a_world_whose_filling_failed_is_filled_anew(tmp_path: Path) -> None:
    fill = Filling(failures=1)
    with pytest.raises(RuntimeError):
        copied(tmp_path / "one", fill)
    assert copied(tmp_path / "one", fill) == {"made": 3}
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["attempt-2", "file"]


def test_a_command_run_here_ends_and_tells_as_the_program_does(tmp_path: Path) -> None:
    done = falaj_here(tmp_path, "jobs", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert "There is no platform" in done.stderr
    assert falaj_here(tmp_path, "version").stdout.strip()
