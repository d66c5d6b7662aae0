"""A compiled ensemble: which loop scores how many rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import InvalidInput
from falaj.serving.trees.ensemble import Mode, levels
from falaj.serving.trees.masks import MOST_LEAVES, block_of_few, block_of_many, entries
from falaj.serving.trees.walks import walk_block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from falaj.serving.trees.blocks import Words
    from falaj.serving.trees.graphs import TreeGraph

_FEW = 7
"""Up to so many rows are scored one by one: a block of 16 costs as much as eight of them."""

_Kernel = Callable[..., bool]


@dataclass(frozen=True)
class Laid:
    """Trees as the loops read them: all that a scorer is made of.

    Attributes:
        kind: which loops score them, ``masks`` or ``walks``.
        n_features: of a row.
        n_scores: of a row, before columns are picked.
        columns: which scores are given, in this order.
        few, many: the blocks for few rows and for many; the same one for ``walks``.
    """

    kind: str
    n_features: int
    n_scores: int
    columns: tuple[int, ...]
    few: Words
    many: Words


def laid(graph: TreeGraph) -> Laid:
    """An ensemble laid out for the loops.

    Raises:
        NotCompilable: the trees are such as no loop scores.
    """
    trees = graph.trees
    reached = levels(trees)
    is_leaf = trees.mode[reached.node] == Mode.LEAF
    n_leaves = np.bincount(reached.tree[is_leaf], minlength=trees.n_trees)
    if n_leaves.max() <= MOST_LEAVES and not is_leaf.all():
        asked = entries(trees)
        kind, few, many = "masks", block_of_few(trees, asked), block_of_many(trees, asked)
    else:
        kind, few = "walks", walk_block(trees, reached)
        many = few
    return Laid(kind, trees.n_features, trees.n_scores, graph.columns, few, many)


class TreeScorer:
    """Scores rows with the compiled loops; safe to call from many threads.

    Args:
        blocks: the ensemble.
    """

    def __init__(self, blocks: Laid) -> None:
        from falaj.serving.trees import kernels_trees as kernels

        self.kind, self.n_scores = blocks.kind, blocks.n_scores
        self._columns = self._picked(blocks.columns, blocks.n_scores)
        self._few_rows = _FEW
        masks = blocks.kind == "masks"
        self._few = _seen(kernels.scored_few if masks else kernels.scored_walks, blocks.few)
        self._many = _seen(kernels.scored_blocks if masks else kernels.scored_walks, blocks.many)

    @staticmethod
    def _picked(columns: tuple[int, ...], n_scores: int) -> list[int] | None:
        return None if columns == tuple(range(n_scores)) else list(columns)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs float32 [n, k] for rows float32 [n, f], C-contiguous.

        Raises:
            InvalidInput: the rows have another number of columns.
            TypeError: they are no such array.
        """
        n = len(rows)
        scores = np.empty((n, self.n_scores), np.float32)
        kernel, words, floats = self._few if n <= self._few_rows else self._many
        if not kernel(rows, scores, words, floats):
            raise InvalidInput(
                f"The rows have {rows.shape[1]} columns; the model takes another number.",
                hint="Give one column for each input of the model.",
            )
        return scores if self._columns is None else scores[:, self._columns]


def loops_are_loaded() -> bool:
    """Whether the loops are in memory, which takes half a second the first time."""
    return "falaj.serving.trees.kernels_trees" in sys.modules


def _seen(kernel: _Kernel, words: Words) -> tuple[_Kernel, Words, NDArray[np.float32]]:
    return kernel, words, words.view(np.float32)
