"""Known vulnerabilities of distributions, from a file of OSV records; no network is asked.

The file is an export of osv.dev (``PyPI/all.zip``: a zip archive of JSON documents), or the
same documents as JSON lines. Records are matched by name and version as the OSV schema
says (https://ossf.github.io/osv-schema/): the listed versions, and ranges of events.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from falaj.kernel.errors import InvalidInput
from falaj.models.cvss import base_score
from falaj.training.distributions import Distribution, normalised

_LONGEST_RECORD = 4 << 20
_ECOSYSTEM = "PyPI"
_FIRST = Version("0")
_WORDS = {"LOW": 1, "MODERATE": 2, "MEDIUM": 2, "HIGH": 3, "CRITICAL": 4}


class Severity(IntEnum):
    """How bad a vulnerability is; one of which nobody says so counts as high."""

    NONE = 0
    LOW = 1
    MODERATE = 2
    HIGH = 3
    CRITICAL = 4

    @property
    def cyclonedx(self) -> str:
        """The word of CycloneDX."""
        return "medium" if self is Severity.MODERATE else self.name.lower()

    @classmethod
    def of_score(cls, score: float) -> Severity:
        """The band of a CVSS base score."""
        bands = ((9.0, cls.CRITICAL), (7.0, cls.HIGH), (4.0, cls.MODERATE), (0.1, cls.LOW))
        return next((band for least, band in bands if score >= least), cls.NONE)


@dataclass(frozen=True, slots=True)
class Finding:
    """A distribution that a vulnerability is known of."""

    purl: str
    advisory: str
    aliases: tuple[str, ...]
    severity: Severity
    summary: str

    @property
    def names(self) -> frozenset[str]:
        """All names of the vulnerability: its id, its CVE number."""
        return frozenset((self.advisory, *self.aliases))


@dataclass(frozen=True, slots=True)
class Found:
    """What a file of advisories says of some distributions."""

    findings: tuple[Finding, ...]
    n_records: int
    newest: datetime | None
    """When the newest of all its records was changed: how old the file's knowledge is."""


class Vulnerabilities:
    """Advisories in a file.

    Args:
        file: JSON lines, or a zip archive of JSON documents.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def of(self, distributions: Iterable[Distribution]) -> Found:
        """What is known of distributions; reads the file once, keeps what concerns them.

        Raises:
            InvalidInput: there is no such file, or it is not of OSV records.
        """
        wanted = {one.name: one for one in distributions}
        findings: list[Finding] = []
        n_records, newest = 0, ""
        for record in self._records():
            n_records += 1
            newest = max(newest, str(record.get("modified", "")))
            if not record.get("withdrawn"):
                findings += _matching(record, wanted)
        if not n_records:
            raise self._broken("it holds no record")
        ordered = sorted(findings, key=lambda one: (-one.severity, one.purl, one.advisory))
        return Found(tuple(ordered), n_records, _instant(newest))

    def _records(self) -> Iterator[Mapping[str, Any]]:
        try:
            with self._file.open("rb") as opened:
                zipped = opened.read(4) == b"PK\x03\x04"
            for text in self._zipped() if zipped else self._lines():
                record = json.loads(text)
                if not isinstance(record, dict) or "id" not in record:
                    raise self._broken("a record has no id")
                yield record
        except (OSError, ValueError, zipfile.BadZipFile, RecursionError) as error:
            raise self._broken(str(error)[:200]) from error

    def _lines(self) -> Iterator[bytes]:
        with self._file.open("rb") as opened:
            while line := opened.readline(_LONGEST_RECORD + 1):
                if len(line) > _LONGEST_RECORD:
                    raise self._broken("a record is too long")
                if line.strip():
                    yield line

    def _zipped(self) -> Iterator[bytes]:
        with zipfile.ZipFile(self._file) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(".json"):
                    with archive.open(entry) as opened:
                        text = opened.read(_LONGEST_RECORD + 1)
                    if len(text) > _LONGEST_RECORD:
                        raise self._broken("a record is too long")
                    yield text

    def _broken(self, why: str) -> InvalidInput:
        return InvalidInput(
            f"The file of vulnerabilities {self._file.name!r} cannot be read: {why}.",
            hint="Name an export of osv.dev (PyPI/all.zip, or JSON lines) in the setting "
            "supply_chain.vulnerabilities.",
        )


def _matching(record: Mapping[str, Any], wanted: Mapping[str, Distribution]) -> Iterator[Finding]:
    """What a record says of the wanted distributions, once of each."""
    told: set[str] = set()
    for affected in record.get("affected") or ():
        package = affected.get("package") or {}
        if package.get("ecosystem") != _ECOSYSTEM:
            continue
        one = wanted.get(normalised(str(package.get("name", ""))))
        if one is None or one.name in told or not _affects(affected, one.version):
            continue
        told.add(one.name)
        yield Finding(
            purl=one.purl,
            advisory=str(record["id"]),
            aliases=tuple(map(str, record.get("aliases") or ())),
            severity=_severity(record, affected),
            summary=str(record.get("summary") or "")[:500],
        )


def _affects(affected: Mapping[str, Any], version: str) -> bool:
    if version in (affected.get("versions") or ()):
        return True
    try:
        at = Version(version)
    except InvalidVersion:
        return False
    ranges = [one for one in affected.get("ranges") or () if one.get("type") == "ECOSYSTEM"]
    return any(_inside(one.get("events") or (), at) for one in ranges)


def _inside(events: Iterable[Mapping[str, str]], at: Version) -> bool:
    """The algorithm of the OSV schema: events in order of versions switch on and off."""
    ordered: list[tuple[Version, int, str]] = []
    for event in events:
        for kind, text in event.items():
            try:
                version = _FIRST if text == "0" else Version(text)
            except InvalidVersion:
                continue  # as the schema says: what cannot be compared does not match
            # `fixed` ends before its version, `last_affected` behind it.
            ordered.append((version, 1 if kind == "last_affected" else 0, kind))
    vulnerable = False
    for version, _, kind in sorted(ordered, key=lambda one: one[:2]):
        if kind == "introduced" and (at >= version or version == _FIRST):
            vulnerable = True
        elif (kind == "fixed" and at >= version) or (kind == "last_affected" and at > version):
            vulnerable = False
    return vulnerable


def _severity(record: Mapping[str, Any], affected: Mapping[str, Any]) -> Severity:
    """The worst that the record says; high if it says nothing that is understood."""
    found = []
    for place in (record, affected):
        word = str((place.get("database_specific") or {}).get("severity", "")).upper()
        if word in _WORDS:
            found.append(Severity(_WORDS[word]))
        for one in place.get("severity") or ():
            score = base_score(str(one.get("score", "")))
            if score is not None:
                found.append(Severity.of_score(score))
    return max(found, default=Severity.HIGH)


def _instant(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
