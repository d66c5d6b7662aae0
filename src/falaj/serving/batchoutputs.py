"""The output of a scoring: one row for each input row, as one Arrow table for each part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput
from falaj.serving.anomalies import ANOMALOUS, SCORE
from falaj.serving.batchmodel import OWN_COLUMNS
from falaj.serving.batchscoring import Block
from falaj.serving.model import Release

INSTANT = pa.timestamp("us", tz="UTC")
MOST_ROWS = 1 << 32
"""Of one scoring: a prediction id counts in eight hexadecimal digits."""
_ID_LENGTH = 37
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


def prediction_ids(scoring: str, first: int, n: int) -> pa.Array:
    """The prediction ids of n rows from one number on: those of a scoring, always the same.

    Args:
        scoring: the id of its job; its first 24 digits are in each id.
        first: the number of the first row.
    """
    head = f"pred_{scoring.partition('_')[2][:24]}".encode()
    letters = np.empty((n, _ID_LENGTH), np.uint8)
    letters[:, : len(head)] = np.frombuffer(head, np.uint8)
    numbers = np.arange(first, first + n, dtype=np.uint64)
    for place in range(8):
        digits = (numbers >> np.uint64(4 * (7 - place))) & np.uint64(15)
        letters[:, len(head) + place] = _HEX[digits.astype(np.intp)]
    offsets = np.arange(0, (n + 1) * _ID_LENGTH, _ID_LENGTH, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(letters)]
    return pa.StringArray.from_buffers(n, buffers[1], buffers[2])


def check_columns(keys: Sequence[str], outputs: Sequence[str]) -> None:
    """Raise InvalidInput if two columns of the output would have one name."""
    names = [name.lower() for name in (*OWN_COLUMNS, *keys, *outputs)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidInput(
            f"The output would have the column {twice[0]!r} twice.",
            hint=f"Its own columns are {', '.join(OWN_COLUMNS)} and the outputs"
            f" {', '.join(outputs)}; choose other keys.",
        )


def output_rows(
    scoring: str,
    release: Release,
    first: int,
    blocks: Sequence[Block],
    keys: Mapping[str, Sequence[pa.Array]],
    at_us: NDArray[np.int64],
    no_instant: NDArray[np.bool_],
) -> pa.Table:
    """The output of consecutive rows.

    Args:
        scoring: the id of the job.
        first: the number of the first row.
        blocks: what became of them.
        keys: columns of the input, in pieces.
        at_us: (n,) the instants that they are about; null where ``no_instant``.
    """
    n = len(at_us)
    outputs = np.concatenate([block.outputs for block in blocks])
    variants = np.concatenate([block.variants for block in blocks])
    columns: dict[str, pa.Array | pa.ChunkedArray] = {
        "scoring": _same(scoring, n),
        "row_number": pa.array(np.arange(first, first + n, dtype=np.int64)),
        "prediction_id": prediction_ids(scoring, first, n),
    }
    for name, pieces in keys.items():
        columns[name] = pa.chunked_array(pieces)
    for place, name in enumerate(release.outputs):
        column = outputs[:, place]
        columns[name] = pa.array(column, mask=~np.isfinite(column))
    judged = [block.judged for block in blocks if block.judged is not None]
    if judged:
        scores = np.concatenate([one.scores for one in judged])
        verdicts = np.concatenate([one.anomalous for one in judged])
        unknown = np.isnan(scores)
        columns[SCORE] = pa.array(scores, mask=unknown)
        columns[ANOMALOUS] = pa.array(verdicts, mask=unknown)
    chosen = pa.array(variants, mask=variants < 0)
    for name, words in (
        ("variant", [variant.name for variant in release.variants]),
        ("model", [variant.label for variant in release.variants]),
    ):
        columns[name] = pa.DictionaryArray.from_arrays(chosen, pa.array(words, pa.string()))
    columns["release"] = _same(release.id, n)
    columns["predicted_for"] = pa.array(at_us, mask=no_instant).cast(INSTANT)
    columns["error"] = _errors(blocks, n)
    return pa.table(columns)


def _same(word: str, n: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(n, np.int32)), pa.array([word], pa.string())
    )


def _errors(blocks: Sequence[Block], n: int) -> pa.Array:
    if not any(block.errors for block in blocks):
        return pa.nulls(n, pa.string())
    told: list[str | None] = []
    for block in blocks:
        part: list[str | None] = [None] * len(block.variants)
        for place, reason in block.errors.items():
            part[place] = reason
        told += part
    return pa.array(told, pa.string())
