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
    no, yes, threshold, missing_yes = sides(trees)
    branches, tree_of, n_leaves = [], [], (trees.mode == Mode.LEAF).astype(np.int64)
    level, owner = trees.roots, np.arange(trees.n_trees)
    nodes, owners = [level], [owner]
    while (deeper := trees.mode[level] != Mode.LEAF).any():
        branches.append(level[deeper])
        tree_of.append(owner[deeper])
        level = np.concatenate([no[branches[-1]], yes[branches[-1]]])
        owner = np.tile(tree_of[-1], 2)
        nodes.append(level)
        owners.append(owner)
    for above in reversed(branches):
        n_leaves[above] = n_leaves[no[above]] + n_leaves[yes[above]]
    first = np.zeros_like(n_leaves)  # how many leaves lie to the left
    for above in branches:
        first[no[above]] = first[above]
        first[yes[above]] = first[above] + n_leaves[no[above]]
    node, tree = np.concatenate(nodes), np.concatenate(owners)
    leaf = trees.mode[node] == Mode.LEAF
    leaves = np.full((trees.n_trees, MOST_LEAVES), -1, dtype=np.int64)
    leaves[tree[leaf], first[node[leaf]]] = node[leaf]

    asked, tree = np.concatenate(branches), np.concatenate(tree_of)
    equal = np.isin(trees.mode[asked], (Mode.EQ, Mode.NEQ))
    twice = np.append(np.arange(len(asked)), np.flatnonzero(equal))
    negative = np.arange(len(twice)) >= len(asked)  # less than is greater, of negatives
    order = np.argsort(tree[twice], kind="stable")
    asked, tree, negative = asked[twice][order], tree[twice][order], negative[order]
    away = ((1 << n_leaves[no[asked]]) - 1) << first[asked]
    return Entries(
        tree=tree,
        feature=trees.feature[asked],
        negative=negative,
        threshold=np.where(negative, -threshold[asked], threshold[asked]),
        missing_yes=missing_yes[asked],
        mask=(_ALL ^ away).astype(np.uint32),
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
