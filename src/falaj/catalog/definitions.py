"""Definitions: declared, planned, applied."""

from __future__ import annotations

import hashlib
import json
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from falaj.catalog.model import Classification
from falaj.kernel.call import AssetRef


class Definition(BaseModel):
    """A named declaration with a content hash."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str]
    name: str
    description: str = ""
    owner: str | None = None
    tags: tuple[str, ...] = ()
    classification: Classification | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def references(self) -> list[AssetRef]:
        """The assets upstream of this one."""
        return []
