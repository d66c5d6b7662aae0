"""Cuts the rows of a spine into train, validation and test, as its split says.

What part a row goes to depends on its values alone, not on the order in which the lake hands
the rows out, nor on the version of a library that draws random numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from falaj.kernel.clock import microseconds
from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import instants
from falaj.training.model import TEST, TRAIN, VALIDATION, Split, TimeSplit
from falaj.training.splits import GroupSplit, StratifiedSplit

Parts = npt.NDArray[Any]
"""The part of each row, or an empty text for a row that is left out."""


def parts_of(rows: pa.Table, split: Split, *, timestamp: str, label: str | None) -> Parts:
    """The part of each row; rows in the order of their values, every one with its label.

    Raises:
        InvalidInput: the split names a column that is not there, or cannot be read as text.
    """
    if isinstance(split, TimeSplit):
        return _by_time(instants(rows.column(timestamp), timestamp), split)
    if isinstance(split, GroupSplit):
        return _by_group(words_of(rows, split.group), split)
    by = [*split.by, *([] if label is None else [label])]
    return _by_strata([words_of(rows, name) for name in by], len(rows), split)


def words_of(rows: pa.Table, name: str) -> list[str | None]:
    """A column as texts, for telling groups apart.

    Raises:
        InvalidInput: there is no such column, or it has no texts.
    """
    if name not in rows.column_names:
        raise InvalidInput(
            f"The rows have no column {name!r} to group by.",
            hint=f"They have: {', '.join(rows.column_names)}.",
        )
    try:
        found: list[str | None] = rows.column(name).cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise InvalidInput(
            f"The column {name!r} of type {rows.column(name).type} cannot group rows.",
            hint="Name a column of text, numbers, booleans or times.",
        ) from None
    return found


def place_of_group(word: str, seed: int, *, use: str) -> float:
    """A number from 0 to 1 that the group's name, the seed and the use alone decide."""
    digest = hashlib.sha256(f"{use}\0{seed}\0{word}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _by_time(at: npt.NDArray[np.int64], split: TimeSplit) -> Parts:
    parts = np.full(at.shape, "", dtype=object)
    test = microseconds(split.validation_until)
    validation = microseconds(split.train_until)
    parts[at < validation] = TRAIN
    parts[(at >= validation) & (at < test)] = VALIDATION
    parts[at >= test] = TEST
    if split.train_from is not None:
        parts[at < microseconds(split.train_from)] = ""
    if split.test_until is not None:
        parts[at >= microseconds(split.test_until)] = ""
    return parts


def _by_group(words: Sequence[str | None], split: GroupSplit) -> Parts:
    def part(word: str | None) -> str:
        if word is None:
            return ""
        place = place_of_group(word, split.seed, use="split")
        if place < split.test:
            return TEST
        return VALIDATION if place < split.test + split.validation else TRAIN

    known = {word: part(word) for word in set(words)}
    return np.array([known[word] for word in words], dtype=object)


def _by_strata(columns: Sequence[Sequence[str | None]], n: int, split: StratifiedSplit) -> Parts:
    strata: dict[tuple[str | None, ...], list[int]] = {}
    for place, key in enumerate(zip(*columns, strict=True) if columns else [()] * n):
        strata.setdefault(key, []).append(place)
    parts = np.full(n, TRAIN, dtype=object)
    for places in strata.values():
        order = np.array(places)[_shuffled(len(places), split.seed)]
        n_test = round(split.test * order.size)
        n_validation = round(split.validation * order.size)
        parts[order[:n_test]] = TEST
        parts[order[n_test : n_test + n_validation]] = VALIDATION
    return parts


def _shuffled(n: int, seed: int) -> npt.NDArray[np.int64]:
    """The numbers below n in an order that looks random (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.argsort(z, kind="stable")
