"""Whose rows a source brings: the rules that seal its table and its quarantine."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa

from falaj.catalog.model import Classification
from falaj.ingest.model import Source
from falaj.lake.personal import PersonalGroup, PersonalRule

SUBJECT = "subject"
"""The quarantine's column that names whom a row is about; null where that cannot be told."""
_SECRET = frozenset({Classification.PERSONAL, Classification.SENSITIVE})


def is_secret(source: Source) -> bool:
    """True if no value of a source's rows may stand in a message or a result."""
    return source.subject is not None or source.classification in _SECRET


def personal_columns(source: Source) -> tuple[str, ...]:
    """The columns, without the subject's, that are classified personal or sensitive.

    A column without a classification of its own is as secret as its source; but the instants
    that order a table stay in clear unless they are classified themselves.
    """
    instants = {source.event_time, source.recorded_at}
    found = []
    for column in source.stored:
        inherited = None if column in instants else source.classification
        if column != source.subject and source.classifications.get(column, inherited) in _SECRET:
            found.append(column)
    return tuple(found)


def rule_of_source(source: Source) -> PersonalRule | None:
    """The rule of a source's table; None if it names no subjects."""
    if source.subject is None:
        return None
    group = PersonalGroup(
        subject=source.subject, kind=source.subject_kind, columns=personal_columns(source)
    )
    return PersonalRule(table=source.table, groups=(group,))


def rule_of_quarantine(source: Source) -> PersonalRule | None:
    """The rule of its quarantine: rows as they came, and reasons, which quote their values."""
    if source.subject is None:
        return None
    group = PersonalGroup(
        subject=SUBJECT, kind=source.subject_kind, columns=("row_values", "reason")
    )
    return PersonalRule(table=source.quarantine, groups=(group,))


def subjects_of(source: Source, lines: Sequence[str]) -> pa.Array:
    """Whom quarantined rows are about, by the values as they came, as the table would say it."""
    whole = source.columns.get(source.subject or "") == "integer"
    return pa.array([_subject(source, line, whole=whole) for line in lines], pa.string())


def _subject(source: Source, line: str, *, whole: bool) -> str | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None  # a line that is no row
    value = values.get(source.subject) if isinstance(values, dict) else None
    if value is None or value in source.null_strings:
        return None
    if whole:
        try:
            return str(int(value))
        except ValueError:
            return str(value)  # no number: then it is the name of somebody else, or of nobody
    return str(value)


__all__ = [
    "SUBJECT",
    "is_secret",
    "personal_columns",
    "rule_of_quarantine",
    "rule_of_source",
    "subjects_of",
]
