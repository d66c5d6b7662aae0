"""What the pages of security claim is shown by a test that exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "security").glob("*.md"))
_CITED = re.compile(r"`((?:[\w/]+/)?test_\w+\.py)(?:::(test_\w+))?`")


def cited() -> set[tuple[str, str]]:
    """Each file and test that the pages cite; an empty test stands for all of a file."""
    found = set()
    for page in PAGES:
        found |= set(_CITED.findall(page.read_text(encoding="utf-8")))
    return found


@cache
def names_in(file: Path) -> frozenset[str]:
    """The names of a file's test functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def missing(path: str, name: str) -> str | None:
    """What is missing of a citation, or None."""
    file = ROOT / path if "/" in path else ROOT / "tests" / "attacks" / path
    if not file.exists():
        return f"there is no {path}"
    if name and name not in names_in(file):
        return f"{path} has no {name}"
    return None


def test_each_test_that_the_pages_cite_exists() -> None:
    assert len(cited()) > 60
    assert [told for told in (missing(*one) for one in sorted(cited())) if told] == []


@pytest.mark.parametrize(
    "one", [("test_nothing.py", ""), ("test_files.py", "test_nothing"), ("tests/test_no.py", "")]
)
def test_a_citation_of_nothing_is_found(one: tuple[str, str]) -> None:
    assert missing(*one) is not None


def test_each_file_of_attacks_is_cited() -> None:
    files = {file.name for file in (ROOT / "tests" / "attacks").glob("test_*.py")}
    told = {path for path, _ in cited() if "/" not in path}
    assert sorted(files - told) == []
