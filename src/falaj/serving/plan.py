"""The compiled request plan of a release: from a request's bytes to its answer's bytes.

Everything that can be decided once is decided when the plan is compiled: the decoder of
the body, where each model input comes from, the text of the answer around the numbers.
Requests that arrive together are scored together, in one run of the model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from math import isfinite
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.errors import BadRequest, BodyTooLarge, FeaturesMissing, ModelFailed
from falaj.serving.model import FeatureStatus, FieldType, MissingPolicy, Release, RequestField

if TYPE_CHECKING:
    from falaj.serving.ports import Bundles, FeatureReader, FeatureReaders, LoadedModel, Runtime

_FLOAT32_MAX = 3.4028234e38
_TYPES: Mapping[FieldType, Any] = {
    FieldType.FLOAT: Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)],
    FieldType.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    FieldType.STRING: Annotated[str, msgspec.Meta(max_length=4_096)],
    FieldType.BOOLEAN: bool,
    FieldType.TIMESTAMP: Annotated[datetime, msgspec.Meta(tz=True)],
}
_NUMBERS = (FieldType.FLOAT, FieldType.INT, FieldType.BOOLEAN)
_quoted = msgspec.json.Encoder().encode


class Parsed:
    """One request, decoded and checked; what becomes of it is noted on it."""

    __slots__ = ("at_us", "caller", "explain", "request_id", "rows", "started")

    def __init__(
        self,
        rows: list[Any],
        request_id: str | None,
        at_us: int | None,
        *,
        explain: bool,
        caller: str,
        started: float,
    ) -> None:
        self.rows = rows
        self.request_id = request_id
        self.at_us = at_us
        """The instant that the request is about (Unix microseconds); None is now."""
        self.explain = explain
        self.caller = caller
        self.started = started
        """``time.perf_counter()`` when the request arrived."""


@dataclass(slots=True)
class Scored:
    """Requests that were scored in one run, as the prediction log takes them."""

    plan: RequestPlan
    requests: list[Parsed]
    ids: list[str]
    """One for each row, in order of the requests."""
    matrix: NDArray[np.float32]
    """[n, columns of the plan]."""
    statuses: NDArray[np.uint8] | None
    event_times: NDArray[np.int64] | None
    outputs: NDArray[np.floating[Any]]
    chosen: list[int] | None
    """The variant of each row; None where there is one only."""
    at_us: int
    requested_us: int
    latencies_us: list[int]

    @property
    def n_rows(self) -> int:
        """How many predictions these are."""
        return len(self.ids)


class PredictionIds:
    """Makes prediction ids (UUIDv7 in form): sortable, unique over workers.

    Random for each worker, counted within it: an id needs to be unique, not secret, and
    eight calls of ``os.urandom`` would cost as much as the model.
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
        return [f"{head}{(first + i) & 0xFFFFFFFF:08x}" for i in range(n)]


@dataclass(frozen=True, slots=True)
class _Column:
    """Where one column of the plan's matrix comes from."""

    name: str
    from_request: bool


