"""Each command that a page names is a command, with the options that it is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from falaj.interfaces.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_NAMED = re.compile(r"(?:`|\$\(|^)falaj ((?:[^`\n)\\]|\\\n)+)", re.MULTILINE)
_TAKES_NO_VALUE = {"--json"}


def wrong(told: str) -> str | None:
    """What is wrong with a command line, or None."""
    group = get_command(app)
    words = told.replace("\\\n", " ").split()
    known = {option for parameter in group.params for option in parameter.opts}
    while words and words[0].startswith("--"):
        option = words.pop(0)
        if option not in known:
            return f"there is no option {option}"
        if option not in _TAKES_NO_VALUE and words:
            words.pop(0)
    if not words or words[0] in ("…", "COMMAND"):
        return None
    command = group.get_command(None, words[0])
    if command is None:
        return f"there is no command {words[0]}"
    if hasattr(command, "get_command"):
        if len(words) == 1:
            return None
        command = command.get_command(None, words[1])
        if command is None:
            return f"there is no command {words[0]} {words[1]}"
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    strange = [w for w in words if re.match(r"--[a-z]", w) and w not in known | {"--help"}]
    return f"{words[:2]} has no {strange}" if strange else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_is_one(page: Path) -> None:
    for told in _NAMED.findall(page.read_text(encoding="utf-8")):
        assert wrong(told) is None, f"{page.name}: falaj {told}: {wrong(told)}"


@pytest.mark.parametrize(
    "told", ["modles list", "models lst", "models gates x 1 --fast", "--hurry plan", "init --now"]
)
def test_a_command_that_is_none_is_found(told: str) -> None:
    assert wrong(told) is not None
