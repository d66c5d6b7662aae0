"""A request on its way through a plan: decoded, scored, named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.serving.requests import Told

if TYPE_CHECKING:
    from falaj.serving.anomalies import Judged
    from falaj.serving.model import Release
    from falaj.serving.plan import RequestPlan
    from falaj.serving.trails import Trail
    from falaj.serving.variants import CompiledVariant, Vectors


class NumberRows(Sequence[dict[str, Any]]):
    """Rows of numbers that came as one matrix: no object for a row until somebody asks.

    Args:
        names: of the fields, in the order of the columns.
        matrix: float32 or float64 [n, fields]; NaN is missing.
    """

    __slots__ = ("matrix", "names")

    def __init__(self, names: tuple[str, ...], matrix: NDArray[Any]) -> None:
        self.names = names
        self.matrix = matrix

    def __len__(self) -> int:
        return len(self.matrix)

    def __getitem__(self, place: Any) -> Any:
        values = self.matrix[place].tolist()
        return dict(
            zip(self.names, (None if isnan(value) else value for value in values), strict=True)
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[place] for place in range(len(self.matrix)))

    @classmethod
    def joined(cls, parts: Sequence[NumberRows]) -> NumberRows:
        """The rows of several requests behind one another."""
        if len(parts) == 1:
            return parts[0]
        return cls(parts[0].names, np.concatenate([part.matrix for part in parts]))


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
    judged: Judged | None = None
    """How unlike the training rows each row is, where the release tags anomalies."""


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
        rows: Sequence[Any],
        request_id: str | None,
        at_us: int | None,
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
Failed = Mapping[str, Sequence[tuple[Parsed, Any]]]
"""By variant, the requests that it failed on, each with the first row of which that is known."""


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
    rows: Sequence[Any]
    """The decoded input rows."""
    at_us: int
    """The instant that the predictions are about (Unix microseconds)."""
    requested_us: int
    done: float
    """``time.perf_counter()`` when the answers were made."""
    instants: NDArray[np.int64] | None = None
    """int64 [n]: the instant of each row, where the rows of a run are about several; then
    ``at_us`` is that of the first."""
    failed: Failed | None = None
    """Requests for which this champion stood in, by the variant that failed on them, each with
    the first of its rows that it failed on."""
    stood_in: frozenset[int] = frozenset()
    """The requests (by identity) for which it stood in, also those that were not tried any more:
    their units are those of other variants. Empty where the champion has no units of its own,
    for then only these requests tell that it would not have failed."""
    shadow: bool = False
    """It was scored behind the answer, which told nothing of it."""

    @property
    def n_rows(self) -> int:
        """How many predictions these are."""
        return len(self.ids)

    def only(self, places: Sequence[int]) -> Scored:
        """Some of the rows, by their places."""
        vectors, instants, rows = self.vectors, self.instants, self.rows
        return replace(
            self,
            vectors=replace(
                vectors,
                matrix=vectors.matrix[places],
                statuses=None if vectors.statuses is None else vectors.statuses[places],
                times=None if vectors.times is None else vectors.times[places],
                outputs=vectors.outputs[places],
                judged=None if vectors.judged is None else vectors.judged.only(places),
            ),
            ids=[self.ids[place] for place in places],
            owners=[self.owners[place] for place in places],
            rows=NumberRows(rows.names, rows.matrix[places])
            if isinstance(rows, NumberRows)
            else [rows[place] for place in places],
            instants=None if instants is None else instants[places],
        )

    def by_instant(self) -> list[Scored]:
        """The rows in parts that are each about one instant, as the log takes them."""
        if self.instants is None:
            return [self]
        places: dict[int, list[int]] = {}
        for place, at_us in enumerate(self.instants.tolist()):
            places.setdefault(at_us, []).append(place)
        return [
            replace(self.only(some), at_us=at_us, instants=None) for at_us, some in places.items()
        ]


_MANY = 16
"""So many ids are counted faster by numpy."""


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
        if n < _MANY:
            return [f"{head}{(first + i) & 0xFFFFFFFF:08x}" for i in range(n)]
        counts = np.arange(first, first + n, dtype=np.uint64).astype(">u4").tobytes().hex()
        return [head + counts[place : place + 8] for place in range(0, 8 * n, 8)]
