"""Reading the documentation as a program: its code blocks, their markers, what is stated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comment that stands right above it."""

    language: str
    text: str
    line: int
    mark: str = ""
    value: str = ""


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        mark, _, value = (match["marker"] or "").partition(":")
        line = text.count("\n", 0, match.start("language")) + 1
        found.append(Block(match["language"], match["text"], line, mark.strip(), value.strip()))
    return found


def squeezed(text: str) -> str:
    """A text with each run of blanks as one, so that widths of tables do not matter."""
    return " ".join(text.split())
