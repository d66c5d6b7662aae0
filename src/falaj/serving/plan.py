"""The compiled request plan of a release: from a request's bytes to its answer's bytes.

Everything that can be decided once is decided when the plan is compiled: the decoder of
the body, where each model input comes from, the text of the answer around the numbers.
Requests that arrive together are scored together, in one run of the model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf, isfinite
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import FalajError
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.errors import BadRequest, BodyTooLarge, FeaturesMissing
from falaj.serving.explain import Explain, not_explained
from falaj.serving.front import Told
from falaj.serving.model import FeatureStatus, FieldType, MissingPolicy, Release, RequestField
from falaj.serving.variants import CompiledVariant, Vectors

if TYPE_CHECKING:
    from falaj.serving.trails import Trail

_FLOAT32_MAX = 3.4028234e38
TYPES: Mapping[FieldType, Any] = {
    FieldType.FLOAT: Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)],
    FieldType.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    FieldType.STRING: Annotated[str, msgspec.Meta(max_length=4_096)],
    FieldType.BOOLEAN: bool,
    FieldType.TIMESTAMP: Annotated[datetime, msgspec.Meta(tz=True)],
}
"""What a request field's value must be, as a request is decoded."""
_quoted = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a request's rows came to, for who writes the answer."""

    ids: list[str]
    """The prediction id of each row."""
    outputs: NDArray[np.floating[Any]]
    """[n, outputs]."""
    labels: list[str]
    """``model/version`` that scored each row."""
    scored: Callable[[int], tuple[CompiledVariant, NDArray[np.float32]]]
    """The variant that scored a row, and the model's inputs [inputs] of that row."""


class Parsed:
    """One request, decoded and checked; what becomes of it is noted on it."""

    __slots__ = (
        "at_us",
        "caller",
        "deadline",
        "explain",
        "render",
        "request_id",
        "rows",
        "started",
        "trail",
    )

    def __init__(
        self,
        rows: list[Any],
        request_id: str | None,
        at_us: int | None,
        *,
        explain: int,
        caller: str,
        started: float,
        deadline: float = inf,
    ) -> None:
        self.rows = rows
        self.request_id = request_id
        self.at_us = at_us
        """The instant that the request is about (Unix microseconds); None is now."""
        self.explain = explain
        """``Explain`` flags."""
        self.caller = caller
        self.started = started
        """``time.perf_counter()`` when the request arrived."""
        self.deadline = deadline
        """``time.perf_counter()`` beyond which nobody waits for the answer."""
        self.trail: Trail | None = None
        """Notes what becomes of it, of a request that is traced or told to the access log."""
        self.render: Render | None = None
        """Writes the answer in another protocol; None for plain JSON."""


Render = Callable[["RequestPlan", Parsed, Outcome], Told]
"""Writes the answer to a request in a protocol of its own; it may raise FalajError."""


@dataclass(slots=True)
class Scored:
    """Rows that one variant scored in one run, as the prediction log takes them."""

    release: Release
    variant: CompiledVariant
    vectors: Vectors
    ids: list[str]
    """One for each row."""
    owners: list[Parsed]
    """The request of each row."""
    rows: list[Any]
    """The decoded input rows."""
    at_us: int
    """The instant that the predictions are about (Unix microseconds)."""
    requested_us: int
    done: float
    """``time.perf_counter()`` when the answers were made."""

    @property
    def n_rows(self) -> int:
        """How many predictions these are."""
        return len(self.ids)


_Explained = list[dict[int, dict[str, Any]]]
"""For each part the contributions of its rows, by their place in it."""
_NOTHING = Vectors(np.empty((0, 0), np.float32), None, None, np.empty((0, 0)))
_Places = list[tuple[int, int]]


