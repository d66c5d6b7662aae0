"""Looks for secrets in what is uploaded: artifacts, archives, and declared definitions.

It tells the place and the kind of what it finds, never the value: neither the error, nor
the log, nor the audit record holds a secret that was refused. It is bounded: so much of each
file is read, archives are opened one level deep, and what was not read is said.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from falaj.kernel.errors import InvalidInput
from falaj.trust.secret_patterns import SECRET_NAME, looks_random, matches

FILE_BYTES, ARCHIVE_BYTES, ENTRIES, FINDINGS = 8 << 20, 32 << 20, 1_000, 20
_DEEPEST, _LONGEST_NAME = 32, 120
_UNREADABLE = re.compile(r"[^\w ./:\[\]-]")


class SecretFound(InvalidInput):
    """Something that was uploaded or declared holds a secret."""

    code = "secret-found"


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret: where it stands, and of what kind it is."""

    place: str
    kind: str


@dataclass
class Scan:
    """What was found in one thing."""

    findings: list[Finding] = field(default_factory=list)
    whole: bool = True
    """False if a limit was met, so that a part of it was not looked at."""

    def add(self, place: str, kind: str) -> None:
        """Keep a finding, unless there are many already."""
        found = Finding(place, kind)
        if len(self.findings) >= FINDINGS:
            self.whole = False
        elif found not in self.findings:
            self.findings.append(found)

    def told(self) -> list[dict[str, str]]:
        """For a record: place and kind of each."""
        return [{"place": one.place, "kind": one.kind} for one in self.findings]

    def refuse_unless(self, reason: str | None, what: str) -> None:
        """Return if nothing was found, or if a reason is given why it may be there.

        Raises:
            SecretFound: names the places and kinds.
        """
        if not self.findings or (reason and reason.strip()):
            return
        shown = "; ".join(f"{one.kind} in {one.place}" for one in self.findings[:5])
        more = f"; and {len(self.findings) - 5} more" if len(self.findings) > 5 else ""
        raise SecretFound(
            f"There seems to be a secret in {what}: {shown}{more}.",
            hint="Take it out, and replace the secret: it has been copied. If it is none, say so "
            "with a reason (secrets_allowed), which is recorded.",
            findings=self.told(),
        )


def scan_file(name: str, data: bytes) -> Scan:
    """Look through a file, and one level deep through an archive (zip, tar, gzip)."""
    scan = Scan()
    opened = _entries(data, scan)
    if opened is None:
        _bytes(scan, _named(name, "the file"), data)
        return scan
    left = ARCHIVE_BYTES
    try:
        for place, (inner, part) in enumerate(opened):
            if place >= ENTRIES or left <= 0:
                scan.whole = False
                break
            entry = _named(inner, f"entry {place}")
            if any(matches(inner)):
                scan.add(f"the name of entry {place}", "secret in a name")
            _bytes(scan, f"{_named(name, 'the archive')}!{entry}", part[:left])
            left -= len(part)
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, RuntimeError, zlib.error,
            NotImplementedError):  # fmt: skip
        scan.whole = False  # whoever reads the archive refuses it
        _bytes(scan, _named(name, "the file"), data)
    return scan


def scan_document(place: str, document: Any) -> Scan:
    """Look through the texts of a document, and at the names that they stand under."""
    scan = Scan()
    _value(scan, place, "", document, 0)
    return scan


def _value(scan: Scan, place: str, name: str, value: Any, depth: int) -> None:
    if depth > _DEEPEST:
        scan.whole = False
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if any(matches(str(key))):
                scan.add(f"a name in {place}", "secret in a name")
            _value(scan, f"{place}.{_named(str(key), 'name')}", str(key), inner, depth + 1)
    elif isinstance(value, str):
        text = value[:FILE_BYTES]
        scan.whole = scan.whole and len(text) == len(value)
        kinds = [kind for _, _, kind in matches(text)]
        if not kinds and SECRET_NAME.search(name) and looks_random(text):
            kinds = ["named secret"]
        if kinds:
            scan.add(place, kinds[0])
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        for number, inner in enumerate(value):
            _value(scan, f"{place}[{number}]", name, inner, depth + 1)


def _bytes(scan: Scan, place: str, data: bytes) -> None:
    """Look through bytes as text; text of two bytes a letter has its NULs taken out."""
    taken = data[:FILE_BYTES]
    scan.whole = scan.whole and len(taken) == len(data)
    readings = [taken]
    if b"\0" in taken:
        readings.append(taken.replace(b"\0", b""))
    seen: set[str] = set()
    for reading in readings:
        text = reading.decode("latin-1")
        spans: list[tuple[int, int]] = []
        for begin, end, kind in matches(text):
            if any(begin < other_end and other < end for other, other_end in spans):
                continue  # told already, with a kind that says more
            spans.append((begin, end))
            if reading is taken or kind not in seen:
                scan.add(f"{place}:{text.count(chr(10), 0, begin) + 1}", kind)
            seen.add(kind)


def _entries(data: bytes, scan: Scan) -> Iterator[tuple[str, bytes]] | None:
    """The files of an archive with their names; None if it is none."""
    if data.startswith(b"PK\x03\x04"):
        return _zip(data, scan)
    if data.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                inner = _some(packed, scan, ARCHIVE_BYTES)
        except (OSError, EOFError, zlib.error):
            scan.whole = False
            return None
        return _tar(inner, scan) if _is_tar(inner) else iter([("content", inner)])
    return _tar(data, scan) if _is_tar(data) else None


def _zip(data: bytes, scan: Scan) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for entry in archive.infolist():
            if not entry.is_dir():
                with archive.open(entry) as opened:
                    yield entry.filename, _some(opened, scan, FILE_BYTES)


def _tar(data: bytes, scan: Scan) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for entry in archive:
            opened = archive.extractfile(entry) if entry.isreg() else None
            if opened is not None:
                yield entry.name, _some(opened, scan, FILE_BYTES)


def _some(opened: IO[bytes] | gzip.GzipFile, scan: Scan, most: int) -> bytes:
    taken = opened.read(most + 1)
    if len(taken) > most:
        scan.whole = False
    return taken[:most]


def _is_tar(data: bytes) -> bool:
    return data[257:262] == b"ustar"


def _named(name: str, instead: str) -> str:
    """A name that may be told: short, plain, and no secret itself."""
    return instead if any(matches(name)) else _UNREADABLE.sub("_", name)[:_LONGEST_NAME]
