"""One part of a scoring: read beside, scored, and given back as an Arrow table.

A thread reads the next batches while the model runs on this one; memory holds a few batches
of input and the output of one part, whatever the size of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.serving.batchfields import FieldCheck, instants_of
from falaj.serving.batchinputs import Batch, beside
from falaj.serving.batchmodel import OnError, RowRefused, ScoreRequest, Slice
from falaj.serving.batchoutputs import output_rows
from falaj.serving.batchscoring import BatchPlan, Block
from falaj.serving.model import FieldType, Release, RequestField

if TYPE_CHECKING:
    from falaj.kernel.clock import Clock

Opened = Callable[[Slice, list[str]], Iterator[Batch]]
"""Reads some columns of a slice."""


class PartScorer:
    """Scores the parts of one request, one after the other.

    Args:
        request: what is asked.
        scoring: the id of its job.
        release: the release that scores.
        plan: the release, compiled.
        opened: reads slices of the input.
        columns: those that the input has.
        as_text: the input is the text of CSV files.
        clock: tells the instant of features that are read as they stand now.
    """

    def __init__(
        self,
        request: ScoreRequest,
        scoring: str,
        release: Release,
        plan: BatchPlan,
        opened: Opened,
        columns: list[str],
        *,
        as_text: bool,
        clock: Clock,
    ) -> None:
        self._request = request
        self._scoring = scoring
        self._release = release
        self._plan = plan
        self._opened = opened
        self._clock = clock
        self._at_column, self._instant = at_of(request.at, columns)
        asked = [name for name in plan.fields if name in columns]
        at = [self._at_column] if self._at_column else []
        self._columns = list(dict.fromkeys([*asked, *request.keys, *at]))
        self._fields = set(asked)
        self._times = FieldCheck(
            RequestField(name=self._at_column or "at", type=FieldType.TIMESTAMP), as_text=as_text
        )

    def scored(self, part: Slice) -> pa.Table:
        """The output rows of a part.

        Raises:
            RowRefused: a row is refused, and the request says ``fail``; names it.
            InputChanged, InvalidInput: the input cannot be read.
        """
        now = microseconds(self._clock.now()) if self._instant is None else self._instant
        blocks: list[Block] = []
        keys: dict[str, list[pa.Array]] = {name: [] for name in self._request.keys}
        times: list[NDArray[np.int64]] = []
        unknown: list[NDArray[np.bool_]] = []
        done = 0
        for batch in beside(self._opened(part, self._columns)):
            at, absent, errors = self._instants(batch, now)
            given = {name: batch.columns[name] for name in self._fields}
            at_us: int | NDArray[np.int64] = at if self._at_column else now
            fails = self._request.on_error is OnError.FAIL
            block = self._plan.scored(given, batch.n_rows, at_us, errors, first_only=fails)
            if block.errors and fails:
                self._refuse(part, done, block)
            blocks.append(block)
            for name, pieces in keys.items():
                pieces.append(batch.columns[name])
            times.append(at)
            unknown.append(absent)
            done += batch.n_rows
        return output_rows(
            self._scoring,
            self._release,
            part.first_row,
            blocks,
            keys,
            np.concatenate(times),
            np.concatenate(unknown),
        )

    def _instants(
        self, batch: Batch, now: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], dict[int, str]]:
        errors = dict(batch.refused)
        if self._at_column is None:
            n = batch.n_rows
            return np.full(n, now, np.int64), np.zeros(n, np.bool_), errors
        found = self._times.checked(batch.columns[self._at_column], batch.n_rows)
        at, valid = instants_of(found.values)
        for place, reason in found.reasons.items():
            errors.setdefault(place, reason)
        return at, ~valid, errors

    def _refuse(self, part: Slice, done: int, block: Block) -> None:
        place = min(block.errors)
        number = part.first_row + done + place
        raise RowRefused(
            f"Row {number} of {part.source} is not what {self._request.endpoint!r} takes:"
            f" {block.errors[place].rstrip('.')}.",
            hint="Mend the input, or score with on_error=null: refused rows then say why.",
            row=number,
        )


def at_of(at: str | None, columns: list[str]) -> tuple[str | None, int | None]:
    """The column of instants or the one instant (Unix microseconds) that ``at`` names.

    Raises:
        InvalidInput: it is neither.
    """
    if at is None:
        return None, None
    if at in columns:
        return at, None
    try:
        instant = datetime.fromisoformat(at)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise InvalidInput(
            f"at = {at!r} is neither a column of the input nor an instant with a zone.",
            hint=f"The input has {', '.join(columns)}; an instant is 2026-11-01T00:00:00Z.",
        )
    return None, microseconds(instant)


def missing_field(release: Release, columns: Mapping[str, object] | list[str]) -> str | None:
    """A field that the release asks for and the input lacks, or None."""
    lacking = (item.name for item in release.fields if item.required and item.name not in columns)
    return next(lacking, None)