class PredictionIds:
    """Makes prediction ids (UUIDv7 in form): sortable, unique over workers.

    Random for each worker, counted within it: an id needs to be unique, not secret, and
    one call of ``os.urandom`` for each would cost a tenth of what the model costs.
    """

    def __init__(self) -> None:
        drawn = os.urandom(5).hex()
        self._middle = f"7{drawn[:3]}8{drawn[3:10]}"
        self._count = int.from_bytes(os.urandom(3), "big")

    def block(self, n: int, at_us: int) -> list[str]:
        """The next ``n`` ids."""
        head = f"pred_{at_us // 1000:012x}{self._middle}"
        first = self._count
        self._count = (first + n) & 0xFFFFFFFF
        if n == 1:
            return [f"{head}{first:08x}"]
        return [f"{head}{(first + i) & 0xFFFFFFFF:08x}" for i in range(n)]


class RequestPlan:
    """A release, compiled; made by a ``PlanCompiler``. Scores from one thread at a time.

    ``aside`` is its twin for a second thread: the same models, readers of its own.
    """

    def __init__(
        self,
        release: Release,
        variants: Sequence[CompiledVariant],
        ids: PredictionIds,
        *,
        aside: RequestPlan | None = None,
    ) -> None:
        self.n_asked = 0
        """Requests that it was to score; counted on the event loop."""
        self._aside = aside  # no plan refers to itself, so that one that sleeps is gone at once
        self.release = release
        self.limits = release.limits
        self.variants = tuple(variants)
        self.waits = any(variant.waits for variant in self.variants)
        """A run waits for another process, so it belongs on a thread."""
        self._ids = ids
        self._row, self._decode = _decoder(release.fields)
        self._uppers = bounds([variant.share for variant in release.variants])
        self._unit = attrgetter(release.unit) if release.unit else None
        self._head, self._item = _templates(release)
        self._lone = "{" + f'"request_id":%s,{self._head.replace("%", "%%")}{self._item}]' + "}"
        self._tails = [
            f',"variant":"{one.variant.name}","model":"{one.label}"' + "}" for one in variants
        ]
        self._refuses = release.missing is MissingPolicy.REFUSE

    @property
    def row_type(self) -> Any:
        """The msgspec type of an input row."""
        return self._row

    @property
    def aside(self) -> RequestPlan:
        """The plan for a second thread."""
        return self._aside or self

    # -- parse ----------------------------------------------------------------------

    def parse(self, body: bytes, *, caller: str, started: float, explain: int = 0) -> Parsed:
        """Decode and check a body.

        Raises:
            NotExplained: contributions are asked for, and a variant cannot tell them.
            BadRequest: it is not JSON, or has a missing, unknown or wrongly typed field.
            BodyTooLarge: more rows than the endpoint takes.
        """
        if len(body) > self.limits.body_bytes:
            raise BodyTooLarge(
                f"The body has {len(body)} bytes; {self.release.endpoint!r} takes "
                f"{self.limits.body_bytes}.",
                hint="Send the rows in several requests.",
            )
        if explain & Explain.CONTRIBUTIONS:
            self._check_explained()
        try:
            decoded = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(
                f"The body is not what {self.release.endpoint!r} takes: {_told(error)}.",
                hint=self._shape(),
            ) from None
        self._check_size(len(decoded.inputs))
        at = decoded.at
        return Parsed(
            decoded.inputs,
            decoded.request_id,
            None if at is None else microseconds(at),
            explain=explain,
            caller=caller,
            started=started,
            deadline=started + self.limits.deadline_seconds,
        )

    def parse_columns(
        self,
        columns: Mapping[str, Any],
        *,
        caller: str,
        started: float,
        request_id: str | None = None,
        at_us: int | None = None,
        explain: int = 0,
    ) -> Parsed:
        """Check a request that came as columns (V2 tensors, Arrow): the same rules as JSON.

        Args:
            columns: by field name, each a sequence of n plain values or a numpy array [n].

        Raises:
            BadRequest: a missing, unknown or wrongly typed field, or columns of unequal length.
            BodyTooLarge: more rows than the endpoint takes.
        """
        lengths = {len(column) for column in columns.values()}
        if len(lengths) != 1:
            told = ", ".join(f"{name}: {len(column)}" for name, column in columns.items())
            raise BadRequest(f"The columns are not of one length ({told}).", hint=self._shape())
        (n,) = lengths
        self._check_size(n)
        values = [c.tolist() if isinstance(c, np.ndarray) else c for c in columns.values()]
        names = list(columns)
        try:
            rows = msgspec.convert(
                [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)],
                list[self._row],  # type: ignore[name-defined]
            )
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(
                f"The rows are not what {self.release.endpoint!r} takes: {_told(error)}.",
                hint=self._shape(),
            ) from None
        return Parsed(
            rows,
            request_id,
            at_us,
            explain=explain,
            caller=caller,
            started=started,
            deadline=started + self.limits.deadline_seconds,
        )

    def _check_explained(self) -> None:
        for variant in self.variants:
            if variant.explanation is None:
                raise not_explained(variant.label)

    def _check_size(self, n: int) -> None:
        if n > self.limits.rows:
            raise BodyTooLarge(
                f"{n} rows in one request; {self.release.endpoint!r} takes {self.limits.rows}.",
                hint="Send them in several requests.",
            )
        if n == 0:
            raise BadRequest("The body has no inputs.", hint=self._shape())

    def _shape(self) -> str:
        fields = ", ".join(
            f'"{item.name}": {item.type}{"" if item.required else " (optional)"}'
            for item in self.release.fields
        )
        return f'Send {{"inputs": [{{{fields}}}]}}.'

    # -- score ----------------------------------------------------------------------

    def score(self, requests: list[Parsed]) -> tuple[list[Told | FalajError], list[Scored]]:
        """Score requests that are about one instant, in one run of each variant.

        Returns:
            for each request its answer (JSON) or why it gets none; and the rows that were
            answered, by variant.

        Raises:
            FalajError: none of them could be scored.
        """
        requested_us = time.time_ns() // 1000
        at_us = requests[0].at_us or requested_us
        if len(requests) == 1:
            rows = requests[0].rows
            owners = requests * len(rows)
        else:
            rows = [row for request in requests for row in request.rows]
            owners = [request for request in requests for _ in request.rows]
        ids = self._ids.block(len(rows), requested_us)
        whole = Scored(
            self.release, self.variants[0], _NOTHING, ids, owners, rows, at_us, requested_us, 0.0
        )
        if len(self.variants) == 1:
            whole.vectors = self.variants[0].run(rows, at_us)
            parts, places = [whole], None
        else:
            parts, places = self._split(whole)
        answers = self._answers(requests, ids, parts, places)
        if self._refuses:
            self._refuse_incomplete(requests, answers, parts)
        done = time.perf_counter()
        for part in parts:
            part.done = done
        return answers, parts

    def _split(self, whole: Scored) -> tuple[list[Scored], _Places]:
        """Score each variant's rows; also where each row went."""
        rows, unit, salt = whole.rows, self._unit, self.release.endpoint
        chosen = [assigned(self._uppers, position(salt, unit(row) if unit else 0)) for row in rows]
        places: _Places = [(0, 0)] * len(rows)
        parts: list[Scored] = []
        for index, variant in enumerate(self.variants):
            mine = [place for place, which in enumerate(chosen) if which == index]
            if not mine:
                continue
            for number, place in enumerate(mine):
                places[place] = (len(parts), number)
            part = replace(
                whole,
                variant=variant,
                rows=[rows[place] for place in mine],
                ids=[whole.ids[place] for place in mine],
                owners=[whole.owners[place] for place in mine],
            )
            part.vectors = variant.run(part.rows, whole.at_us)
            parts.append(part)
        return parts, places

    # -- answer ---------------------------------------------------------------------

    def _answers(
        self,
        requests: list[Parsed],
        ids: list[str],
        parts: list[Scored],
        places: _Places | None,
    ) -> list[Told | FalajError]:
        """What each request is told.

        Args:
            requests: those that were scored together.
            ids: of all rows, in the order of the requests.
            parts: what each variant scored.
            places: for each row its part and its place there; None if there is one part.
        """
        scored = [part.vectors.outputs.tolist() for part in parts]
        scores = scored[0] if places is None else [scored[part][row] for part, row in places]
        finite = _finite(scores)
        answers: list[Told | FalajError] = []
        explained: _Explained | None = None
        place = 0
        for request in requests:
            end = place + len(request.rows)
            if request.explain & Explain.CONTRIBUTIONS and explained is None:
                explained = [_contributions(part) for part in parts]
            if request.request_id is None:
                request.request_id = ids[place]
                named = f'"{ids[place]}"'
            else:
                named = _quoted(request.request_id).decode()
            if request.render is not None:
                answers.append(self._rendered(request, ids, parts, places, place))
            elif end - place == 1 and places is None and finite and not request.explain:
                answers.append((self._lone % (named, ids[place], *scores[place])).encode())
            else:
                told = [
                    self._told(
                        row, ids[row], scores[row], parts, places, request.explain, explained
                    )
                    for row in range(place, end)
                ]
                answers.append(f'{{"request_id":{named},{self._head}{",".join(told)}]}}'.encode())
            place = end
        return answers

    def _told(
        self,
        row: int,
        one: str,
        scores: list[float],
        parts: list[Scored],
        places: _Places | None,
        explain: int,
        explained: _Explained | None,
    ) -> str:
        """One row of an answer."""
        item = self._item
        if not _finite([scores]):
            item = item.replace("%r", "%s")
            scores = [value if isfinite(value) else "null" for value in scores]  # type: ignore[misc]
        told = item % (one, *scores)
        which, place = (0, row) if places is None else places[row]
        part = parts[which]
        if places is not None:
            told = told[:-1] + self._tails[self.variants.index(part.variant)]
        if explain & Explain.FEATURES:
            shown = _quoted(_shown(part.vectors, place, part.variant)).decode()
            told = f'{told[:-1]},"features":{shown}}}'
        if explain & Explain.CONTRIBUTIONS and explained is not None:
            told = f'{told[:-1]},"contributions":{_quoted(explained[which][place]).decode()}}}'
        return told

    def _rendered(
        self,
        request: Parsed,
        ids: list[str],
        parts: list[Scored],
        places: _Places | None,
        first: int,
    ) -> Told | FalajError:
        """The answer in the request's own protocol."""
        n = len(request.rows)
        if request.render is None:
            raise AssertionError
        if places is None:
            outputs = parts[0].vectors.outputs[first : first + n]
            labels = [parts[0].variant.label] * n
        else:
            where = places[first : first + n]
            outputs = np.stack([parts[part].vectors.outputs[row] for part, row in where])
            labels = [parts[part].variant.label for part, _ in where]

        def scored(row: int) -> tuple[CompiledVariant, NDArray[np.float32]]:
            which, place = (0, first + row) if places is None else places[first + row]
            return parts[which].variant, parts[which].vectors.matrix[place]

        outcome = Outcome(ids[first : first + n], outputs, labels, scored)
        try:
            return request.render(self, request, outcome)
        except FalajError as error:
            return error

    def _refuse_incomplete(
        self, requests: list[Parsed], answers: list[Told | FalajError], parts: list[Scored]
    ) -> None:
        """Refuse the requests that lack a feature, and take their rows from the log."""
        lacking: dict[int, set[str]] = {}
        for part in parts:
            statuses = part.vectors.statuses
            if statuses is None:
                continue
            absent = (statuses != FeatureStatus.PRESENT) & np.isnan(part.vectors.matrix)
            absent[:, part.variant.from_request] = False
            for row, column in np.argwhere(absent).tolist():
                names = lacking.setdefault(id(part.owners[row]), set())
                names.add(part.variant.columns[column])
        if not lacking:
            return
        for index, request in enumerate(requests):
            if id(request) in lacking:
                named = sorted(lacking[id(request)])
                answers[index] = FeaturesMissing(
                    f"No fresh value of {', '.join(named)} for this input.",
                    hint="Push the features, or let the endpoint serve with missing=model.",
                    features=named,
                )
        parts[:] = [kept for part in parts if (kept := _without(part, lacking.keys())).ids]


