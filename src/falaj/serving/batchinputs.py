"""The input of a scoring, cut into slices that are always the same rows, and read by batches.

A table is cut by positions of its log at one snapshot, a Parquet file by row groups, an
Arrow file by record batches, a CSV file by bytes at ends of lines.
"""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.batchmodel import PART_ROWS, InputChanged, Slice, Stamp

if TYPE_CHECKING:
    from falaj.lake.ports import Lake

ROWS_PER_BATCH = 65_536
LARGEST_GROUP = 1_048_576
"""A row group of more rows is cut; each part of it reads what stands before it as well."""
_CHUNK = 8 << 20
CSV, PARQUET, ARROW = ".csv", ".parquet", ".arrow"
_SUFFIXES = {CSV: CSV, PARQUET: PARQUET, ARROW: ARROW, ".feather": ARROW, ".ipc": ARROW}


@dataclass(frozen=True)
class Batch:
    """Some rows of a slice, in order. ``refused`` are rows that are none, by place."""

    columns: Mapping[str, pa.Array]
    n_rows: int
    refused: Mapping[int, str] = field(default_factory=dict)


def format_of(path: str) -> str:
    """The suffix that says how a file is read; raises InvalidInput."""
    suffix = Path(path).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InvalidInput(
            f"The file {path} cannot be scored: its name ends in {suffix or 'nothing'!r}.",
            hint=f"Give files that end in {', '.join(_SUFFIXES)}, unpacked.",
        )
    return _SUFFIXES[suffix]


def columns_of(path: str) -> list[str]:
    """The names of a file's columns; raises InvalidInput if it is not what its name says."""
    kind = format_of(path)
    try:
        if kind == PARQUET:
            return list(pa.parquet.read_schema(path).names)
        if kind == ARROW:
            with pa.memory_map(path) as opened:
                return list(pa.ipc.open_file(opened).schema.names)
        with Path(path).open("rb") as opened:
            line = opened.readline(1 << 20)
        return list(pa.csv.read_csv(io.BytesIO(line)).column_names) if line.strip() else []
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(path, error) from None


def stamped(paths: Sequence[str]) -> tuple[Stamp, ...]:
    """What the files are like now."""
    return tuple(_stamp(path) for path in paths)


# -- slices ------------------------------------------------------------------------------


def table_slices(
    lake: Lake, table: str, snapshot: int, *, part_rows: int = PART_ROWS
) -> list[Slice]:
    """A table at a snapshot, cut by positions of its log."""
    extent = lake.extent(table, snapshot)
    n_parts = -(-extent.end // part_rows)
    if extent.n_rows == extent.end:
        counts = np.full(n_parts, part_rows)
        if n_parts:
            counts[-1] = extent.end - part_rows * (n_parts - 1)
    else:  # some rows were replaced: their positions are not given again
        counts = np.zeros(n_parts, np.int64)
        for batch in lake.log(table, columns=[], snapshot=snapshot):
            positions = batch.column(0).to_numpy()
            counts += np.bincount(positions // part_rows, minlength=n_parts)
    slices: list[Slice] = []
    first = 0
    for place, n_rows in enumerate(counts.tolist()):
        if n_rows:
            begin = place * part_rows
            end = min(begin + part_rows, extent.end)
            slices.append(_slice(slices, first, n_rows, table, begin, end))
            first += n_rows
    return slices


def file_slices(paths: Sequence[str], *, part_rows: int = PART_ROWS) -> list[Slice]:
    """Files one after the other, cut by row groups, record batches or bytes."""
    slices: list[Slice] = []
    for path in paths:
        kind = format_of(path)
        first = slices[-1].first_row + slices[-1].n_rows if slices else 0
        try:
            if kind == CSV:
                _csv_slices(slices, first, path, part_rows)
            else:
                _grouped_slices(slices, first, path, _groups(path, kind), part_rows)
        except (pa.ArrowInvalid, OSError) as error:
            raise _unreadable(path, error) from None
    return slices


def _slice(
    before: Sequence[Slice], first: int, n: int, source: str, begin: int, end: int, skip: int = 0
) -> Slice:
    return Slice(
        number=len(before), first_row=first, n_rows=n, source=source, begin=begin, end=end,
        skip=skip,
    )  # fmt: skip


def _groups(path: str, kind: str) -> list[int]:
    """The numbers of rows of a file's row groups or record batches."""
    if kind == PARQUET:
        told = pa.parquet.read_metadata(path)
        return [told.row_group(place).num_rows for place in range(told.num_row_groups)]
    with pa.memory_map(path) as opened, pa.ipc.open_file(opened) as reader:
        return [reader.get_batch(place).num_rows for place in range(reader.num_record_batches)]


def _grouped_slices(
    slices: list[Slice], first: int, path: str, groups: Sequence[int], part_rows: int
) -> None:
    begin, waiting = 0, 0
    for place, n_rows in enumerate(groups):
        if n_rows > max(LARGEST_GROUP, part_rows):
            if waiting:
                slices.append(_slice(slices, first, waiting, path, begin, place))
                first += waiting
            for skip in range(0, n_rows, part_rows):
                some = min(part_rows, n_rows - skip)
                slices.append(_slice(slices, first, some, path, place, place + 1, skip))
                first += some
            begin, waiting = place + 1, 0
            continue
        waiting += n_rows
        if waiting >= part_rows:
            slices.append(_slice(slices, first, waiting, path, begin, place + 1))
            first, begin, waiting = first + waiting, place + 1, 0
    if waiting:
        slices.append(_slice(slices, first, waiting, path, begin, len(groups)))


def _csv_slices(slices: list[Slice], first: int, path: str, part_rows: int) -> None:
    """Cut after every so many lines; a line may have ends of lines inside of quotes."""
    begin, waiting = -1, 0  # no row begins before the header has ended
    for row_ends in _row_ends(path):
        ends = row_ends
        if begin < 0 and len(ends):
            begin, ends = int(ends[0]), ends[1:]
        while len(ends) and waiting + len(ends) >= part_rows:
            needed = part_rows - waiting
            until = int(ends[needed - 1])
            slices.append(_slice(slices, first, part_rows, path, begin, until))
            first, begin, waiting, ends = first + part_rows, until, 0, ends[needed:]
        waiting += len(ends)
    if waiting:
        slices.append(_slice(slices, first, waiting, path, begin, Path(path).stat().st_size))


def _row_ends(path: str) -> Iterator[NDArray[np.int64]]:
    """Where the lines of a CSV file end that are not empty, some at a time."""
    position, inside, last, last_but_one = 0, False, 10, 10
    with Path(path).open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            data = np.frombuffer(chunk, np.uint8)
            quoted = (np.cumsum(data == 34) + inside) % 2 == 1
            ends = np.flatnonzero((data == 10) & ~quoted)
            led = np.concatenate(([last_but_one, last], data))
            one, two = led[ends + 1], led[ends]  # the bytes before each end
            empty = (one == 10) | ((one == 13) & (two == 10))
            yield ends[~empty] + position + 1
            inside, last, last_but_one = bool(quoted[-1]), int(led[-1]), int(led[-2])
            position += len(chunk)
    if position and last != 10:
        yield np.array([position])  # the last line has no end


# -- reading -----------------------------------------------------------------------------


def table_batches(
    lake: Lake, part: Slice, snapshot: int, columns: Sequence[str]
) -> Iterator[Batch]:
    """The rows of a slice of a table, in the order of its log.

    Where every position is taken, the engine is not asked to sort (a third of what reading
    costs): it gives rows in order but for files that were merged, and that can be seen.
    """
    n_rows = 0
    if part.n_rows == part.end - part.begin:
        for batch in _log(lake, part, snapshot, columns, since=part.begin, in_order=False):
            begin = part.begin + n_rows
            wanted = np.arange(begin, begin + batch.num_rows)
            if not np.array_equal(batch.column(0).to_numpy(), wanted):
                break
            n_rows += batch.num_rows
            yield _batch(columns, batch.columns[1:], batch.num_rows)
    if n_rows < part.n_rows:
        for batch in _log(lake, part, snapshot, columns, since=part.begin + n_rows, in_order=True):
            n_rows += batch.num_rows
            yield _batch(columns, batch.columns[1:], batch.num_rows)
    _checked(part, n_rows)


def _log(
    lake: Lake,
    part: Slice,
    snapshot: int,
    columns: Sequence[str],
    *,
    since: int,
    in_order: bool,
) -> Iterator[pa.RecordBatch]:
    yield from lake.log(
        part.source,
        columns=columns,
        snapshot=snapshot,
        since=since,
        until=part.end,
        in_order=in_order,
        rows_per_batch=ROWS_PER_BATCH,
    )


def file_batches(part: Slice, stamp: Stamp, columns: Sequence[str]) -> Iterator[Batch]:
    """The rows of a slice of a file, in order.

    Raises:
        InputChanged: the file is not what it was. InvalidInput: it cannot be read.
    """
    check_unchanged(stamp)
    kind = format_of(part.source)
    try:
        if kind == CSV:
            yield _csv_batch(part, columns)
        else:
            yield from _grouped_batches(part, kind, columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(part.source, error) from None
    check_unchanged(stamp)


def _grouped_batches(part: Slice, kind: str, columns: Sequence[str]) -> Iterator[Batch]:
    skip, left = part.skip, part.n_rows
    for batch in _record_batches(part, kind, columns):
        some = batch.slice(min(skip, batch.num_rows), left)
        skip -= min(skip, batch.num_rows)
        left -= some.num_rows
        if some.num_rows:
            yield _batch(columns, [some.column(name) for name in columns], some.num_rows)
        if not left:
            return
    _checked(part, part.n_rows - left)


def _record_batches(part: Slice, kind: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if kind == PARQUET:
        with pa.parquet.ParquetFile(part.source) as opened:
            yield from opened.iter_batches(
                batch_size=ROWS_PER_BATCH,
                row_groups=list(range(part.begin, part.end)),
                columns=list(columns),
                use_threads=False,
            )
        return
    with pa.memory_map(part.source) as mapped, pa.ipc.open_file(mapped) as reader:
        for place in range(part.begin, part.end):
            yield reader.get_batch(place)


def _csv_batch(part: Slice, columns: Sequence[str]) -> Batch:
    with Path(part.source).open("rb") as opened:
        opened.seek(part.begin)
        data = opened.read(part.end - part.begin)
    refused: dict[int, str] = {}

    def note(row: pa.csv.InvalidRow) -> str:
        told = f"the line has {row.actual_columns} values, not {row.expected_columns}"
        refused[(row.number or 1) - 1] = told
        return "skip"

    rows = pa.csv.read_csv(
        io.BytesIO(data),
        read_options=pa.csv.ReadOptions(
            use_threads=False, column_names=columns_of(part.source), block_size=_CHUNK
        ),
        parse_options=pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(columns),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    _checked(part, rows.num_rows + len(refused))
    places = np.full(part.n_rows, -1, np.int64)
    there = np.ones(part.n_rows, np.bool_)
    there[list(refused)] = False
    places[there] = np.arange(rows.num_rows)
    whole = rows.combine_chunks().take(pa.array(places, mask=~there)) if refused else rows
    return _batch(columns, [whole.column(name).combine_chunks() for name in columns],
                  part.n_rows, refused)  # fmt: skip


def _batch(
    names: Sequence[str],
    columns: Sequence[pa.Array],
    n_rows: int,
    refused: Mapping[int, str] | None = None,
) -> Batch:
    return Batch(dict(zip(names, columns, strict=True)), n_rows, refused or {})


def _checked(part: Slice, n_rows: int) -> None:
    if n_rows != part.n_rows:
        raise Corrupt(
            f"{part.source} has {n_rows} rows in part {part.number}, not {part.n_rows}.",
            hint="Start the scoring again; nothing of this part was written.",
        )


def _stamp(path: str) -> Stamp:
    try:
        told = Path(path).stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return Stamp(path=path, n_bytes=told.st_size, modified_ns=told.st_mtime_ns)


def check_unchanged(stamp: Stamp) -> None:
    """Raise InputChanged if a file is not what it was."""
    if _stamp(stamp.path) != stamp:
        raise InputChanged(
            f"The file {stamp.path} has changed since its scoring began.",
            hint="Score it anew; the rows that were written carry this scoring's id.",
        )


def _unreadable(path: str, error: Exception) -> InvalidInput:
    told = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return InvalidInput(
        f"The file {path} cannot be read: {told}.",
        hint="It must be whole, and what its name says (an Arrow file, not a stream).",
    )


def beside(batches: Iterator[Batch], *, ahead: int = 2) -> Iterator[Batch]:
    """The same batches, read on a thread a few ahead of who takes them."""
    waiting: queue.Queue[Batch | BaseException | None] = queue.Queue(ahead)
    left = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not left.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for batch in batches:
                put(batch)
                if left.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by who takes
            put(error)
            return
        put(None)

    reader = threading.Thread(target=read, name="falaj-reader", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        reader.join()
