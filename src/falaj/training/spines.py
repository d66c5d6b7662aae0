"""Spines: the rows of a training set before its features, from tables or a query of the lake.

A set without a split keeps the spine's rows in their order, in batches. One with a split
has them ordered by time and then by all columns, so that the same data gives the same
bytes in whatever order the lake hands them out; those spines are held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from falaj.kernel.errors import InvalidInput
from falaj.lake.content import canonical, content_hash
from falaj.lake.personal import n_erasures, record_rule, rule_of_query
from falaj.training.encoding import instants
from falaj.training.model import TEST, TRAIN, VALIDATION, Split, TrainingSetSpec
from falaj.training.partition import parts_of

if TYPE_CHECKING:
    from falaj.lake.ports import Lake

PARTS = (TRAIN, VALIDATION, TEST)
ROW_NUMBER, SPLIT = "row_number", "split"
OWN_COLUMNS = (SPLIT, ROW_NUMBER)
"""The columns that a training set adds to its spine and its features."""


@dataclass(frozen=True)
class Spine:
    """Where the rows of a spine lie.

    ``tables`` are (name, snapshot), one after the other; ``query`` is asked instead if
    there are none.
    """

    tables: tuple[tuple[str, int], ...]
    query: str | None
    snapshot: int


def written_query(lake: Lake, spec: TrainingSetSpec, spine: Spine) -> Spine:
    """The spine with the rows of its query in a table named by their content.

    The order of a query's rows is the engine's affair: what it was is kept, so that it can
    be read again.

    Raises:
        ErasedWhileCopied: somebody was erased meanwhile; nothing was written.
    """
    if spine.query is None or spec.split is not None:
        return spine
    since = n_erasures(lake)
    rows = canonical(lake.query(spine.query, snapshot=spine.snapshot))
    checked(rows.schema.names, spec)
    if rows.num_rows == 0:
        raise _empty()
    table = f"rows_{content_hash(rows).removeprefix('sha256:')[:48]}"
    if (rule := rule_of_query(lake, spine.query, table, rows.column_names)) is not None:
        record_rule(lake, rule)
    written = lake.append(table, rows, key=f"upload/{table}", since=since)
    return Spine(((table, written.id),), None, spine.snapshot)


def batches(
    lake: Lake, spec: TrainingSetSpec, spine: Spine, rows_per_batch: int
) -> Iterator[pa.Table]:
    """The rows of a spine without a split, in their order.

    Raises:
        InvalidInput: a column is missing, or there are no rows. NotFound: no such table.
    """
    none = True
    for table, snapshot in spine.tables:
        columns = list(lake.schema(table, snapshot).names)
        checked(columns, spec)
        reader = lake.log(
            table, columns=columns, snapshot=snapshot, in_order=True, rows_per_batch=rows_per_batch
        )
        for batch in reader:
            if batch.num_rows:
                none = False
                yield canonical(pa.Table.from_batches([batch]).select(columns))
    if none:
        raise _empty()


def split_rows(
    lake: Lake, spec: TrainingSetSpec, spine: Spine, split: Split
) -> tuple[pa.Table, dict[str, int]]:
    """The ordered spine with its ``split`` column, and counts of the rows left out.

    Raises:
        InvalidInput: a column is missing or has the wrong type, or a part has no rows.
    """
    if spine.tables:
        parts = [lake.scan(table, snapshot=snapshot) for table, snapshot in spine.tables]
        rows = pa.concat_tables(parts)
    else:
        rows = lake.query(spine.query or "", snapshot=spine.snapshot)
    checked(rows.column_names, spec)
    if rows.num_rows == 0:
        raise _empty()
    rows = canonical(rows)
    instants(rows.column(spec.timestamp), spec.timestamp)  # or it is refused
    known = np.ones(len(rows), np.bool_)
    if spec.label is not None:
        known = ~np.isnan(spec.target.labels(rows.column(spec.label), spec.label))
    others = [name for name in rows.column_names if name != spec.timestamp]
    kept = rows.filter(pa.array(known))
    kept = kept.sort_by([(name, "ascending") for name in (spec.timestamp, *others)])
    part = parts_of(kept, split, timestamp=spec.timestamp, label=spec.label)
    inside = part != ""
    kept = kept.append_column(SPLIT, pa.array(part, pa.string())).filter(pa.array(inside))
    left_out = {
        "without_label": int((~known).sum()),
        "outside": int((~inside).sum()),
    }
    for one in PARTS[:2]:
        if not (part == one).any():
            raise InvalidInput(
                f"No row of the spine with a label falls into the {one} part.",
                hint="Check the boundaries of the split and the timestamps of the spine.",
                **left_out,
            )
    return kept.combine_chunks(), left_out


def checked(columns: list[str], spec: TrainingSetSpec) -> None:
    """Raise InvalidInput unless a spine with these columns can be used."""
    for name in (spec.timestamp, spec.label):
        if name is not None and name not in columns:
            raise InvalidInput(
                f"The spine has no column {name!r}.", hint=f"It has: {', '.join(columns)}."
            )
    for name in OWN_COLUMNS:
        if name in columns:
            raise InvalidInput(
                f"The spine has a column {name!r}, which a training set needs itself.",
                hint="Rename it.",
            )


def counted(parts: Mapping[str, int]) -> int:
    """The number of rows of a training set."""
    return sum(parts.get(part, 0) for part in (*PARTS, "all"))


def _empty() -> InvalidInput:
    return InvalidInput("The spine is empty.", hint="Check its table or query.")
