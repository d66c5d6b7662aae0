"""The cuts of a cross-validation: what each fold learns from, stops early by, is judged on.

Over time nothing that is learned from lies at or after the judged stretch, nor within the
embargo before it. Rows of one instant are never on both sides of a boundary. Early stopping
watches rows of its own, cut from those that are learned from: a fold's score is not
flattered by having chosen the round that suited it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import InvalidInput
from falaj.training.options import CrossValidation

Places = npt.NDArray[np.int64]
_STOPPING_SHARE = 0.15
_INNER_FOLDS = 7


@dataclass(frozen=True)
class Fold:
    """Places of rows; the three have none in common."""

    train: Places
    stopping: Places
    judged: Places


def folds_of(
    wanted: CrossValidation,
    *,
    at: npt.NDArray[np.int64],
    labels: npt.NDArray[np.float64],
    groups: Sequence[str | None] | None = None,
    seed: int = 7,
) -> list[Fold]:
    """The folds over rows.

    Args:
        at: the instant of each row, Unix microseconds, in any order.
        labels: of any task; for classes every fold needs two of them.
        groups: of each row; needed where ``wanted`` names a column of groups. A row without
            one belongs to no other.

    Raises:
        InvalidInput: a fold would learn from, or be judged on, no rows or one class.
    """
    named = None if groups is None else _numbered(groups)
    if wanted.kind in ("expanding", "rolling"):
        found = [_apart(one, named) for one in _over_time(wanted, at)]
    else:
        found = _regardless_of_time(wanted, labels, named, seed)
    for place, fold in enumerate(found):
        for what, rows in (
            ("learns from", fold.train), ("stops by", fold.stopping), ("judges", fold.judged),
        ):  # fmt: skip
            if rows.size == 0 or labels[rows].min() == labels[rows].max():
                raise InvalidInput(
                    f"Fold {place + 1} of {len(found)} {what} {rows.size} rows, whose labels are"
                    " all the same: at least two are needed.",
                    hint="Ask for fewer folds, or a shorter embargo.",
                )
    return found


def _over_time(wanted: CrossValidation, at: npt.NDArray[np.int64]) -> list[Fold]:
    ordered = np.sort(at)
    cuts = [ordered[len(at) * k // (wanted.folds + 1)] for k in range(wanted.folds + 1)]
    embargo = round(wanted.embargo.total_seconds() * 1e6)
    found = []
    for k in range(1, wanted.folds + 1):
        start, end = cuts[k], cuts[k + 1] if k < wanted.folds else None
        judged = at >= start
        if end is not None:
            judged &= at < end
        learned = at < start - embargo
        if wanted.kind == "rolling":
            learned &= at >= cuts[max(0, k - wanted.folds_back)]
        places = np.flatnonzero(learned)
        stopping = np.zeros(0, np.int64)
        if places.size:
            from_here = np.sort(at[places])[int(places.size * (1 - _STOPPING_SHARE))]
            stopping = places[at[places] >= from_here]
            places = places[at[places] < from_here]
        found.append(Fold(places, stopping, np.flatnonzero(judged)))
    return found


def _regardless_of_time(
    wanted: CrossValidation, labels: npt.NDArray[np.float64], groups: Places | None, seed: int
) -> list[Fold]:
    places = np.arange(labels.size)
    found = []
    for learned, judged in _cut(wanted, labels, groups, wanted.folds, seed):
        of_these = None if groups is None else groups[learned]
        inner = _cut(wanted, labels[learned], of_these, _INNER_FOLDS, seed)
        train, stopping = inner[0]
        found.append(Fold(places[learned[train]], places[learned[stopping]], places[judged]))
    return found


def _cut(
    wanted: CrossValidation,
    labels: npt.NDArray[np.float64],
    groups: Places | None,
    n: int,
    seed: int,
) -> list[tuple[Places, Places]]:
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, StratifiedKFold

    cutter: Any
    if wanted.kind == "grouped":
        cutter = GroupKFold(n)
    elif groups is not None:
        cutter = StratifiedGroupKFold(n, shuffle=True, random_state=seed)
    else:
        cutter = StratifiedKFold(n, shuffle=True, random_state=seed)
    try:
        return list(cutter.split(np.zeros(labels.size), labels, groups))
    except ValueError as error:
        raise InvalidInput(
            f"The rows cannot be cut into {n} folds: {error}.", hint="Ask for fewer folds."
        ) from None


def _apart(fold: Fold, groups: Places | None) -> Fold:
    """The fold without rows to learn from that share a group with a judged row."""
    if groups is None:
        return fold
    judged = groups[fold.judged]
    kept = [~np.isin(groups[places], judged) for places in (fold.train, fold.stopping)]
    return Fold(fold.train[kept[0]], fold.stopping[kept[1]], fold.judged)


def _numbered(groups: Sequence[str | None]) -> Places:
    """Each group as a number; a row without a group is one by itself."""
    known: dict[str, int] = {}
    numbers = []
    for place, word in enumerate(groups):
        numbers.append(-1 - place if word is None else known.setdefault(word, len(known)))
    return np.array(numbers, dtype=np.int64)
