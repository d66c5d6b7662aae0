"""Running Falaj's programs as a user would: the environment of a fresh process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import falaj


def program_environment(folder: Path) -> dict[str, str]:
    """Environment variables for a subprocess that runs ``falaj`` and ``python`` of this checkout.

    Args:
        folder: where credentials are kept, so that no test sees the user's own.

    Compiled modules are kept, whatever the caller's ``PYTHONDONTWRITEBYTECODE`` says: a
    command starts in half the time.
    """
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(falaj.__file__).parents[1]),
        "FALAJ_CREDENTIALS": str(folder / "credentials.json"),
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment
