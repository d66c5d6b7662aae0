"""Scoring of a batch of rows through a release's plan, by column where that is possible.

Every input row has exactly one output row, in order. A row that a live request would be
refused for has null outputs and the reason in the column ``error``. A model whose inputs all
come with the request is given them as columns: one float32 matrix, block by block, without an
object for each row. Features are read as for live requests, row by row. Where rows are refused
together, they are halved until it is known which of them are: one row costs 2 log2 n runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from falaj.kernel.errors import FalajError
from falaj.serving.anomalies import Judged, tag_columns
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.batchfields import ARROW, Checked, FieldCheck
from falaj.serving.model import FeatureStatus, MissingPolicy

if TYPE_CHECKING:
    from falaj.serving.plan import RequestPlan
    from falaj.serving.variants import CompiledVariant, Vectors

BLOCK_ROWS = 4_096
"""Rows of one run of a model: 20 float32 inputs of them are 320 KiB, within a core's cache."""
ROWS_AT_ONCE = 2_048
"""Rows whose features are read at once."""
_ISOLATING_SECONDS = 60.0
"""So long rows that fail together are told apart; a model that hangs on each must not take
hours of it."""
Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass
class Block:
    """What became of n rows."""

    outputs: Floats
    """[n, outputs]; NaN where ``errors`` says why there is none."""
    variants: NDArray[np.int32]
    """(n,) the place of the variant in the release; -1 where no variant was assigned."""
    errors: dict[int, str] = field(default_factory=dict)
    """Why a row has no outputs, by its place."""
    judged: Judged | None = None
    """How unlike the training rows each is, where the release tags anomalies; NaN where there are
    no outputs."""


class BatchPlan:
    """A compiled release, asked for batches of rows; from one thread at a time.

    Args:
        plan: the release's plan. Compiled with ``HistoricalFeatures`` it answers each row as
            of its instant, with the reader of an inference worker as things stand now.
        as_text: the columns hold the text of a CSV file.
    """

    def __init__(self, plan: RequestPlan, *, as_text: bool = False) -> None:
        release = plan.release
        self._plan = plan
        self.outputs = release.outputs
        self._checks = {item.name: FieldCheck(item, as_text=as_text) for item in release.fields}
        self._uppers = bounds([variant.share for variant in release.variants])
        self._refuses = release.missing is MissingPolicy.REFUSE
        self._tags = bool(tag_columns(release))
        self._matrices = {
            index: _Matrix(variant)
            for index, variant in enumerate(plan.variants)
            if not variant.reads_features
        }

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(self._checks)

    def scored(
        self,
        columns: Mapping[str, pa.Array],
        n: int,
        at_us: int | Places,
        errors: dict[int, str],
        *,
        first_only: bool = False,
    ) -> Block:
        """Score n rows.

        Args:
            columns: by request field; one that is not there is null in each row.
            at_us: the instant, one for all rows or one for each.
            errors: rows that are not to be scored, and why, by their place.
            first_only: of rows that fail together only the first one is looked for; those
                behind it may have neither outputs nor a reason.

        Raises:
            FalajError: none can be scored now (the online store does not answer, ...), or
                those that fail could not be told apart in a minute.
        """
        block = Block(
            np.full((n, len(self.outputs)), np.nan),
            np.full(n, -1, np.int32),
            dict(errors),
            Judged.nothing(n) if self._tags else None,
        )
        checked = {name: one.checked(columns.get(name), n) for name, one in self._checks.items()}
        for found in checked.values():
            for place, reason in found.reasons.items():
                block.errors.setdefault(place, reason)
        values = {name: found.values for name, found in checked.items()}
        good = _good(checked, errors, n)
        for index, places in self._assigned(values, good, n):
            block.variants[slice(None) if places is None else places] = index
            if index in self._matrices:
                chosen = np.arange(n) if places is None else places
                self._by_column(index, values, places, chosen, block, first_only=first_only)
            else:
                chosen = np.arange(n) if places is None else places
                self._by_row(index, values, chosen, at_us, block, first_only=first_only)
        return block

    def _assigned(
        self, values: Mapping[str, pa.Array], good: Places | None, n: int
    ) -> list[tuple[int, Places | None]]:
        """The variants with the places of their rows; None for all rows."""
        if n == 0 or (good is not None and not len(good)):
            return []
        release = self._plan.release
        if len(self._plan.variants) == 1:
            return [(0, good)]
        units = values[release.unit or ""].dictionary_encode()
        chosen = [
            assigned(self._uppers, position(release.endpoint, unit))
            for unit in units.dictionary.to_pylist()
        ]
        chosen.append(assigned(self._uppers, position(release.endpoint, None)))
        codes = pc.fill_null(units.indices, len(chosen) - 1).to_numpy(zero_copy_only=False)
        which = np.array(chosen)[codes]
        if good is not None:
            kept = np.zeros(n, np.bool_)
            kept[good] = True
            which = np.where(kept, which, -1)
        return [
            (index, places)
            for index in range(len(self._plan.variants))
            if len(places := np.flatnonzero(which == index))
        ]

    def _by_column(
        self,
        index: int,
        values: Mapping[str, pa.Array],
        taken: Places | None,
        places: Places,
        block: Block,
        *,
        first_only: bool,
    ) -> None:
        variant, matrix = self._plan.variants[index], self._matrices[index]
        inputs = matrix.columns(values, taken)
        for start in range(0, len(places), BLOCK_ROWS):
            some = places[start : start + BLOCK_ROWS]
            filled = matrix.filled(inputs, start, start + len(some))

            def score(part: slice, some: Places = some, filled: Any = filled) -> None:
                block.outputs[some[part]] = variant.scored(filled[part])
                if variant.tags is not None and block.judged is not None:
                    block.judged.put(some[part], variant.tags.judged(filled[part]))

            _isolated(score, some, block, first_only=first_only)

    def _by_row(
        self,
        index: int,
        values: Mapping[str, pa.Array],
        places: Places,
        at_us: int | Places,
        block: Block,
        *,
        first_only: bool,
    ) -> None:
        variant = self._plan.variants[index]
        for start in range(0, len(places), ROWS_AT_ONCE):
            some = places[start : start + ROWS_AT_ONCE]
            taken = pa.table(dict(values)).take(pa.array(some)) if values else None
            dicts = taken.to_pylist() if taken is not None else [{} for _ in some]
            rows = msgspec.convert(dicts, list[self._plan.row_type])  # type: ignore[name-defined]

            def score(part: slice, some: Places = some, rows: list[Any] = rows) -> None:
                its = some[part]
                at = at_us if isinstance(at_us, int) else at_us[its]
                vectors = variant.run(rows[part], at)
                block.outputs[its] = vectors.outputs
                if vectors.judged is not None and block.judged is not None:
                    block.judged.put(its, vectors.judged)
                if self._refuses and vectors.statuses is not None:
                    self._refuse(variant, vectors, its, block)

            _isolated(score, some, block, first_only=first_only)

    def _refuse(
        self, variant: CompiledVariant, vectors: Vectors, places: Places, block: Block
    ) -> None:
        """Take the outputs of rows that lack a feature, as a live request would be refused."""
        statuses = vectors.statuses
        absent = (statuses != FeatureStatus.PRESENT) & np.isnan(vectors.matrix)
        absent[:, variant.from_request] = False
        for row in np.flatnonzero(absent.any(axis=1)).tolist():
            names = sorted({variant.columns[column] for column in np.flatnonzero(absent[row])})
            place = int(places[row])
            block.outputs[place] = np.nan
            if block.judged is not None:
                block.judged.put(np.array([place]), Judged.nothing(1))
            block.errors[place] = f"No fresh value of {', '.join(names)} for this input."


