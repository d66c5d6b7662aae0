"""Libraries of a trainer that stand in an extra of the package, imported when they are needed."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from falaj.training.frames import NotInstalled


def library(name: str, extra: str) -> Any:
    """The module of that name.

    Raises:
        NotInstalled: it is not there; names the extra that brings it.
    """
    if find_spec(name) is None:
        raise NotInstalled(
            f"The trainer needs {name}, which is not installed here.",
            hint=f"Install falaj[{extra}] where jobs are run.",
        )
    return importlib.import_module(name)
