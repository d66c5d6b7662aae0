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
from math import isfinite
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from falaj.kernel.clock import from_microseconds, microseconds
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.errors import BadRequest, BodyTooLarge, FeaturesMissing
from falaj.serving.model import FeatureStatus, FieldType, MissingPolicy, Release, RequestField
from falaj.serving.variants import CompiledVariant, Vectors

if TYPE_CHECKING:
    from falaj.serving.model import ServableModel
    from falaj.serving.ports import Bundles, FeatureReader, FeatureReaders, LoadedModel, Runtime

_FLOAT32_MAX = 3.4028234e38
_TYPES: Mapping[FieldType, Any] = {
    FieldType.FLOAT: Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)],
    FieldType.INT: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)],
    FieldType.STRING: Annotated[str, msgspec.Meta(max_length=4_096)],
    FieldType.BOOLEAN: bool,
    FieldType.TIMESTAMP: Annotated[datetime, msgspec.Meta(tz=True)],
}
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
        self.aside = aside or self
        self.release = release
        self.limits = release.limits
        self.variants = tuple(variants)
        self._ids = ids
        self._decode = _decoder(release.fields)
        self._uppers = bounds([variant.share for variant in release.variants])
        self._unit = attrgetter(release.unit) if release.unit else None
        self._head, self._item = _templates(release)
        self._refuses = release.missing is MissingPolicy.REFUSE

    # -- parse ----------------------------------------------------------------------

    def parse(self, body: bytes, *, caller: str, started: float, explain: bool = False) -> Parsed:
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

    def score(self, requests: list[Parsed]) -> tuple[list[bytes | FalajError], list[Scored]]:
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
        if len(self.variants) == 1:
            vectors = self.variants[0].run(rows, at_us)
            told = self._items(ids, vectors, owners, self.variants[0])
            parts = [
                Scored(self.release, self.variants[0], vectors, ids, owners, rows, at_us,
                       requested_us, 0.0)
            ]  # fmt: skip
        else:
            told, parts = self._split(rows, owners, ids, at_us, requested_us)
        answers = self._answers(requests, ids, told)
        if self._refuses:
            self._refuse_incomplete(requests, answers, parts)
        done = time.perf_counter()
        for part in parts:
            part.done = done
        return answers, parts

    def _split(
        self, rows: list[Any], owners: list[Parsed], ids: list[str], at_us: int, requested_us: int
    ) -> tuple[list[str], list[Scored]]:
        """Score each variant's rows; the items come back in the order of the rows."""
        unit, salt = self._unit, self.release.endpoint
        chosen = [assigned(self._uppers, position(salt, unit(row) if unit else 0)) for row in rows]
        told = [""] * len(rows)
        parts = []
        for index, variant in enumerate(self.variants):
            mine = [place for place, which in enumerate(chosen) if which == index]
            if not mine:
                continue
            its_rows, its_ids = [rows[place] for place in mine], [ids[place] for place in mine]
            its_owners = [owners[place] for place in mine]
            vectors = variant.run(its_rows, at_us)
            tail = f',"variant":"{variant.variant.name}","model":"{variant.label}"}}'
            items = self._items(its_ids, vectors, its_owners, variant)
            for place, item in zip(mine, items, strict=True):
                told[place] = item[:-1] + tail
            parts.append(
                Scored(self.release, variant, vectors, its_ids, its_owners, its_rows, at_us,
                       requested_us, 0.0)
            )  # fmt: skip
        return told, parts

    # -- answer ---------------------------------------------------------------------

    def _items(
        self, ids: list[str], vectors: Vectors, owners: list[Parsed], variant: CompiledVariant
    ) -> list[str]:
        outputs = vectors.outputs
        scores = outputs.tolist()
        item = self._item
        if not isfinite(float(outputs.sum())):
            scores = [[value if isfinite(value) else "null" for value in row] for row in scores]
            item = item.replace("%r", "%s")
        told = [item % (one, *score) for one, score in zip(ids, scores, strict=True)]
        for place, owner in enumerate(owners):
            if owner.explain:
                shown = _quoted(_shown(vectors, place, variant)).decode()
                told[place] = f'{told[place][:-1]},"features":{shown}}}'
        return told

    def _answers(
        self, requests: list[Parsed], ids: list[str], told: list[str]
    ) -> list[bytes | FalajError]:
        head = self._head
        answers: list[bytes | FalajError] = []
        place = 0
        for request in requests:
            end = place + len(request.rows)
            if request.request_id is None:
                request.request_id = ids[place]
                named = f'"{ids[place]}"'
            else:
                named = _quoted(request.request_id).decode()
            items = ",".join(told[place:end])
            answers.append(f'{{"request_id":{named},{head}{items}]}}'.encode())
            place = end
        return answers

    def _refuse_incomplete(
        self, requests: list[Parsed], answers: list[bytes | FalajError], parts: list[Scored]
    ) -> None:
        """Refuse the requests that lack a feature, and take their rows from the log."""
        lacking: dict[int, set[str]] = {}
        for part in parts:
            statuses = part.vectors.statuses
            if statuses is None:
                continue
            absent = (statuses != FeatureStatus.PRESENT) & np.isnan(part.vectors.matrix)
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
        vectors=Vectors(
            vectors.matrix[kept],
            None if vectors.statuses is None else vectors.statuses[kept],
            None if vectors.times is None else vectors.times[kept],
            vectors.outputs[kept],
        ),
        ids=[part.ids[place] for place in kept],
        owners=[part.owners[place] for place in kept],
        rows=[part.rows[place] for place in kept],
    )


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

    def compile(self, release: Release) -> RequestPlan:
        """The plan of a release, warm.

        Raises:
            Corrupt: a bundle does not verify, or is no model.
            NotFound: a bundle is not there.
            InvalidInput: a model's input is neither a feature nor a request field.
        """
        variants: list[CompiledVariant] = []
        twins: list[CompiledVariant] = []
        for variant in release.variants:
            servable = self._bundles.open(variant.bundle)
            runtime = self._runtimes.get(servable.format)
            if runtime is None:
                raise InvalidInput(
                    f"No runtime here loads models of format {servable.format!r}.",
                    hint=f"Known formats: {', '.join(sorted(self._runtimes))}.",
                )
            if servable.outputs != release.outputs:
                raise InvalidInput(
                    f"{variant.label} gives {', '.join(servable.outputs)}; the release "
                    f"promises {', '.join(release.outputs)}.",
                    hint="Deploy the endpoint again.",
                )
            model = runtime.load(servable)
            for compiled in (variants, twins):
                reader = self._reader(release, servable)
                compiled.append(CompiledVariant(release, variant, servable, model, reader))
            _warm(model, servable.sample)
        aside = RequestPlan(release, twins, PredictionIds())
        return RequestPlan(release, variants, PredictionIds(), aside=aside)

    def _reader(self, release: Release, servable: ServableModel) -> FeatureReader | None:
        if release.features is None:
            return None
        if self._features is None:
            raise InvalidInput(
                f"The release {release.id} needs the feature service {release.feature_service!r}, "
                "and this worker has no online store.",
                hint="Set `online` in the settings.",
            )
        return self._features.compile(release.features, servable.categories)


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
