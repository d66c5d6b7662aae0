"""A training set as its user holds it: rows in the lake, read in batches.

A ``TrainingFrame`` holds no rows. It fetches them through the door in batches, near and
far alike, so that a set may be larger than memory.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.lake.content import ContentHash
from falaj.training.spines import ROW_NUMBER, counted

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped]
    import polars

    from falaj.training.model import TrainingSet

Fetch = Callable[[int, int], bytes]
"""Fetches rows: (first, limit) to an Arrow stream."""
ROWS_PER_FETCH = 65_536


class NotInstalled(InvalidInput):
    """A package that is needed for this is not installed."""

    code = "not-installed"


class TrainingFrame:
    """The rows of a training set, with what pins them.

    Made by ``platform.training_set`` and ``platform.training_frame``.
    """

    def __init__(self, made: TrainingSet, fetch: Fetch) -> None:
        self.training_set = made
        self._fetch = fetch

    @property
    def id(self) -> str:
        """The id of the training set; ``platform.training_frame`` finds it again."""
        return self.training_set.id

    @property
    def columns(self) -> tuple[str, ...]:
        """The spine's columns, then the features."""
        return self.training_set.columns

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that a model may read."""
        return self.training_set.features

    @property
    def content_hash(self) -> str:
        """SHA-256 over all rows; the same spine, definitions and snapshot give the same."""
        return self.training_set.content_hash

    def __len__(self) -> int:
        return counted(self.training_set.n_rows)

    def __repr__(self) -> str:
        made = self.training_set
        return (
            f"TrainingFrame({made.id}: {len(self):,} rows of {made.spec.feature_service},"
            f" {len(made.features)} features, {made.content_hash[:19]}…)"
        )

    def batches(
        self, rows_per_batch: int = ROWS_PER_FETCH, *, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows in their order, so many at a time.

        Read to the end, all rows are checked against the content hash.

        Raises:
            InvalidInput: there is no such column.
            Corrupt: the rows are not those that were pinned.
        """
        wanted = self._chosen(columns)
        found = ContentHash()
        waiting: list[pa.Table] = []
        n_waiting = 0
        for rows in self._fetched(max(rows_per_batch, ROWS_PER_FETCH)):
            found.update(rows)
            waiting.append(rows.select(wanted))
            n_waiting += rows.num_rows
            if n_waiting < rows_per_batch:
                continue
            table = pa.concat_tables(waiting)
            whole = n_waiting - n_waiting % rows_per_batch
            for start in range(0, whole, rows_per_batch):
                yield _batch(table.slice(start, rows_per_batch))
            waiting, n_waiting = [table.slice(whole)], n_waiting - whole
        if n_waiting:
            yield _batch(pa.concat_tables(waiting))
        if found.digest() != self.content_hash:
            raise Corrupt(
                f"The rows of the training set {self.id} are not those that were pinned.",
                hint="Make it again from the same spine, and find out who changed its table.",
            )

    def to_arrow(self) -> pa.Table:
        """All rows, in memory."""
        return pa.Table.from_batches(list(self.batches()))

    def to_polars(self) -> polars.DataFrame:
        """All rows as a Polars frame; raises NotInstalled without the extra ``polars``."""
        found: polars.DataFrame = _imported("polars").from_arrow(self.to_arrow())
        return found

    def to_pandas(self) -> pandas.DataFrame:
        """All rows as a pandas frame; raises NotInstalled without the extra ``pandas``."""
        _imported("pandas")
        return self.to_arrow().to_pandas()

    def to_torch(
        self,
        batch_size: int,
        *,
        columns: Sequence[str] | None = None,
        categories: Mapping[str, Sequence[str]] | None = None,
    ) -> Any:
        """Batches of tensors, fetched as they are asked for: a torch ``IterableDataset``.

        Each batch is a dict by column: float32 of shape (n,), of a list of fixed length
        (n, length); a null is NaN. Iterate over it, or give it to a ``DataLoader`` with
        ``batch_size=None`` and no workers.

        Args:
            batch_size: rows of a batch; the last one may be shorter.
            columns: which ones; by default the features, and the label if there is one.
            categories: the words of text columns; a word becomes its place in the list, one
                that is not listed NaN.

        Raises:
            NotInstalled: the extra ``torch`` is not installed.
            InvalidInput: a column is text without categories, an instant, or of lists of
                different lengths.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; it is 1 at least.")
        torch = _imported("torch")
        label = self.training_set.spec.label
        wanted = self._chosen(columns or [*self.features, *([label] if label else [])])
        words = {name: list(listed) for name, listed in (categories or {}).items()}
        frame = self

        class Batches(torch.utils.data.IterableDataset):  # type: ignore[misc, name-defined]
            """Batches of a training frame, from the first row on each time."""

            def __iter__(self) -> Iterator[dict[str, Any]]:
                if torch.utils.data.get_worker_info() is not None:
                    raise InvalidInput(
                        "A training frame is read by one process: its door is not to be shared.",
                        hint="Leave num_workers at 0.",
                    )
                for batch in frame.batches(batch_size, columns=wanted):
                    yield {
                        name: torch.from_numpy(numbers(batch.column(name), name, words.get(name)))
                        for name in wanted
                    }

            def __len__(self) -> int:
                return (len(frame) + batch_size - 1) // batch_size

        return Batches()

    def _chosen(self, columns: Sequence[str] | None) -> list[str]:
        unknown = [name for name in columns or () if name not in self.columns]
        if unknown:
            raise InvalidInput(
                f"The training set {self.id} has no column {unknown[0]!r}.",
                hint=f"It has: {', '.join(self.columns)}.",
            )
        return list(self.columns if columns is None else columns)

    def _fetched(self, limit: int) -> Iterator[pa.Table]:
        first = 0
        while first < len(self):
            with pa.ipc.open_stream(self._fetch(first, limit)) as reader:
                rows = reader.read_all()
            if not rows.num_rows or rows.column(ROW_NUMBER)[0].as_py() != first:
                raise Corrupt(
                    f"The training set {self.id} lacks row {first}.",
                    hint="Make it again from the same spine.",
                )
            first += rows.num_rows
            yield rows


def numbers(values: pa.Array, name: str, words: Sequence[str] | None = None) -> Any:
    """A column as float32: (n,), or (n, length) of lists of one length; NaN for null.

    Raises:
        InvalidInput: it holds what is no number.
    """
    kind = values.type
    if pa.types.is_string(kind) and words is not None:
        values = pc.index_in(values, value_set=pa.array(words, pa.string()))
        kind = values.type
    if pa.types.is_list(kind):
        lengths = pc.unique(pc.list_value_length(values).drop_null()).to_pylist()
        if len(lengths) != 1 or pa.types.is_nested(kind.value_type):
            raise InvalidInput(
                f"The column {name!r} holds lists of {len(lengths)} different lengths.",
                hint="A tensor needs lists of one length; leave it out with columns=.",
            )
        inner = numbers(values.flatten(), name)
        result = np.full((len(values), lengths[0]), np.nan, np.float32)
        result[values.is_valid().to_numpy(zero_copy_only=False)] = inner.reshape(-1, lengths[0])
        return result
    if pa.types.is_boolean(kind):
        values = values.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise InvalidInput(
            f"The column {name!r} is {kind}, which no tensor of numbers can hold.",
            hint="Leave it out with columns=, or give the words of a text with categories=.",
        )
    found = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.asarray(found, np.float32)


def _batch(rows: pa.Table) -> pa.RecordBatch:
    return rows.combine_chunks().to_batches()[0]


def _imported(package: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise NotInstalled(
            f"The package {package} is not installed.",
            hint=f"Install it with the extra: pip install 'falaj[{package}]'.",
        )
    return importlib.import_module(package)


__all__ = ["NotInstalled", "TrainingFrame", "numbers"]
