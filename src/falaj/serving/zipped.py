"""Zip archives that strangers send: never more is unpacked than an archive says of itself.

``ZipFile.read`` unpacks first and cuts afterwards: up to 2 GB of a deflated entry, and all of
one that is packed by bzip2 or LZMA, whatever size it names.
"""

from __future__ import annotations

import zipfile

_PIECE = 1 << 20
_TAKEN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry.

    Raises:
        BadZipFile: it is damaged, longer or shorter than it says, or packed by another way
            than deflate.
    """
    if entry.compress_type not in _TAKEN:
        raise zipfile.BadZipFile(f"{entry.filename[:80]!r} is not packed by deflate")
    parts = []
    with archive.open(entry) as opened:
        while part := opened.read(_PIECE):
            parts.append(part)
    data = b"".join(parts)
    if len(data) != entry.file_size:
        raise zipfile.BadZipFile(f"{entry.filename[:80]!r} has another length than it says")
    return data
