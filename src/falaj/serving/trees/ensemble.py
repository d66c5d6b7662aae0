"""What an ensemble of decision trees is, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import InvalidInput


class NotCompilable(InvalidInput):
    """The graph is not an ensemble of trees that the compiled loops can score."""

    code = "not-compilable"


class Mode(IntEnum):
    """What a node asks of its feature; ``TRUE`` is taken where the answer is yes."""

    LEAF = 0
    LEQ = 1
    LT = 2
    GT = 3
    GTE = 4
    EQ = 5
    NEQ = 6


class Transform(IntEnum):
    """What becomes of the summed scores of a row."""

    NONE = 0
    LOGISTIC = 1
    SOFTMAX = 2


@dataclass(frozen=True)
class Ensemble:
    """Decision trees over float32 features, whose leaves add to one or more scores.

    Nodes are rows of parallel arrays; a tree's nodes may lie anywhere.
    """

    n_features: int
    n_scores: int
    """How many numbers a row gets."""
    roots: NDArray[np.int64]
    """(t,) the first node of each tree, in the order in which trees are added up."""
    mode: NDArray[np.int8]
    """(n,) ``Mode`` of each node."""
    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    if_true: NDArray[np.int64]
    """(n,) the node to go to; anything for a leaf."""
    if_false: NDArray[np.int64]
    missing_is_true: NDArray[np.bool_]
    """(n,) whether NaN goes where a yes goes, whatever the mode says."""
    values: NDArray[np.float32]
    """(n, n_scores) what each leaf adds; zero for a branch."""
    first_score: NDArray[np.int64]
    """(t,) the first score that a tree adds to …"""
    tree_scores: NDArray[np.int64]
    """(t,) … and how many after one another."""
    base: NDArray[np.float32]
    """(n_scores,) added after the trees."""
    divisor: float
    """The sum of the trees is divided by this: their number where they are averaged."""
    transform: Transform

    @property
    def n_trees(self) -> int:
        """How many trees there are."""
        return len(self.roots)


@dataclass(frozen=True)
class Levels:
    """The nodes that are reached, level by level: what layouts are made from."""

    node: NDArray[np.int64]
    """(m,) all nodes, sorted by tree, then by depth."""
    tree: NDArray[np.int64]
    """(m,) the tree of each."""
    depth: NDArray[np.int64]
    """(t,) the deepest level of each tree."""


def levels(trees: Ensemble) -> Levels:
    """All nodes that the roots reach.

    Raises:
        NotCompilable: a node is reached twice, or none such exists: these are no trees.
    """
    nodes, owners, marks = [trees.roots], [np.arange(trees.n_trees)], []
    depth = np.zeros(trees.n_trees, dtype=np.int64)
    n_reached, level = trees.n_trees, 0
    while True:
        marks.append(np.full(len(nodes[-1]), level))
        branches = trees.mode[nodes[-1]] != Mode.LEAF
        if not branches.any():
            break
        above, owner = nodes[-1][branches], owners[-1][branches]
        below = np.stack([trees.if_true[above], trees.if_false[above]], axis=1).reshape(-1)
        n_reached += len(below)
        if n_reached > len(trees.mode) or below.min() < 0 or below.max() >= len(trees.mode):
            raise _no_trees()
        level += 1
        nodes.append(below)
        owners.append(np.repeat(owner, 2))
        depth[owner] = level
    node, tree = np.concatenate(nodes), np.concatenate(owners)
    if len(np.unique(node)) != len(node):
        raise _no_trees()
    order = np.lexsort((np.concatenate(marks), tree))
    return Levels(node[order], tree[order], depth)


def _no_trees() -> NotCompilable:
    return NotCompilable(
        "The nodes of the ensemble do not form trees: one is reached twice, or does not exist.",
        hint="Serve it with ONNX Runtime.",
    )


def sides(trees: Ensemble) -> tuple[NDArray[np.int64], NDArray[np.int64], Any, Any]:
    """Every branch as one question, "is the value greater than t?", no matter its mode.

    Returns:
        for each node the child for "no" and the child for "yes", the float32 threshold,
        and whether NaN counts as "yes". For ``EQ`` and ``NEQ`` the question is "is it
        another value than t?".

    Raises:
        NotCompilable: a threshold is NaN, or infinite where it is not asked whether a value is
            at most as great (or greater). "Is x at most infinity?" is how LightGBM tells missing
            values from all others: where NaN counts as "yes", the greatest finite number stands
            in infinity's place, and a kernel reads infinity as that number.
    """
    mode, threshold = trees.mode, trees.threshold
    branch = mode != Mode.LEAF
    endless = np.isinf(threshold) & np.isin(mode, (Mode.LEQ, Mode.GT))
    if not (np.isfinite(threshold) | endless)[branch].all():
        raise NotCompilable(
            "A threshold of the trees is infinite or NaN.", hint="Serve it with ONNX Runtime."
        )
    # x < t is x ≤ the number before t; x ≥ t is x > the number before t.
    before = np.isin(mode, (Mode.LT, Mode.GTE))
    with np.errstate(over="ignore"):
        stepped = np.nextafter(threshold, np.float32(-np.inf))
    exact = np.where(before, stepped, threshold).astype(np.float32)
    swapped = np.isin(mode, (Mode.GT, Mode.GTE, Mode.NEQ))
    no = np.where(swapped, trees.if_false, trees.if_true)
    yes = np.where(swapped, trees.if_true, trees.if_false)
    # A NaN answers every comparison with false, and x ≠ t with true.
    missing_yes = np.where(swapped, trees.missing_is_true, ~trees.missing_is_true)
    missing_yes |= mode == Mode.NEQ
    exact[missing_yes & np.isposinf(exact)] = np.finfo(np.float32).max
    return no, yes, exact, missing_yes