def _without(part: Scored, refused: Collection[int]) -> Scored:
    """The part without the rows of the refused requests (by identity)."""
    kept = [place for place, owner in enumerate(part.owners) if id(owner) not in refused]
    vectors = part.vectors
    return replace(
        part,
        vectors=replace(
            vectors,
            matrix=vectors.matrix[kept],
            statuses=None if vectors.statuses is None else vectors.statuses[kept],
            times=None if vectors.times is None else vectors.times[kept],
            outputs=vectors.outputs[kept],
        ),
        ids=[part.ids[place] for place in kept],
        owners=[part.owners[place] for place in kept],
        rows=[part.rows[place] for place in kept],
    )


def _contributions(part: Scored) -> dict[int, dict[str, Any]]:
    """The contributions of the rows of a part whose requests ask for them, by place."""
    explanation = part.variant.explanation
    if explanation is None:  # parse has refused those requests
        return {}
    places = [
        place for place, owner in enumerate(part.owners) if owner.explain & Explain.CONTRIBUTIONS
    ]
    return dict(zip(places, explanation.told(part.vectors.matrix[places]), strict=True))


def _shown(vectors: Vectors, row: int, variant: CompiledVariant) -> dict[str, Any]:
    """The features of one row, for ``explain=features``."""
    shown: dict[str, Any] = {}
    for place, name in enumerate(variant.columns):
        value = float(vectors.matrix[row, place])
        feature: dict[str, Any] = {"value": value if isfinite(value) else None}
        if vectors.statuses is None:
            status = FeatureStatus.PRESENT if isfinite(value) else FeatureStatus.NULL
        else:
            status = FeatureStatus(int(vectors.statuses[row, place]))
        feature["status"] = status.name.lower()
        at = 0 if vectors.times is None else int(vectors.times[row, place])
        feature["event_time"] = from_microseconds(at).isoformat() if at else None
        shown[name] = feature
    return shown


