"""Names and messages of others that try to command the reader's terminal."""

from __future__ import annotations

import io

from rich.console import Console

from falaj.interfaces.printing import show, show_error
from falaj.kernel.errors import NotFound

HOSTILE = "evil\x1b]0;owned\x07\x1b[2J\x9b2J\u202etxt.exe[bold]"


def printed(tell: object, *, error: bool = False) -> str:
    console = Console(file=io.StringIO(), width=400, force_terminal=True, color_system=None)
    if error:
        show_error(console, NotFound(HOSTILE, hint=HOSTILE))
    else:
        show(console, tell, as_json=False)
    return console.file.getvalue()


def test_what_others_wrote_does_not_command_the_terminal() -> None:
    told = [printed(HOSTILE), printed({"name": HOSTILE}), printed([{"name": HOSTILE}])]
    told += [printed([HOSTILE]), printed(None, error=True), printed({"a": {"b": HOSTILE}})]
    for text in told:
        assert "evil" in text
        assert "[bold]" in text
        for command in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e"):
            assert command not in text


def test_arabic_text_stays_as_it_is() -> None:
    assert "مرحبا بكم" in printed({"name": "مرحبا بكم"})
