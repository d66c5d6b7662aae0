"""The bill of materials of Falaj itself, from its lock: CycloneDX 1.6 as JSON (`make sbom`).

Every pin of the lock is a component, with the hashes that an installation is held to and the
licence that its installed metadata tells. What the plain package needs is ``required``; what
extras, tests and checks need is ``optional``.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from falaj.kernel.errors import InvalidInput
from falaj.training.distributions import UNKNOWN, Distribution, installed, normalised

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"^--hash=sha256:([0-9a-f]{64})\s*\\?$")
_SPACE = uuid.UUID("0d0f3a0c-29a5-5f0a-8f4e-1c1d5e0b7a55")
_ITSELF = "falaj"


@dataclass(frozen=True)
class Pin:
    """One line of the lock."""

    name: str
    version: str
    marker: str
    """Where it is installed; empty: everywhere."""
    hashes: tuple[str, ...]
    """SHA-256 of each file that may be installed."""

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{self.name}@{self.version}"


def pins(lock: str) -> list[Pin]:
    """The pins of a lock, in its order.

    Raises:
        InvalidInput: a line is neither a pin, nor a hash of one, nor a comment.
    """
    found: list[Pin] = []
    for number, line in enumerate(lock.splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if pin := _PIN.match(text):
            name, version, marker = pin.groups()
            found.append(Pin(normalised(name), version, (marker or "").strip(), ()))
        elif found and (digest := _HASH.match(text)):
            last = found[-1]
            hashes = (*last.hashes, digest.group(1))
            found[-1] = Pin(last.name, last.version, last.marker, hashes)
        else:
            raise InvalidInput(
                f"Line {number} of the lock is no pin: {text[:80]!r}.", hint="Run `make lock`."
            )
    return found


def bill(locked: Sequence[Pin], here: Sequence[Distribution]) -> dict[str, Any]:
    """The bill of materials of a lock.

    Args:
        locked: its pins.
        here: the installed distributions, for licences.
    """
    known = {(one.name, one.version): one for one in here}
    needed = _needed()
    refs: dict[str, list[str]] = {}
    for pin in locked:
        refs.setdefault(pin.name, []).append(pin.purl)
    version = metadata.version(_ITSELF)
    itself = f"pkg:pypi/{_ITSELF}@{version}"
    told = json.dumps([[pin.purl, pin.hashes] for pin in locked])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_SPACE, told)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application", "bom-ref": itself, "name": _ITSELF, "version": version,
                "purl": itself, "licenses": [{"expression": "Apache-2.0"}],
            },
        },
        "components": [
            _component(pin, known.get((pin.name, pin.version)), pin.name in needed)
            for pin in locked
        ],
        "dependencies": [
            {"ref": itself, "dependsOn": _refs(_direct(_ITSELF), refs)},
            *(
                {"ref": pin.purl, "dependsOn": _refs(_direct(pin.name), refs)}
                for pin in locked
                if (pin.name, pin.version) in known
            ),
        ],
    }  # fmt: skip


def _component(pin: Pin, here: Distribution | None, required: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": pin.purl,
        "name": pin.name,
        "version": pin.version,
        "purl": pin.purl,
        "scope": "required" if required else "optional",
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"https://pypi.org/project/{pin.name}/{pin.version}/",
                "hashes": [{"alg": "SHA-256", "content": digest} for digest in pin.hashes],
            }
        ],
    }
    if pin.marker:
        found["properties"] = [{"name": "falaj:marker", "value": pin.marker}]
    if here is not None and here.spdx:
        found["licenses"] = [{"expression": here.licence}]
    elif here is not None and here.licence != UNKNOWN:
        found["licenses"] = [{"license": {"name": here.licence}}]
    return found


def _needed() -> set[str]:
    """What the plain package needs, with all that this needs in turn."""
    found: set[str] = set()
    left = [(_ITSELF, frozenset[str]())]
    seen = set(left)
    while left:
        name, extras = left.pop()
        found.add(name)
        for asked in _requirements(name, extras):
            one = (normalised(asked.name), frozenset(asked.extras))
            if one not in seen:
                seen.add(one)
                left.append(one)
    return found


def _direct(name: str) -> list[str]:
    return sorted({normalised(one.name) for one in _requirements(name, frozenset())})


def _requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What an installed distribution asks for here, with some of its extras."""
    try:
        lines = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    for line in lines:
        asked = Requirement(line)
        places = [{"extra": extra} for extra in extras or {""}]
        if asked.marker is None or any(asked.marker.evaluate(place) for place in places):
            yield asked


def _refs(names: Sequence[str], refs: Mapping[str, Sequence[str]]) -> list[str]:
    return sorted({ref for name in names for ref in refs.get(name, ())})


def main(arguments: Sequence[str]) -> int:
    """Print the bill of the lock that is named."""
    if len(arguments) != 1:
        sys.stderr.write("python -m falaj.interfaces.sbom requirements.lock\n")
        return 2
    found = bill(pins(Path(arguments[0]).read_text(encoding="utf-8")), installed())
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
