"""Commands of `falaj`, run in this process: one of its own would import everything anew."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from falaj.kernel.actions import Action


def falaj_here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``falaj --folder FOLDER`` with these arguments tells, and how it ends.

    The same main function runs as in the program; what ends it is told as an exit code.
    """
    from falaj.interfaces.cli import main

    told, wrong, code = io.StringIO(), io.StringIO(), 0
    words = ["falaj", "--folder", str(folder), *arguments]
    with (
        mock.patch.object(sys, "argv", words),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(wrong),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return subprocess.CompletedProcess(words, code, told.getvalue(), wrong.getvalue())


@cache
def command_line() -> Callable[..., Any]:
    """The command `falaj`, made once: a test asks it hundreds of times."""
    from typer.main import get_command

    from falaj.interfaces.cli import app

    return get_command(app)


def command_words(action: Action, arguments: Mapping[str, Any]) -> list[str]:
    """The words of the command line that stand for these arguments."""
    from falaj.interfaces.texts import jsonable, to_text

    positional, options = [], []
    for name in action.signature.parameters:
        if name not in arguments:
            continue
        text = to_text(action, name, jsonable(arguments[name]))
        if name in action.path_arguments:
            positional.append(text)
        else:
            options += ["--" + name.replace("_", "-"), text]
    return [*options, *positional]