class _Matrix:
    """Lays the columns of checked fields out as the input of one variant's model."""

    def __init__(self, variant: CompiledVariant) -> None:
        self._names = variant.columns
        self._words = {
            name: {word: float(place) for place, word in enumerate(words)}
            for name, words in variant.categories.items()
        }
        self._space = np.empty((BLOCK_ROWS, len(self._names)), np.float32)

    def columns(
        self, values: Mapping[str, pa.Array], places: Places | None
    ) -> list[NDArray[np.float32]]:
        """Each input as float32, NaN where it is null, for the chosen rows."""
        chosen = None if places is None else pa.array(places)
        return [
            self._column(name, values[name] if chosen is None else values[name].take(chosen))
            for name in self._names
        ]

    def _column(self, name: str, values: pa.Array) -> NDArray[np.float32]:
        words = self._words.get(name)
        if words is not None:
            unique = values.dictionary_encode()
            known = [words.get(str(word), np.nan) for word in unique.dictionary.to_pylist()]
            known.append(words.get(str(None), np.nan))
            codes = pc.fill_null(unique.indices, len(known) - 1).to_numpy(zero_copy_only=False)
            places: NDArray[np.float32] = np.array(known, np.float32)[codes]
            return places
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        if pa.types.is_integer(values.type):
            values = values.cast(pa.float64(), safe=False)
        numbers: NDArray[np.float32] = np.asarray(values.to_numpy(zero_copy_only=False), np.float32)
        return numbers

    def filled(
        self, inputs: Sequence[NDArray[np.float32]], start: int, end: int
    ) -> NDArray[np.float32]:
        """The matrix of some rows; valid until the next call."""
        space = self._space[: end - start]
        for place, column in enumerate(inputs):
            space[:, place] = column[start:end]
        return space


def _isolated(
    score: Callable[[slice], None], places: Places, block: Block, *, first_only: bool
) -> None:
    """Score rows; where they are refused together, find which of them are, by halving.

    Args:
        score: scores a part of them and writes its outputs; raises FalajError.
        places: of the rows in the block.
        block: takes why a row is refused.
        first_only: stop at the first one.
    """
    waiting = [(0, len(places))]  # the last is the next: rows are looked at in their order
    until = None
    while waiting:
        start, end = waiting.pop()
        try:
            score(slice(start, end))
        except FalajError as error:
            if error.retryable:
                raise
            if end - start == 1:
                block.errors[int(places[start])] = error.message
                if first_only:
                    return
                continue
            now = time.monotonic()
            until = now + _ISOLATING_SECONDS if until is None else until
            if now > until:
                raise
            half = (start + end) // 2
            waiting += [(half, end), (start, half)]


def _good(checked: Mapping[str, Checked], errors: Mapping[int, str], n: int) -> Places | None:
    """The places of the rows that may be scored; None for all."""
    wrong = [found.wrong for found in checked.values() if found.wrong is not None]
    if not wrong and not errors:
        return None
    bad = np.zeros(n, np.bool_)
    for one in wrong:
        bad |= one
    bad[list(errors)] = True
    return np.flatnonzero(~bad)


Compile = Callable[[], "RequestPlan"]
__all__ = ["ARROW", "BLOCK_ROWS", "BatchPlan", "Block"]
