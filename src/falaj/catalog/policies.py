"""The operator's own policies as definitions: Cedar text beside the built-in policies."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from falaj.catalog.definitions import Definition

KIND = "policy"
LONGEST = 64 * 1024


class Policy(Definition):
    """Cedar policies of the operator's own, which stand beside the built-in ones.

    Each needs an ``@id``. They may permit more and forbid more; what a built-in policy forbids
    stays forbidden. They are proposed by an administrator and come into force when another
    person approves: ``falaj apply`` opens the change.
    """

    kind: ClassVar[str] = KIND
    proposed: ClassVar[bool] = True

    text: str = Field(min_length=1, max_length=LONGEST)
    """Cedar, validated against the platform's schema when it is planned."""
    enabled: bool = True
    """False takes it out of force; it stays on record."""
