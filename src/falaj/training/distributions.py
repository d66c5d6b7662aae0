"""The distributions that are installed where a model is made, each with its licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any, Protocol

UNKNOWN = "unknown"
_LONGEST = 60
_SPDX = {
    "MIT License": "MIT",
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "zlib/libpng License": "Zlib",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Historical Permission Notice and Disclaimer (HPND)": "HPND",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    "GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
}
"""Classifiers of PyPI that mean one licence of SPDX; others are told as they are."""


class Described(Protocol):
    """The metadata of a distribution."""

    def get(self, name: str, failobj: None = None) -> str | None: ...

    def get_all(self, name: str, failobj: None = None) -> list[str] | None: ...


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed distribution."""

    name: str
    """In lower case, its parts joined by dashes, as PyPI compares names."""
    version: str
    licence: str
    """An SPDX expression where the distribution tells one, else what it says, else ``unknown``."""
    spdx: bool
    """True if the licence is an expression of SPDX."""

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def normalised(name: str) -> str:
    """The name of a distribution as PyPI compares names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def installed() -> tuple[Distribution, ...]:
    """All distributions of this process's environment, by name."""
    found: dict[str, Distribution] = {}
    for one in metadata.distributions():
        told: Any = one.metadata  # a Message; its declared type lacks ``get``
        name = told.get("Name")
        if name and one.version and normalised(name) not in found:
            licence, spdx = licence_of(told)
            found[normalised(name)] = Distribution(normalised(name), one.version, licence, spdx)
    return tuple(found[name] for name in sorted(found))


def licence_of(told: Described) -> tuple[str, bool]:
    """What a distribution says of its licence, and whether that is an expression of SPDX."""
    expression = told.get("License-Expression")
    if expression:
        return expression, True
    names = [
        line.rpartition(" :: ")[2]
        for line in told.get_all("Classifier") or []
        if line.startswith("License :: ") and line.count(" :: ") > 1
    ]
    if names:
        known = [_SPDX.get(name) for name in names]
        if all(known):
            return " AND ".join(sorted(str(one) for one in known)), True
        return "; ".join(names), False
    text = (told.get("License") or "").strip()
    if text and len(text) <= _LONGEST and "\n" not in text:
        return text, False
    return UNKNOWN, False
