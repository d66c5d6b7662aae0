"""The latest value that was known at an instant.

For an entity and an instant ``t`` the answer is the row with the greatest
``event_time <= t``; ties are decided by the greatest ``recorded_at``, then by position
in the log. With recorded knowledge a row with ``recorded_at > t`` is invisible: if the
newest event was recorded later than ``t``, the answer is the newest one known by then.
The row has expired if ``event_time <= t - ttl``; an older row never stands in for it.

Rows without a key or without an event time are no events. A row without ``recorded_at``
counts as recorded at its event time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from falaj.features.columns import Array, Ints
from falaj.features.index.building import from_words
from falaj.features.index.runs import Run
from falaj.features.kernels import in_slices
from falaj.features.types import DType, is_fixed_width
from falaj.features.views import ViewPlan, column_key


@dataclass(frozen=True)
class Found:
    """Which event of which run answers each of m questions; ``rows[i]`` is -1 for none."""

    runs: Sequence[Run]
    rows: Ints
    which: Ints | None
    """(m,) the run; None if there is but one."""

    def of(self, number: int) -> Ints:
        """(m,) the rows found in one run, -1 elsewhere."""
        return self.rows if self.which is None else np.where(self.which == number, self.rows, -1)


def latest_of(
    runs: Sequence[Run],
    keys: Sequence[pa.Array],
    at: Ints,
    *,
    ttl_us: int | None = None,
    hide_late: bool = True,
    bound: int,
) -> Found:
    """The latest visible event across runs, which cover a log in its order.

    Args:
        keys: the entity's key columns, m rows each.
        at, ttl_us, hide_late, bound: as for ``Run.latest``.
    """
    from falaj.features.index import kernels_runs as kernels

    if len(runs) == 1:
        codes = runs[0].entities.find(keys)
        rows = runs[0].latest(codes, at, ttl_us=ttl_us, hide_late=hide_late, bound=bound)
        return Found(runs, rows, None)
    m = len(at)
    rows, which = np.full(m, -1, np.int64), np.zeros(m, np.int64)
    time, recorded = np.empty(m, np.int64), np.empty(m, np.int64)
    for number, run in enumerate(runs):
        codes = run.entities.find(keys)
        found = run.latest(codes, at, ttl_us=None, hide_late=hide_late, bound=bound)
        kernels.choose(found, number, run.event_time, run.recorded_at, rows, which, time, recorded)
    if ttl_us is not None:
        rows[(rows >= 0) & (time <= at - ttl_us)] = -1
    return Found(runs, rows, which)


def gathered(found: Found, wanted: Sequence[str]) -> dict[str, tuple[Ints, Array]]:
    """Columns of fixed width of the found events.

    Returns:
        By name (m,) words, 0 where nothing is, and their Arrow validity bitmap.
    """
    m = len(found.rows)
    out = np.zeros((len(wanted), m), np.int64)
    bits = np.zeros((len(wanted), -(-m // 8)), np.uint8)
    for number, run in enumerate(found.runs):
        _gather(run, found.of(number), wanted, out, bits)
    return {name: (out[place], bits[place]) for place, name in enumerate(wanted)}


def _gather(run: Run, rows: Ints, wanted: Sequence[str], out: Ints, bits: Array) -> None:
    from falaj.features.index import kernels_runs as kernels

    columns = np.array([run.columns[name] for name in wanted], np.int64)

    def work(low: int, high: int) -> None:
        begin, end = low * 64, high * 64
        kernels.gather(rows[begin:end], run.words, run.n_flags, columns, begin, out, bits)

    in_slices(work, -(-len(rows) // 64), least=256)


def taken(found: Found, name: str) -> pa.Array:
    """A column of variable width of the found events, null where nothing is."""
    rows, lengths = found.rows, np.cumsum([0, *(len(run) for run in found.runs)])
    if found.which is not None:
        rows = np.where(rows < 0, -1, rows + lengths[found.which])
    columns = [run.arrow[name] for run in found.runs]
    picked = pa.array(rows, mask=rows < 0)
    if len(columns) == 1:
        return columns[0].take(picked)
    whole = pa.chunked_array(columns).take(picked)
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def latest_values(
    plan: ViewPlan,
    features: Sequence[str],
    runs: Sequence[Run],
    keys: Sequence[pa.Array],
    at: Ints,
    *,
    hide_late: bool,
    bound: int,
) -> dict[str, pa.Array]:
    """Features of a view with latest values, from its index.

    Args:
        features: which of the view's.
        runs: its index; they cover the log of its source in order.
        keys: the entity's key columns, typed, m rows each.
        at: (m,) UTC microseconds.
        hide_late: whether an event is invisible before it was recorded.
        bound: events at log positions from here on are invisible.

    Returns:
        By feature an Arrow array of m rows, null where nothing is known.
    """
    found = latest_of(runs, keys, at, ttl_us=plan.ttl_us, hide_late=hide_late, bound=bound)
    wanted = {one.name: one for one in plan.view.features if one.name in set(features)}
    columns = {name: column_key(one.column, one.dtype) for name, one in wanted.items()}
    fixed = {columns[name]: one.dtype for name, one in wanted.items() if is_fixed_width(one.dtype)}
    words = gathered(found, list(fixed))
    given = {
        column: from_words(*words[column], dtype)
        for column, dtype in fixed.items()
        if isinstance(dtype, DType)
    }
    for column in columns.values():
        if column not in given:
            given[column] = taken(found, column)
    return {name: given[columns[name]] for name in features}
