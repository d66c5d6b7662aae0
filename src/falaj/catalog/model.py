"""The words of the catalogue."""

from __future__ import annotations

from enum import StrEnum


class Classification(StrEnum):
    """How carefully data must be handled."""

    PUBLIC = "public"
    INTERNAL = "internal"
    PERSONAL = "personal"
    SENSITIVE = "sensitive"


class Relation(StrEnum):
    """How one asset flows into another."""

    FEEDS = "feeds"
    DEFINES = "defines"
    TRAINED = "trained"
    PACKAGED = "packaged"
    APPROVED = "approved"
    SERVES = "serves"
    PREDICTED = "predicted"