class RequestPlan:
    """A release, compiled. Made by ``compiled``; scores from one thread at a time.

    Attributes:
        columns: names of the matrix' columns: the features, then the request's numbers.
    """

    def __init__(
        self,
        release: Release,
        models: Sequence[LoadedModel],
        inputs: Sequence[Sequence[str]],
        reader: FeatureReader | None,
        ids: PredictionIds,
    ) -> None:
        self.release = release
        self.limits = release.limits
        self._models = tuple(models)
        self._reader = reader
        self._ids = ids
        self._decode = _decoder(release.fields)
        known = reader.names if reader else ()
        columns = _columns(release, known, inputs)
        self.columns = tuple(column.name for column in columns)
        asked = [column.name for column in columns if column.from_request]
        self._numbers = _getter(asked) if asked else None
        order = {name: place for place, name in enumerate(self.columns)}
        self._places = [_gather([order[name] for name in names], len(columns)) for names in inputs]
        self._uppers = bounds([variant.share for variant in release.variants])
        self._unit = attrgetter(release.unit) if release.unit else None
        self._asdict = msgspec.structs.asdict
        self._head, self._item = _templates(release)
        self._refuses = release.missing is MissingPolicy.REFUSE

    # -- parse ----------------------------------------------------------------------

    def parse(
        self, body: bytes, *, caller: str, started: float, explain: bool = False
    ) -> Parsed:
        """Decode and check a body.

        Raises:
            BadRequest: it is not JSON, or has a missing, unknown or wrongly typed field.
            BodyTooLarge: more rows than the endpoint takes.
        """
        try:
            decoded = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadRequest(
                f"The body is not what {self.release.endpoint!r} takes: {_told(error)}.",
                hint=self._shape(),
            ) from None
        n = len(decoded.inputs)
        if n > self.limits.rows:
            raise BodyTooLarge(
                f"{n} rows in one request; {self.release.endpoint!r} takes {self.limits.rows}.",
                hint="Send them in several requests.",
            )
        if n == 0:
            raise BadRequest("The body has no inputs.", hint=self._shape())
        at = decoded.at
        return Parsed(
            decoded.inputs,
            decoded.request_id,
            None if at is None else microseconds(at),
            explain=explain,
            caller=caller,
            started=started,
        )

    def _shape(self) -> str:
        fields = ", ".join(
            f'"{item.name}": {item.type}{"" if item.required else " (optional)"}'
            for item in self.release.fields
        )
        return f'Send {{"inputs": [{{{fields}}}]}}.'

    # -- score ----------------------------------------------------------------------

    def score(self, requests: list[Parsed]) -> tuple[Scored, list[bytes | FalajError]]:
        """Score requests that are about one instant, in one run.

        Returns:
            the scored rows of the answered requests, and for each request its answer (JSON) or
            why it gets none.

        Raises:
            FalajError: none of them could be scored.
        """
        requested_us = time.time_ns() // 1000
        at_us = requests[0].at_us or requested_us
        rows = requests[0].rows
        if len(requests) > 1:
            rows = [row for request in requests for row in request.rows]
        matrix, statuses, times = self._matrix(rows, at_us)
        chosen = self._chosen(rows)
        outputs = self._outputs(matrix, chosen)
        ids = self._ids.block(len(rows), requested_us)
        answers = self._answers(requests, ids, matrix, statuses, times, outputs, chosen)
        now = time.perf_counter()
        scored = Scored(
            plan=self,
            requests=requests,
            ids=ids,
            matrix=matrix,
            statuses=statuses,
            event_times=times,
            outputs=outputs,
            chosen=chosen,
            at_us=at_us,
            requested_us=requested_us,
            latencies_us=[int((now - request.started) * 1e6) for request in requests],
        )
        if self._refuses and statuses is not None and statuses.any():
            return self._without_refused(scored, answers)
        return scored, answers

    def _matrix(
        self, rows: list[Any], at_us: int
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.int64] | None]:
        numbers: NDArray[np.float32] | None = None
        if self._numbers is not None:
            # numpy turns None into NaN, the model's own missing value.
            numbers = np.array(list(map(self._numbers, rows)), dtype=np.float32)
        if self._reader is None:
            if numbers is None:
                raise AssertionError
            return numbers, None, None
        asdict = self._asdict
        try:
            values, statuses, times = self._reader.read([asdict(row) for row in rows], at_us)
        except FalajError:
            raise
        except Exception as error:  # noqa: BLE001 - a declared on-demand function is the user's
            raise ModelFailed(
                f"The features of {self.release.endpoint!r} failed on this input: "
                f"{type(error).__name__}: {error}.",
                hint="Mend the on-demand feature function, or the input.",
            ) from error
        if numbers is not None:
            values = np.concatenate((values, numbers), axis=1)
        return values, statuses, times

    def _chosen(self, rows: list[Any]) -> list[int] | None:
        unit = self._unit
        if len(self._models) == 1 or unit is None:
            return None
        salt = self.release.endpoint
        return [assigned(self._uppers, position(salt, unit(row))) for row in rows]

    def _outputs(
        self, matrix: NDArray[np.float32], chosen: list[int] | None
    ) -> NDArray[np.floating[Any]]:
        try:
            if chosen is None:
                place = self._places[0]
                return self._models[0].run(matrix if place is None else matrix.take(place, axis=1))
            outputs = np.empty((len(matrix), len(self.release.outputs)), dtype=np.float64)
            owners = np.asarray(chosen)
            for index, (model, place) in enumerate(zip(self._models, self._places, strict=True)):
                mine = np.flatnonzero(owners == index)
                if len(mine):
                    part = matrix[mine] if place is None else matrix[mine].take(place, axis=1)
                    outputs[mine] = model.run(part)
        except FalajError:
            raise
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything
            raise ModelFailed(
                f"The model of {self.release.endpoint!r} failed: {type(error).__name__}: {error}.",
                hint="Roll the endpoint back: `falaj endpoints rollback NAME`.",
            ) from error
        return outputs

    # -- answer ---------------------------------------------------------------------

    def _answers(
        self,
        requests: list[Parsed],
        ids: list[str],
        matrix: NDArray[np.float32],
        statuses: NDArray[np.uint8] | None,
        times: NDArray[np.int64] | None,
        outputs: NDArray[np.floating[Any]],
        chosen: list[int] | None,
    ) -> list[bytes | FalajError]:
        scores: list[list[float | None]] = outputs.tolist()
        item = self._item
        if not isfinite(float(outputs.sum())):
            scores, item = _without_infinities(scores), _nullable(item)
        if chosen is None:
            told = [item % (one, *score) for one, score in zip(ids, scores, strict=True)]
        else:
            variants = self.release.variants
            told = [
                (item % (one, *score))[:-1]
                + f',"variant":"{variants[which].name}","model":"{variants[which].label}"}}'
                for one, score, which in zip(ids, scores, chosen, strict=True)
            ]
        if any(request.explain for request in requests):
            told = self._explained(requests, told, matrix, statuses, times)
        head = self._head
        if len(requests) == 1:
            return [_answer(requests[0], ids[0], head, told)]
        items, firsts = iter(told), iter(ids)
        answers: list[bytes | FalajError] = []
        for request in requests:
            n = len(request.rows)
            first = next(firsts)
            answers.append(_answer(request, first, head, list(islice(items, n))))
            next(islice(firsts, n - 1, n - 1), None)
        return answers

    def _explained(
        self,
        requests: list[Parsed],
        told: list[str],
        matrix: NDArray[np.float32],
        statuses: NDArray[np.uint8] | None,
        times: NDArray[np.int64] | None,
    ) -> list[str]:
        """The items with the features that they were made of, where that was asked for."""
        explained = []
        place = 0
        for request in requests:
            for _ in request.rows:
                if request.explain:
                    shown = _quoted(self._shown(place, matrix, statuses, times)).decode()
                    explained.append(f'{told[place][:-1]},"features":{shown}}}')
                else:
                    explained.append(told[place])
                place += 1
        return explained

    def _shown(
        self,
        row: int,
        matrix: NDArray[np.float32],
        statuses: NDArray[np.uint8] | None,
        times: NDArray[np.int64] | None,
    ) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        for place, name in enumerate(self.columns):
            value = float(matrix[row, place])
            feature: dict[str, Any] = {"value": value if isfinite(value) else None}
            if statuses is not None and place < statuses.shape[1]:
                feature["status"] = FeatureStatus(int(statuses[row, place])).name.lower()
                at = int(times[row, place]) if times is not None else 0
                feature["event_time"] = from_microseconds(at).isoformat() if at else None
            else:
                feature["status"] = "request"
            shown[name] = feature
        return shown

    def _without_refused(
        self, scored: Scored, answers: list[bytes | FalajError]
    ) -> tuple[Scored, list[bytes | FalajError]]:
        """Take out the requests of which a feature is missing or expired."""
        statuses = scored.statuses
        if statuses is None:
            raise AssertionError
        absent = (statuses == FeatureStatus.MISSING) | (statuses == FeatureStatus.EXPIRED)
        kept_requests: list[Parsed] = []
        kept_rows: list[int] = []
        latencies = []
        place = 0
        for index, request in enumerate(scored.requests):
            rows = range(place, place + len(request.rows))
            place += len(request.rows)
            lacking = absent[rows.start : rows.stop].any(axis=0)
            if lacking.any():
                names = [self.columns[int(column)] for column in np.flatnonzero(lacking)]
                answers[index] = FeaturesMissing(
                    f"No fresh value of {', '.join(names)} for this input.",
                    hint="Push the features, or let the endpoint serve with missing=model.",
                    features=names,
                )
                continue
            kept_requests.append(request)
            kept_rows.extend(rows)
            latencies.append(scored.latencies_us[index])
        scored.requests, scored.latencies_us = kept_requests, latencies
        scored.ids = [scored.ids[row] for row in kept_rows]
        scored.matrix, scored.outputs = scored.matrix[kept_rows], scored.outputs[kept_rows]
        scored.statuses = statuses[kept_rows]
        if scored.event_times is not None:
            scored.event_times = scored.event_times[kept_rows]
        if scored.chosen is not None:
            scored.chosen = [scored.chosen[row] for row in kept_rows]
        return scored, answers


