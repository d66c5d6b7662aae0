"""Bundles that leave the platform: in a zip archive, and from there in a folder."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.kernel.errors import AlreadyExists, Corrupt
from falaj.models.signing import SIGNATURE

if TYPE_CHECKING:
    from falaj.models.bundles import Bundles

_AT = (1980, 1, 1, 0, 0, 0)  # the same bundle gives the same archive


def archive(bundles: Bundles, digest: str) -> bytes:
    """The verified files of a bundle and its ``model.sig``, as a zip archive.

    Raises:
        NotFound, Corrupt: there is no such bundle, or it does not verify.
        UnknownKey: it bears no P-256 signature (an older version packaged it).
    """
    bundle = bundles.open_bundle(digest)
    files = {**bundle.files, SIGNATURE: bundles.signature(digest)}
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as made:
        for name in sorted(files):
            made.writestr(zipfile.ZipInfo(name, _AT), files[name])
    return sink.getvalue()


def unpack(data: bytes, folder: Path) -> list[str]:
    """Write an archive's files into a new or empty folder; returns their names.

    Raises:
        AlreadyExists: there is something in the folder.
        Corrupt: a name in the archive is more than a file's name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(
            f"{folder} is there and not an empty folder.", hint="Name a new folder."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            files = {entry.filename: opened.read(entry) for entry in opened.infolist()}
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise Corrupt("The archive is damaged.", hint="Export the version again.") from error
    for name in files:
        if name in ("", ".", "..") or set(name) & set("/\\\0"):
            raise Corrupt(f"The archive has a file {name[:80]!r}.", hint="Do not unpack it.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return sorted(files)
