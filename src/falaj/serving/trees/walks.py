"""Trees of any size, laid out for walking from roots to leaves."""

from __future__ import annotations

import numpy as np

from falaj.serving.trees.blocks import BlockWriter, Columns, Words
from falaj.serving.trees.ensemble import Ensemble, Levels, Mode, NotCompilable, sides


def walk_block(trees: Ensemble, reached: Levels) -> Words:
    """The block for ``scored_walks``.

    A node is four words: threshold, column, place of the child for "no" (the child for
    "yes" follows it), place of its values. Each tree's nodes lie together, level by level.

    Raises:
        NotCompilable: a node asks for equality, or the trees are too large.
    """
    if np.isin(trees.mode[reached.node], (Mode.EQ, Mode.NEQ)).any():
        raise NotCompilable(
            "Large trees with tests of equality are not walked.",
            hint="Serve them with ONNX Runtime.",
        )
    no, yes, threshold, missing_yes = sides(trees)
    n = len(reached.node)
    is_branch = trees.mode[reached.node] != Mode.LEAF
    branches = reached.node[is_branch]
    kinds, column = Columns(trees.n_features).kinds(
        trees.feature[branches], np.zeros(len(branches), dtype=np.bool_), missing_yes[branches]
    )
    # A tree's root comes first, then the children of its branches, pair after pair.
    first = np.searchsorted(reached.tree, np.arange(trees.n_trees))
    tree = reached.tree[is_branch]
    rank = np.arange(len(branches)) - np.searchsorted(tree, np.arange(trees.n_trees))[tree]
    place = np.zeros(len(trees.mode), dtype=np.int64)
    place[trees.roots] = first
    pair = first[tree] + 1 + 2 * rank
    place[no[branches]] = pair
    place[yes[branches]] = pair + 1

    writer = BlockWriter(trees, trees.n_trees)
    widths = trees.tree_scores[reached.tree]
    values_at, values = _leaf_values(trees, reached, widths)
    start = writer.add("values", values)
    nodes = np.zeros((n, 4), dtype=np.uint32)
    here = place[reached.node]
    nodes[here, 0] = np.float32(np.inf).view(np.uint32)  # nothing is greater: a leaf stays
    nodes[here, 2] = here * 4
    nodes[here, 3] = start + values_at
    at = place[branches]
    nodes[at, 0] = threshold[branches].view(np.uint32)
    nodes[at, 1] = column
    nodes[at, 2] = pair * 4
    by_depth = np.argsort(reached.depth, kind="stable")
    writer.add("nodes", nodes)
    grouped = np.stack([first[by_depth] * 4, reached.depth[by_depth], by_depth], axis=1)
    writer.add("grouped", grouped.astype(np.uint32))
    writer.add("columns", kinds if len(kinds) else np.zeros(1, dtype=np.uint32))
    about = np.stack([trees.first_score, trees.tree_scores, np.zeros_like(trees.roots)], axis=1)
    writer.add("trees", about.astype(np.uint32))
    return writer.block({"n_columns": max(1, len(kinds))})


def _leaf_values(
    trees: Ensemble, reached: Levels, widths: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> tuple[
    np.ndarray[tuple[int], np.dtype[np.int64]], np.ndarray[tuple[int], np.dtype[np.float32]]
]:
    """The place of each reached node's values, and the values one after another."""
    ends = np.cumsum(widths)
    owner = np.repeat(np.arange(len(widths)), widths)
    score = trees.first_score[reached.tree][owner] + np.arange(ends[-1]) - (ends - widths)[owner]
    return ends - widths, trees.values[reached.node[owner], score]
