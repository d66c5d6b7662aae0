"""A card's words, and how they are written: as Markdown, or as one page of HTML.

What comes from people (names, descriptions, reasons) stands in a card as text and becomes markup
nowhere: each form escapes all that it is given. The page is whole in itself: no script, no
picture, no address that a browser would load, and a policy that forbids all of them.
"""

from __future__ import annotations

import html
import re
import unicodedata
from dataclasses import dataclass

_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_MARKUP = str.maketrans(
    {"&": "&amp;", "<": "&lt;", "`": "'", "\\": "\\\\", "[": "\\[", "]": "\\]", "*": "\\*"}
)
_OPENING = re.compile(r"^([#>+\-=~|]|\d+(?=[.)]))")


@dataclass(frozen=True)
class Code:
    """A name, as it is written in code."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words that must not be overlooked."""

    text: str


Part = str | Code | Strong
Line = tuple[Part, ...]


@dataclass(frozen=True)
class Items:
    """Lines, one below the other."""

    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Grid:
    """A table: its heads, and rows of as many cells."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Part, ...], ...]


Block = Line | Items | Grid


@dataclass(frozen=True)
class Section:
    """A part of a card under its own heading; an empty heading for the first."""

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Written:
    """A whole card."""

    title: str
    sections: tuple[Section, ...]

    def markdown(self) -> str:
        """As CommonMark with tables."""
        parts = [f"# {_plain(self.title)}"]
        for section in self.sections:
            parts += [f"## {_plain(section.heading)}"] if section.heading else []
            parts += [_block(block) for block in section.blocks]
        return "\n\n".join(part for part in parts if part) + "\n"

    def page(self) -> str:
        """As one page of HTML that needs nothing else."""
        parts = []
        for section in self.sections:
            parts += [f"<h2>{_escaped(section.heading)}</h2>"] if section.heading else []
            parts += [_tag(block) for block in section.blocks]
        title = _escaped(self.title)
        return _PAGE.format(title=title, style=_STYLE, body="\n".join(parts))


def paragraphs(text: str) -> list[Line]:
    """A text's paragraphs, each on one line, so that no line of it opens something new."""
    found = re.split(r"\n\s*\n", text.strip())
    return [(" ".join(one.split()),) for one in found if one.strip()]


def _tamed(text: str) -> str:
    """On one line, without letters that command a terminal or turn the reading direction."""
    return " ".join(
        "".join(
            "\ufffd" if one in _OVERRIDES or unicodedata.category(one) == "Cc" else one
            for one in text.replace("\n", " ").replace("\t", " ")
        ).split()
    )


def _plain(text: str) -> str:
    return _tamed(text).translate(_MARKUP)


def _marked(part: Part) -> str:
    if isinstance(part, Code):
        # In a span of code nothing is markup but its own fence and a table's bar.
        return f"`{_tamed(part.text).replace('`', chr(39))}`"
    return f"**{_plain(part.text)}**" if isinstance(part, Strong) else _plain(part)


def _line(line: Line) -> str:
    text = "".join(_with_spaces(part) for part in line).strip()
    first = line[0] if line else ""
    if not isinstance(first, str):
        return text
    return _OPENING.sub(lambda m: m[1] + "\\" if m[1].isdigit() else "\\" + m[1], text)


def _with_spaces(part: Part) -> str:
    """A part of a line, with the blanks at its ends, which taming would take."""
    if not isinstance(part, str):
        return _marked(part)
    head = " " if part[:1].isspace() else ""
    tail = " " if part[-1:].isspace() else ""
    return f"{head}{_marked(part)}{tail}"


def _cell(part: Part) -> str:
    return _marked(part).replace("|", "\\|")


def _block(block: Block) -> str:
    if isinstance(block, Grid):
        rows = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in block.rows]
        heads = f"| {' | '.join(_cell(head) for head in block.heads)} |"
        return "\n".join([heads, "|" + "---|" * len(block.heads), *rows])
    if isinstance(block, Items):
        return "\n".join(f"- {_line(line)}" for line in block.lines)
    return _line(block)


def _escaped(text: str) -> str:
    return html.escape(_tamed(text))


def _inline(part: Part) -> str:
    if isinstance(part, Code):
        return f"<code>{_escaped(part.text)}</code>"
    if isinstance(part, Strong):
        return f"<strong>{_escaped(part.text)}</strong>"
    head = " " if part[:1].isspace() else ""
    tail = " " if part[-1:].isspace() else ""
    return f"{head}{_escaped(part)}{tail}"


def _tag(block: Block) -> str:
    if isinstance(block, Grid):
        heads = "".join(f'<th scope="col">{_escaped(head)}</th>' for head in block.heads)
        rows = "\n".join(
            "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in row) + "</tr>"
            for row in block.rows
        )
        return (
            f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n'
            f"<tbody>\n{rows}\n</tbody>\n</table></div>"
        )
    if isinstance(block, Items):
        lines = ("".join(_inline(part) for part in line) for line in block.lines)
        return "<ul>\n" + "\n".join(f"<li>{line}</li>" for line in lines) + "\n</ul>"
    return f"<p>{''.join(_inline(part) for part in block)}</p>"


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b1b1b;background:#fff}h1,h2{line-height:1.2}h2{margin-top:2rem}"
    "table{border-collapse:collapse}th,td{border:1px solid #767676;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}th{background:#eee}.wide{overflow-x:auto}"
    "code{background:#eee;padding:0 .2rem}"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""

__all__ = ["Code", "Grid", "Items", "Line", "Part", "Section", "Strong", "Written", "paragraphs"]