class PlanCompiler:
    """Compiles releases: opens and verifies their bundles, loads and warms their models.

    Args:
        bundles: opens bundles that verify.
        runtimes: one for each model format.
        features: compiles readers of feature services; None where there is no store.
    """

    def __init__(
        self, bundles: Bundles, runtimes: Sequence[Runtime], features: FeatureReaders | None
    ) -> None:
        self._bundles = bundles
        self._runtimes = {name: runtime for runtime in runtimes for name in runtime.formats}
        self._features = features
        self._ids = PredictionIds()

    def compile(self, release: Release) -> RequestPlan:
        """The plan of a release, warm.

        Raises:
            Corrupt: a bundle does not verify, or is no model.
            NotFound: a bundle is not there.
            InvalidInput: a model's input is neither a feature nor a request field.
        """
        models, inputs, samples = [], [], []
        for variant in release.variants:
            servable = self._bundles.open(variant.bundle)
            runtime = self._runtimes.get(servable.format)
            if runtime is None:
                raise InvalidInput(
                    f"No runtime here loads models of format {servable.format!r}.",
                    hint=f"Known formats: {', '.join(sorted(self._runtimes))}.",
                )
            if len(servable.outputs) != len(release.outputs):
                raise InvalidInput(
                    f"{variant.label} gives {len(servable.outputs)} outputs, the release names "
                    f"{len(release.outputs)}.",
                    hint="Deploy the endpoint again.",
                )
            models.append(runtime.load(servable))
            inputs.append(servable.inputs)
            samples.append(servable.sample)
        plan = RequestPlan(release, models, inputs, self._reader(release), self._ids)
        for model, sample in zip(models, samples, strict=True):
            _warm(model, sample)
        return plan

    def _reader(self, release: Release) -> FeatureReader | None:
        if release.features is None:
            return None
        if self._features is None:
            raise InvalidInput(
                f"The release {release.id} needs the feature service {release.feature_service!r}, "
                "and this worker has no online store.",
                hint="Set `online` in the settings.",
            )
        return self._features.compile(release.features)


