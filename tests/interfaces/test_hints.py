"""Commands that errors and texts name must be commands that there are."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from falaj.interfaces.cli import SERVICES, app

PACKAGE = Path(__file__).parents[2] / "src" / "falaj"
NAMED = re.compile(r"`falaj ((?:--json |--[a-z]+ [^\s`]+ )*)([a-z-]+)(?: ([a-z-]+))?")


def named():
    """(file, command, word after it) of each command line in backticks."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for _, first, second in NAMED.findall(file.read_text(encoding="utf-8")):
            if not first.startswith("-"):
                yield str(file.relative_to(PACKAGE)), first, second


@pytest.fixture(scope="module")
def root():
    return get_command(app)


def test_every_command_that_a_text_names_exists(root):
    wrong = []
    for file, first, second in named():
        group = root.get_command(None, first)
        if group is None or (
            first in SERVICES and second and group.get_command(None, second) is None
        ):
            wrong.append(f"{file}: falaj {first} {second}".rstrip())
    assert not wrong


def test_the_texts_name_commands_at_all():
    assert len(list(named())) > 50
