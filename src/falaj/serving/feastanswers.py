"""Answers in the shape of ``get-online-features`` of Feast's feature server.

``{"metadata": {"feature_names": [...]}, "results": [{"values", "statuses",
"event_timestamps"}, ...]}``, one result for each entity key and feature. Names are short
(``amount``) unless the request says ``full_feature_names`` (``balance__amount``). As there,
NaN and infinities are the words of protobuf's JSON, and a time that is not known is 1970.

Nearly all requests ask for one entity of which everything is there. Their answer is a text
with holes, made once for each service, that is filled with the numbers (4 µs instead of
38 for 30 features).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite, isnan
from typing import TYPE_CHECKING, Any

import msgspec

from falaj.features.model import Status
from falaj.features.types import DType
from falaj.features.vectors import NO_TIME, STATUSES
from falaj.serving.errors import BadRequest

if TYPE_CHECKING:
    from falaj.features.online import OnlineReader

_WORDS = {
    Status.PRESENT: "PRESENT",
    Status.NULL: "NULL_VALUE",
    Status.EXPIRED: "OUTSIDE_MAX_AGE",
    Status.MISSING: "NOT_FOUND",
}
_BY_CODE = [_WORDS[status] for status in STATUSES]
_NEVER = b"1970-01-01T00:00:00Z"
_NUMBERS = frozenset({DType.BOOL, DType.INT64, DType.FLOAT64, DType.TIMESTAMP})
_KEPT_FORMS = 16
_encode = msgspec.json.Encoder().encode


class FeastAnswers:
    """Answers for one service.

    Args:
        reader: of the service.
    """

    def __init__(self, reader: OnlineReader) -> None:
        self._reader = reader
        self._names = tuple(reader.names)
        short, view_of = dict.fromkeys(self._names, ""), dict.fromkeys(self._names, -1)
        for number, use in enumerate(reader.plan.views):
            for feature in use.features:
                name = f"{use.plan.name}__{feature}"
                if name in short:
                    short[name], view_of[name] = feature, number
        for one in reader.plan.on_demand:
            for output in one.definition.outputs:
                name = f"{one.definition.name}__{output.name}"
                if name in short:
                    short[name] = output.name
        self._short = tuple(short[name] or name for name in self._names)
        self._view_of = tuple(view_of[name] for name in self._names)
        # The text of an answer can be cut at its commas if no value holds one.
        self._plain = all(dtype in _NUMBERS for dtype in reader.plan.outputs.values())
        self._fields = frozenset(reader.plan.request_fields)
        self._present = [Status.PRESENT] * len(self._names)
        self._forms: dict[tuple[tuple[str, ...], bool], bytes] = {}

    def answer(
        self, entities: Mapping[str, Sequence[Any]], n: int, at_us: int, full: bool
    ) -> bytes:
        """Read, and encode.

        Args:
            entities: entity keys and request fields by column, n values each.
            n: the number of rows.
            at_us: the instant to answer for, UTC microseconds.
            full: whether the names of views stand before those of their features.

        Raises:
            InvalidInput: a key or field is missing or wrong.
            BadRequest: two features have the same short name.
        """
        shown = entities
        if self._fields:  # they stand among the features already
            shown = {name: one for name, one in entities.items() if name not in self._fields}
        if n != 1:
            found = self._reader.columns(entities, at_us)
            codes = [[_BY_CODE[code] for code in one] for one in found.statuses.T.tolist()]
            texts = [
                b",".join([b'"%b"' % _time(t) for t in one]) for one in found.event_times.T.tolist()
            ]
            return self._whole(shown, n, full, found.lists(), codes, texts)
        read = self._reader.read([{name: values[0] for name, values in entities.items()}], at_us)
        values, statuses = read.values[0], read.statuses[0]
        times = [_NEVER if t is None else _time(t) for t in read.event_times[0].values()]
        if self._plain and statuses == self._present:
            cut = _encode(values)[1:-1].split(b",")
            if b"null" not in cut:
                form = self._form(tuple(shown), full)
                times.append(_NEVER)  # of what belongs to no view, whose number is -1
                filling = [_NEVER] * (2 * len(cut))
                filling[::2] = cut
                filling[1::2] = [times[view] for view in self._view_of]
                keys = [_encode(one)[1:-1] for one in shown.values()]
                return form % (*keys, *filling)
        words = [[_WORDS[status]] for status in statuses]
        quoted = [b'"%b"' % one for one in times]
        return self._whole(shown, 1, full, [[one] for one in values], words, quoted)

    def _form(self, entities: tuple[str, ...], full: bool) -> bytes:
        """The answer for one entity of which everything is present, with holes."""
        form = self._forms.get((entities, full))
        if form is None:
            hole = b'{"values":[%b],"statuses":["PRESENT"],"event_timestamps":["%b"]}'
            key = b'{"values":[%%b],"statuses":["PRESENT"],"event_timestamps":["%b"]}' % _NEVER
            holes = [key] * len(entities) + [hole] * len(self._names)
            head = self._head(entities, full).replace(b"%", b"%%")
            form = head + b",".join(holes) + b"]}"
            if len(self._forms) >= _KEPT_FORMS:
                self._forms.clear()  # a client may name its columns as it likes
            self._forms[entities, full] = form
        return form

    def _head(self, entities: Sequence[str], full: bool) -> bytes:
        names = [*entities, *(self._names if full else self._short)]
        if not full and len(set(names)) < len(names):
            raise BadRequest(
                "Two features of the service, or a feature and a key, have the same name.",
                hint='Ask with "full_feature_names": true.',
            )
        return b'{"metadata":{"feature_names":%b},"results":[' % _encode(names)

    def _whole(
        self,
        entities: Mapping[str, Sequence[Any]],
        n: int,
        full: bool,
        columns: Sequence[list[Any]],
        words: Sequence[list[str]],
        times: list[bytes],
    ) -> bytes:
        """The answer for any number of entities.

        ``times`` are of each view its event times, as the inside of a JSON list.
        """
        form = b'{"values":%b,"statuses":%b,"event_timestamps":[%b]}'
        never = b",".join([b'"%b"' % _NEVER] * n)
        present = _encode(["PRESENT"] * n)
        results = [form % (_encode(values), present, never) for values in entities.values()]
        times = [*times, never]
        for values, column, view in zip(columns, words, self._view_of, strict=True):
            results.append(form % (_values(values), _encode(column), times[view]))
        return self._head(tuple(entities), full) + b",".join(results) + b"]}"


def _values(values: list[Any]) -> bytes:
    """A column; what JSON has no number for is a word."""
    encoded = _encode(values)
    if b"null" not in encoded:
        return encoded
    return _encode([_worded(value) for value in values])


def _worded(value: Any) -> Any:
    if isinstance(value, list):
        return [_worded(one) for one in value]
    if not isinstance(value, float) or isfinite(value):
        return value
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"


@functools.lru_cache(1 << 16)
def _time(time_us: int) -> bytes:
    """An instant with as many digits as it needs: none, three or six."""
    if time_us == NO_TIME:
        return _NEVER
    seconds, rest = divmod(time_us, 1_000_000)
    told = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if rest:
        told += f".{rest // 1000:03}" if rest % 1000 == 0 else f".{rest:06}"
    return told.encode() + b"Z"