def _decoder(fields: tuple[RequestField, ...]) -> tuple[Any, Callable[[bytes], Any]]:
    """The type of an input row, and what decodes a body."""
    required: list[tuple[str, Any]] = []
    optional: list[tuple[str, Any, Any]] = []
    for item in fields:
        kind = TYPES[item.type]
        if item.required:
            required.append((item.name, kind | None if item.nullable else kind))
        else:
            optional.append((item.name, kind | None, None))
    row = msgspec.defstruct("Row", [*required, *optional], forbid_unknown_fields=True, gc=False)
    request = msgspec.defstruct(
        "Request",
        [
            ("inputs", list[row]),  # type: ignore[valid-type]
            ("request_id", Annotated[str, msgspec.Meta(max_length=200)] | None, None),
            ("at", TYPES[FieldType.TIMESTAMP] | None, None),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(request).decode
    return row, decode


def _finite(scores: list[list[float]]) -> bool:
    total = 0.0
    for row in scores:
        for value in row:
            total += value
    return total - total == 0.0


def _templates(release: Release) -> tuple[str, str]:
    head = f'"release":"{release.id}","model":"{release.model}","predictions":['
    numbers = ",".join(
        f"{_quoted(name).decode().replace('%', '%%')}:%r" for name in release.outputs
    )
    return head, f'{{"id":"%s",{numbers}}}'


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:300].rstrip(".")
