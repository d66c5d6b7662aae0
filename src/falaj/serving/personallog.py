"""The prediction log of endpoints that are about persons, on its way into the lake.

Nothing of it costs a worker anything: rows wait as they always do, in memory and in sealed
segments, and are told apart when they are moved. Then a column ``subject`` is added, which
names the person whom a row is about, and the lake seals it with all that the row says of
them: the unit, the request, the features, the score, the outputs and the tag of anomalies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from falaj.lake.personal import PersonalGroup, PersonalRule, record_rule, rule_of
from falaj.serving.anomalies import tag_columns
from falaj.trust.subjects import Subject, SubjectKeys

if TYPE_CHECKING:
    from falaj.lake.ports import Lake
    from falaj.serving.model import Release

SUBJECT = "subject"
PERSONAL = ("unit", "fields", "features", "score", "outputs", "anomaly_score", "anomalous")
"""What a row of the prediction log says of a person."""
SubjectOf = Callable[[str], tuple[str, str] | None]
"""The request field that names the person, and the kind of persons, of a release by its id;
None if its predictions are about nobody."""
_CLOCKS_APART = timedelta(seconds=5)
"""Of the worker that answered and of whoever erased, at most."""
_decode = msgspec.json.Decoder().decode


def rule_for(table: str, kind: str) -> PersonalRule:
    """What the lake seals of a prediction log."""
    group = PersonalGroup(subject=SUBJECT, kind=kind, columns=PERSONAL)
    return PersonalRule(table=table, groups=(group,))


def rule_of_scoring(table: str, keys: Sequence[str], release: Release) -> PersonalRule | None:
    """What the lake seals of a scoring's output: if the column that names the person is among
    its keys, that, the other keys, the outputs with their tags, and what went wrong; else None,
    for nothing in it tells whom a row is about."""
    if release.subject is None or release.subject not in keys:
        return None
    others = tuple(name for name in keys if name != release.subject)
    group = PersonalGroup(
        subject=release.subject,
        kind=release.subject_kind,
        columns=(*others, *release.outputs, *tag_columns(release), "error"),
    )
    return PersonalRule(table=table, groups=(group,))


def people_of(rows: pa.Table, subject_of: SubjectOf) -> list[Subject | None]:
    """The person whom each row of a prediction log is about, None where it is nobody."""
    releases, texts = rows.column("release").to_pylist(), rows.column("fields").to_pylist()
    named = {release: subject_of(release) for release in dict.fromkeys(releases)}
    found: list[Subject | None] = []
    for release, text in zip(releases, texts, strict=True):
        field = named[release]
        name = None if field is None else _named(text, field[0])
        found.append(None if field is None or name is None else Subject(field[1], name))
    return found


class Latecomers:
    """Tells rows that were answered before an erasure and come behind it.

    Whom they are about may be who was erased: nothing says it any more. So of somebody who
    has no key (any more, or yet) nothing is kept that was answered before the last erasure.

    Args:
        keys: the keys of persons.
    """

    def __init__(self, keys: SubjectKeys) -> None:
        self._keys = keys
        self._sequence = 0
        self._last: datetime | None = None

    def among(
        self, people: Sequence[Subject | None], answered_at: Sequence[datetime]
    ) -> list[bool]:
        """Which of the rows are to say nothing; raises as the keys do."""
        for one in self._keys.destroyed(after=self._sequence):
            self._sequence = max(self._sequence, one.sequence)
            self._last = (
                one.destroyed_at if self._last is None else max(self._last, one.destroyed_at)
            )
        if self._last is None:
            return [False] * len(people)
        end = self._last + _CLOCKS_APART
        early = {
            person
            for person, at in zip(people, answered_at, strict=True)
            if person is not None and at < end
        }
        asked = list(early)
        keys = self._keys.of(asked, make=False) if asked else []
        unknown = {person for person, key in zip(asked, keys, strict=True) if key is None}
        return [
            person in unknown and at < end for person, at in zip(people, answered_at, strict=True)
        ]


def with_subject(
    lake: Lake,
    table: str,
    rows: pa.Table,
    subject_of: SubjectOf,
    latecomers: Latecomers | None = None,
) -> pa.Table:
    """Rows of a prediction log with the person whom each is about, once they may be about any.

    The lake is told to seal them before they are returned. A log is about one kind of persons:
    rows about another kind, from before an endpoint was changed, are sealed as nobody's.

    Args:
        lake: where they go.
        table: the prediction log.
        rows: as ``logged.columnar`` makes them.
        subject_of: tells of a release whom its predictions are about.
        latecomers: tells rows of which nothing personal is to be kept.

    Raises:
        InvalidInput: the lake cannot seal.
    """
    newest = [subject_of(release) for release in rows.column("release").unique().to_pylist()]
    kinds = [field[1] for field in newest if field is not None]
    rule = rule_of(lake, table)
    if not kinds and rule is None:
        return rows
    kind = kinds[-1] if kinds or rule is None else rule.groups[0].kind
    # A log that was begun by an older version learns what else is personal.
    if (
        rule is None
        or rule.groups[0].kind != kind
        or not set(PERSONAL) <= set(rule.groups[0].columns)
    ):
        record_rule(lake, rule_for(table, kind))
    people = people_of(rows, subject_of)
    if latecomers is not None:
        gone = latecomers.among(people, rows.column("requested_at").to_pylist())
        if any(gone):
            rows = _blanked(rows, gone)
            people = [None if late else one for one, late in zip(people, gone, strict=True)]
    names = [None if one is None or one.kind != kind else one.name for one in people]
    return rows.append_column(SUBJECT, pa.array(names, pa.string()))


def _blanked(rows: pa.Table, gone: list[bool]) -> pa.Table:
    """Rows with nulls for what is personal of some of them."""
    n = len(gone)
    places = pa.array([n if blank else i for i, blank in enumerate(gone)], pa.int64())
    for name in PERSONAL:
        place, kind = rows.schema.get_field_index(name), rows.schema.field(name).type
        column = pa.concat_arrays([*rows.column(name).chunks, pa.nulls(1, kind)])
        rows = rows.set_column(place, name, column.take(places))
    return rows


def _named(fields: str | None, name: str) -> str | None:
    """The person that a request names; a whole number may have passed as a float."""
    value: Any = None if fields is None else _decode(fields).get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value is None else str(value)
