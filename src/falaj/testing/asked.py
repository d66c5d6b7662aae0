"""Actions asked by command, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from falaj.kernel.actions import Action


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
