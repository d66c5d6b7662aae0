"""Paths of artifacts: which may be, and which owner a path of MLflow's names."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from falaj.kernel.errors import InvalidInput

LONGEST_PATH = 500
_LONGEST_PART_BYTES = 255
_DRIVE = re.compile(r"^[A-Za-z]:")
_ROUNDS = 5


def artifact_path(text: str, *, empty: bool = False) -> str:
    """The path itself, if an artifact may have it: parts joined by ``/``.

    Whatever some program might take for another place is refused: an absolute path, a drive,
    ``.`` and ``..``, a backslash, control characters; also as percent codes, once or many
    times over.

    Args:
        empty: True if ``""`` is good, which names the whole folder.

    Raises:
        InvalidInput: says what is wrong.
    """
    if text == "" and empty:
        return text
    if len(text) > LONGEST_PATH:
        raise _unfit(text, f"it is longer than {LONGEST_PATH} characters")
    spelled = text
    for _ in range(_ROUNDS):
        _check(text, spelled)
        plain = unquote(spelled, errors="replace")
        if plain == spelled:
            return text
        spelled = plain
    raise _unfit(text, "it is percent-encoded many times over")


def _check(text: str, spelled: str) -> None:
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in spelled):
        raise _unfit(text, "it holds a control character")
    if "\\" in spelled:
        raise _unfit(text, "it holds a backslash")
    if spelled.startswith("/") or _DRIVE.match(spelled):
        raise _unfit(text, "it is absolute")
    for part in spelled.split("/"):
        if part in ("", ".", ".."):
            raise _unfit(text, f"it has the part {part!r}")
        if unicodedata.normalize("NFKC", part) in (".", "..") or part != part.strip():
            raise _unfit(text, f"the part {part!r} would be read as another one")
        if len(part.encode()) > _LONGEST_PART_BYTES:
            raise _unfit(text, f"it has a part of more than {_LONGEST_PART_BYTES} bytes")


def _unfit(text: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{text[:100]!r} cannot be the path of an artifact: {why}.",
        hint="Use names joined by '/', relative to the run or model.",
    )
