"""What a run of somebody's own code ran: its file, its commit, and what it had imported."""

from __future__ import annotations

import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from types import FrameType

from falaj.training.environment import code_version, environment
from falaj.training.model import CodeVersion, Environment

_OURS = str(Path(__file__).resolve().parents[1])


def own_environment() -> Environment:
    """Python, the machine, and the versions of what this process has imported so far.

    A package is found if it is imported by the name under which it is installed, or if it is
    among those that every run records.
    """
    known = environment()
    tops = {name.partition(".")[0] for name in list(sys.modules)}
    found = {
        name: version
        for name in sorted(tops - set(sys.stdlib_module_names) - set(known.packages))
        if not name.startswith("_") and (version := _version(name)) is not None
    }
    return known.model_copy(update={"packages": {**known.packages, **found}})


def calling_code() -> CodeVersion | None:
    """The file outside of this package that calls: its content, and its commit if any.

    None where the code stands in no file: in a shell, or in a notebook's cell.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is None or not Path(frame.f_code.co_filename).is_file():
        return None
    entry = f"{frame.f_globals.get('__name__', '?')}:{frame.f_code.co_qualname}"
    return code_version(frame.f_code).model_copy(update={"entry": entry})


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, ValueError):
        return None