def _warm(model: LoadedModel, sample: tuple[tuple[float, ...], ...]) -> None:
    rows = np.array(sample or [[0.0] * model.n_inputs], dtype=np.float32)
    for n in (1, 1, len(rows)):
        model.run(np.ascontiguousarray(rows[:n]))


def _decoder(fields: tuple[RequestField, ...]) -> Callable[[bytes], Any]:
    required: list[tuple[str, Any]] = []
    optional: list[tuple[str, Any, Any]] = []
    for item in fields:
        kind = _TYPES[item.type]
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
            ("at", _TYPES[FieldType.TIMESTAMP] | None, None),
        ],
        forbid_unknown_fields=True,
        gc=False,
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(request).decode
    return decode


def _columns(
    release: Release, known: Sequence[str], inputs: Sequence[Sequence[str]]
) -> list[_Column]:
    columns = [_Column(name, from_request=False) for name in known]
    fields = {item.name: item for item in release.fields}
    placed = set(known)
    for names in inputs:
        for name in names:
            if name in placed:
                continue
            item = fields.get(name)
            if item is None:
                raise InvalidInput(
                    f"The model's input {name!r} is neither a feature of "
                    f"{release.feature_service!r} nor a field of the request.",
                    hint="Deploy with the feature service that the model was trained on.",
                )
            if item.type not in _NUMBERS:
                raise InvalidInput(
                    f"The model's input {name!r} is a request field of type {item.type}; "
                    "a model takes numbers.",
                    hint="Encode it in an on-demand feature.",
                )
            columns.append(_Column(name, from_request=True))
            placed.add(name)
    return columns


def _gather(places: list[int], width: int) -> NDArray[np.intp] | None:
    """The places as an index, or None if they are all columns in order."""
    return None if places == list(range(width)) else np.array(places, dtype=np.intp)


def _getter(names: list[str]) -> Callable[[Any], Any]:
    if len(names) > 1:
        return attrgetter(*names)
    one = attrgetter(names[0])
    return lambda row: (one(row),)


def _templates(release: Release) -> tuple[str, str]:
    head = f'"release":"{release.id}","model":"{release.model}","predictions":['
    numbers = ",".join(f'{_quoted(name).decode().replace("%", "%%")}:%r' for name in release.outputs)
    return head, f'{{"id":"%s",{numbers}}}'


def _answer(request: Parsed, first: str, head: str, told: list[str]) -> bytes:
    if request.request_id is None:
        request.request_id = first
        named = f'"{first}"'
    else:
        named = _quoted(request.request_id).decode()
    return f'{{"request_id":{named},{head}{",".join(told)}]}}'.encode()


def _nullable(item: str) -> str:
    return item.replace("%r", "%s")


def _without_infinities(scores: list[list[float | None]]) -> list[list[Any]]:
    return [
        ["null" if value is None or not isfinite(value) else repr(value) for value in row]
        for row in scores
    ]


def _told(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error)[:300].rstrip(".")
