"""``falaj ci lint``: definitions looked at without a platform: do they run, parse, hold secrets?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from falaj.trust.secretscan import Scan, scan_document

if TYPE_CHECKING:
    from falaj.catalog.definitions import Definition


def linted(path: Path) -> list[Definition]:
    """The definitions of a folder, if nothing is wrong with them that can be seen from here.

    Raises:
        NotFound, BrokenDefinitions, InvalidInput: what ``falaj plan`` would raise for them.
        SecretFound: what looks like a secret stands in one.
    """
    from falaj.interfaces.declarations import declared

    found = declared(path)
    scan = Scan()
    for definition in found:
        scan.findings += scan_document(
            f"{definition.kind} {definition.name}", definition.document()
        ).findings
    scan.refuse_unless(None, "the definitions")
    return found
