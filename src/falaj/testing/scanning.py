"""Looking for bytes that must not be there: through every file below a folder."""

from __future__ import annotations

import base64
import binascii
import mmap
from collections.abc import Iterator
from pathlib import Path


def files_with(folder: Path, needle: bytes) -> list[Path]:
    """The files below a folder that hold some bytes: as they are, in hex, base64 or UTF-16.

    Args:
        folder: every regular file below it is looked through, relative paths are returned.
        needle: at least eight bytes, so that chance does not find it.
    """
    if len(needle) < 8:
        raise ValueError("so few bytes are found everywhere")
    wanted = list(_forms(needle))
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or not path.stat().st_size:
            continue
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            if any(content.find(form) >= 0 for form in wanted):
                found.append(path.relative_to(folder))
    return found


def _forms(needle: bytes) -> Iterator[bytes]:
    yield needle
    yield binascii.hexlify(needle)
    yield binascii.hexlify(needle).upper()
    for shift in range(3):  # wherever it stands among other bytes
        encoded = base64.b64encode(bytes(shift) + needle)
        whole = encoded[4 if shift else 0 : len(encoded) - 4]
        yield whole
        yield whole.replace(b"+", b"-").replace(b"/", b"_")
    try:
        yield needle.decode("utf-8").encode("utf-16-le")
    except UnicodeDecodeError:
        return
