"""Folders of the small world: one is filled, all others are copied from it.

A platform's folder may be moved while nobody has it open, so that a copy of one is a platform
of its own; it has the keys, the identities and the instants of the one that was filled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_FILLED, _KNOWN = "filled-world", "known.json"


def copied(folder: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Put a filled world into an empty folder; what ``fill`` told of it.

    What was filled stands beside the folder: pytest gives all tests of one process folders
    that stand beside each other, and removes them together.

    Args:
        folder: where the world is wanted.
        fill: fills an empty folder, closes all that it opened, and tells what is to be known of
            it, in values of JSON.
    """
    filled = folder.resolve().parent / _FILLED
    known = filled / _KNOWN
    if not known.exists():
        shutil.rmtree(filled, ignore_errors=True)  # a world whose filling has failed
        world = filled / "world"
        world.mkdir(parents=True)
        known.write_text(json.dumps(fill(world)), encoding="utf-8")
    shutil.copytree(filled / "world", folder, dirs_exist_ok=True)
    found: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
    return found
