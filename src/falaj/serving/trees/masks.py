"""Trees of few leaves as masks of leaves, after QuickScorer.

A branch that is answered "yes" takes away all leaves below its "no" side; what a row gets
is the value of the first leaf that no branch took away. Source: C. Lucchese et al.,
"QuickScorer: a fast algorithm to rank documents with additive ensembles of regression
trees", SIGIR 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from falaj.serving.trees.blocks import BlockWriter, Columns, Words
from falaj.serving.trees.ensemble import Ensemble, Mode, sides

MOST_LEAVES = 32
"""A mask is one word."""
_ALL = 0xFFFFFFFF
_JOINED_WORDS = 1 << 18
"""Joined masks take about a megabyte at most, so that they stay in the second cache."""


@dataclass(frozen=True)
class Entries:
    """All questions of all trees: where the value is greater, only the mask's leaves are left."""

    tree: NDArray[np.int64]
    feature: NDArray[np.int64]
    negative: NDArray[np.bool_]
    """Whether the negative of the feature is compared."""
    threshold: NDArray[np.float32]
    missing_yes: NDArray[np.bool_]
    mask: NDArray[np.uint32]
    leaves: NDArray[np.int64]
    """(t, 32) the leaf nodes of each tree from left to right; -1 beyond."""

    def __len__(self) -> int:
        return len(self.tree)


def entries(trees: Ensemble) -> Entries:
    """The questions of trees that have at most 32 leaves each, and a branch somewhere."""
    no, yes, threshold, missing_yes = (side.tolist() for side in sides(trees))
    mode, feature = trees.mode.tolist(), trees.feature.tolist()
    leaves = np.full((trees.n_trees, MOST_LEAVES), -1, dtype=np.int64)
    found: list[tuple[int, int, bool, float, bool, int]] = []
    for tree, root in enumerate(trees.roots.tolist()):
        n_leaves = 0
        # A branch is met twice: on the way down, and when all below "no" is numbered.
        stack: list[tuple[int, int]] = [(root, -1)]
        while stack:
            node, first = stack.pop()
            if first >= 0:
                mask = _ALL ^ (((1 << n_leaves) - 1) & ~((1 << first) - 1))
                at, missing = threshold[node], missing_yes[node]
                found.append((tree, feature[node], False, at, missing, mask))
                if mode[node] in (Mode.EQ, Mode.NEQ):  # less than is greater, of negatives
                    found.append((tree, feature[node], True, -at, missing, mask))
            elif mode[node] == Mode.LEAF:
                leaves[tree, n_leaves] = node
                n_leaves += 1
            else:
                stack += [(yes[node], -1), (node, n_leaves), (no[node], -1)]
    tree_of, asked, negative, threshold_of, missing_of, mask_of = zip(*found, strict=True)
    return Entries(
        tree=np.array(tree_of, dtype=np.int64),
        feature=np.array(asked, dtype=np.int64),
        negative=np.array(negative, dtype=np.bool_),
        threshold=np.array(threshold_of, dtype=np.float32),
        missing_yes=np.array(missing_of, dtype=np.bool_),
        mask=np.array(mask_of, dtype=np.uint32),
        leaves=leaves,
    )


def block_of_many(trees: Ensemble, asked: Entries) -> Words:
    """The block for ``scored_blocks``."""
    kinds, column = Columns(trees.n_features).kinds(
        asked.feature, asked.negative, asked.missing_yes
    )
    writer = _started(trees, asked)
    words = np.empty((len(asked), 3), dtype=np.uint32)
    words[:, 0] = column * 16
    words[:, 1] = asked.threshold.view(np.uint32)
    words[:, 2] = asked.mask
    writer.add("entries", words)
    starts = np.searchsorted(asked.tree, np.arange(trees.n_trees + 1))
    writer.add("starts", starts.astype(np.uint32))
    writer.add("columns", kinds)
    return writer.block({"n_columns": len(kinds)})


def block_of_few(trees: Ensemble, asked: Entries) -> Words:
    """The block for ``scored_few``: masks joined for all smaller thresholds, block by block."""
    n_padded = -(-trees.n_trees // 16) * 16
    size = 16
    while len(asked) // size * n_padded > _JOINED_WORDS and size < 128:
        size *= 2
    writer = _started(trees, asked)
    groups, rows, thresholds, pairs, edges = [], [], [], [], []
    n_rows = n_thresholds = n_edges = 0
    group = asked.feature * 2 + asked.negative
    for which in np.unique(group):
        members = np.flatnonzero(group == which)
        members = members[np.argsort(asked.threshold[members], kind="stable")]
        n_blocks = len(members) // size + 1
        joined = np.full((n_blocks + 1, n_padded), _ALL, dtype=np.uint32)
        missing = members[asked.missing_yes[members]]
        np.bitwise_and.at(joined[0], asked.tree[missing], asked.mask[missing])
        for number in range(1, n_blocks):
            inside = members[(number - 1) * size : number * size]
            joined[number + 1] = joined[number]
            np.bitwise_and.at(joined[number + 1], asked.tree[inside], asked.mask[inside])
        sorted_thresholds = np.full(n_blocks * size, np.inf, dtype=np.float32)
        sorted_thresholds[: len(members)] = asked.threshold[members]
        pair = np.zeros((n_blocks * size, 2), dtype=np.uint32)
        pair[: len(members), 0] = asked.tree[members]
        pair[: len(members), 1] = asked.mask[members]
        at_edges = sorted_thresholds[size - 1 : (n_blocks - 1) * size : size]
        padded = np.full(-(-len(at_edges) // 16) * 16, np.inf, dtype=np.float32)
        padded[: len(at_edges)] = at_edges
        groups.append((which // 2, which % 2, n_edges, len(padded), n_thresholds, n_rows))
        rows.append(joined)
        thresholds.append(sorted_thresholds)
        pairs.append(pair)
        edges.append(padded)
        n_rows += len(joined)
        n_thresholds += len(sorted_thresholds)
        n_edges += len(padded)
    places = {
        "rows": writer.add("rows", np.concatenate(rows)),
        "thresholds": writer.add("thresholds", np.concatenate(thresholds)),
        "edges": writer.add("edges", np.concatenate(edges)),
    }
    writer.add("entries", np.concatenate(pairs))
    about = np.array(groups, dtype=np.int64)
    about[:, 2] += places["edges"]
    about[:, 4] += places["thresholds"]
    about[:, 5] = about[:, 5] * n_padded + places["rows"]
    writer.add("groups", about.astype(np.uint32))
    return writer.block({"n_groups": len(groups), "block": size, "n_padded": n_padded})


def _started(trees: Ensemble, asked: Entries) -> BlockWriter:
    """A block with its values, and what the kernels ask about each tree."""
    writer = BlockWriter(trees, trees.n_trees)
    n_values = trees.tree_scores * MOST_LEAVES
    ends = np.cumsum(n_values)
    values = np.zeros(ends[-1], dtype=np.float32)
    for tree, start in enumerate((ends - n_values).tolist()):
        nodes = asked.leaves[tree][asked.leaves[tree] >= 0]
        first, width = int(trees.first_score[tree]), int(trees.tree_scores[tree])
        one = trees.values[nodes, first : first + width].reshape(-1)
        values[start : start + len(one)] = one
    place = writer.add("values", values)
    about = np.stack([trees.first_score, trees.tree_scores, place + ends - n_values], axis=1)
    writer.add("trees", about.astype(np.uint32))
    return writer
