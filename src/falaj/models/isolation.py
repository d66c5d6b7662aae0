"""Isolation forests: how unlike the training rows a row is, kept in the bundle of a model.

A row that few random cuts set apart from the others is unlike them (Liu, Ting and Zhou,
"Isolation Forest", 2008). scikit-learn grows the forest; what is kept is its trees as plain
arrays in NumPy's ``.npz``, which no reader takes for a program.
"""

from __future__ import annotations

import io
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from falaj.features.kernels import plain
from falaj.kernel.errors import Corrupt, InvalidInput

ISOLATION = "isolation.npz"
"""The file of a bundle."""
_EULER = 0.5772156649015329
_FORMS = {
    "left": ("i", 2), "right": ("i", 2), "feature": ("i", 2), "cut": ("f", 2), "length": ("f", 2),
    "fill": ("f", 1), "depth": ("f", 0), "limit": ("f", 0),
}  # fmt: skip
_MOST_NODES = 10_000_000


def grown(
    matrix: NDArray[np.float32], *, n_trees: int, rows_per_tree: int, share: float, seed: int
) -> bytes:
    """A forest of training rows, as the file of a bundle; the same rows and seed give the same.

    Args:
        matrix: float32 [rows, inputs]; NaN is missing and counts as the median.
        n_trees: how many trees.
        rows_per_tree: rows that each is grown on.
        share: of the training rows, so many lie above the limit of scores.
        seed: of the draws.
    """
    from sklearn.ensemble import IsolationForest as Grower

    known = np.where(np.isfinite(matrix), matrix, np.nan).astype(np.float64)
    empty = np.isnan(known).all(axis=0)
    known[:, empty] = 0.0
    fill = np.nanmedian(known, axis=0)
    filled = np.where(np.isnan(known), fill, known).astype(np.float32)
    of = Grower(
        n_estimators=n_trees, max_samples=min(rows_per_tree, len(filled)), random_state=seed
    )
    of.fit(filled)
    trees = [one.tree_ for one in of.estimators_]
    widest = max(tree.node_count for tree in trees)
    kept: dict[str, NDArray[Any]] = {
        "left": np.tile(np.arange(widest, dtype=np.int32), (n_trees, 1)),
        "right": np.tile(np.arange(widest, dtype=np.int32), (n_trees, 1)),
        "feature": np.zeros((n_trees, widest), np.int32),
        "cut": np.zeros((n_trees, widest), np.float64),
        "length": np.zeros((n_trees, widest), np.float64),
    }
    for place, tree in enumerate(trees):
        n = tree.node_count
        leaf = tree.children_left < 0
        own = np.arange(n, dtype=np.int32)  # a leaf leads to itself
        kept["left"][place, :n] = np.where(leaf, own, tree.children_left)
        kept["right"][place, :n] = np.where(leaf, own, tree.children_right)
        kept["feature"][place, :n] = np.where(leaf, 0, tree.feature)
        kept["cut"][place, :n] = np.where(leaf, 0.0, tree.threshold)
        below = _average(np.asarray(tree.n_node_samples, np.float64))
        kept["length"][place, :n] = _depths(tree) + np.where(leaf, below, 0.0)
    forest = IsolationForest(
        **kept, fill=fill, depth=np.array(_average(np.array([float(of.max_samples_)]))[0]),
        limit=np.array(np.inf),
    )  # fmt: skip
    limit = np.quantile(forest.scores(filled), 1 - share)
    file = io.BytesIO()
    np.savez(
        file, allow_pickle=False, left=kept["left"], right=kept["right"], feature=kept["feature"],
        cut=kept["cut"], length=kept["length"], fill=fill, depth=forest.depth,
        limit=np.array(limit),
    )  # fmt: skip
    return file.getvalue()


class IsolationForest:
    """A forest that tells scores; safe on many threads.

    Args:
        left, right, feature, cut, length: [trees, nodes] of each node: where it leads to (a leaf
            to itself), what it cuts at, and the length of the path that ends in it.
        fill: [inputs] what stands for a missing value.
        depth: of an average path in a tree of so many rows.
        limit: scores above it are anomalies.
    """

    def __init__(
        self,
        left: NDArray[np.int32],
        right: NDArray[np.int32],
        feature: NDArray[np.int32],
        cut: NDArray[np.float64],
        length: NDArray[np.float64],
        fill: NDArray[np.float64],
        depth: NDArray[np.float64],
        limit: NDArray[np.float64],
    ) -> None:
        from falaj.models.kernels_isolation import score  # loading numba takes 0.3 s

        self._score = score
        self._n_trees, nodes = left.shape
        begins = (np.arange(self._n_trees) * nodes)[:, None]
        words = np.stack([left + begins, right + begins, feature, np.zeros_like(left)], axis=2)
        self._nodes = plain(words.reshape(-1), np.int32)
        self._cuts = self._nodes.view(np.float32)
        self._cuts[3::4] = _not_above(cut.ravel())
        self._lengths = plain(length.ravel(), np.float64)
        self._fill = plain(fill, np.float32)
        self.depth = depth
        self._depth = float(depth)
        self.limit = float(limit)

    @classmethod
    def read(cls, data: bytes, n_inputs: int) -> Self:
        """The forest of a bundle's file.

        Raises:
            Corrupt: it is no forest over so many inputs.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                if set(file.files) != set(_FORMS):
                    raise ValueError("it has other arrays")
                arrays = {name: file[name] for name in _FORMS}
            _check(arrays, n_inputs)
        except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
            raise Corrupt(
                f"The isolation forest of the bundle cannot be read: {error}.",
                hint="Do not serve it; train or package the model again.",
            ) from None
        return cls(**arrays)

    def scores(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """For each row float32 [n, inputs] its score between 0 and 1; about 0.5 is ordinary.

        Raises:
            InvalidInput: the rows have not the forest's width.
        """
        flags = matrix.flags
        rows = matrix
        if matrix.dtype != np.float32 or not (flags.c_contiguous and flags.writeable):
            rows = plain(matrix, np.float32)
        if rows.ndim != 2 or rows.shape[1] != len(self._fill):
            raise InvalidInput(
                f"The rows are of the shape {rows.shape}; the forest has {len(self._fill)} inputs.",
                hint="Give it the inputs of its model.",
            )
        found = np.empty(len(rows))
        self._score(
            rows, self._fill, self._nodes, self._cuts, self._lengths, self._n_trees, self._depth,
            found,
        )  # fmt: skip
        return found


def _check(arrays: dict[str, NDArray[Any]], n_inputs: int) -> None:
    """Raise ValueError unless every path through the arrays ends, inside of them."""
    for name, (kind, n_dims) in _FORMS.items():
        if arrays[name].dtype.kind != kind or arrays[name].ndim != n_dims:
            raise ValueError(f"{name} is of another form")
    shapes = {arrays[name].shape for name, (_, n_dims) in _FORMS.items() if n_dims == 2}
    if len(shapes) != 1 or 0 in next(iter(shapes)) or arrays["left"].size > _MOST_NODES:
        raise ValueError("its trees are of other sizes")
    left, right = arrays["left"], arrays["right"]
    own = np.arange(left.shape[1])
    inner = (left != own) | (right != own)
    forward = (left > own) & (right > own) & (left < len(own)) & (right < len(own))
    if not (forward | ~inner).all():
        raise ValueError("a path in it does not end")
    if not ((arrays["feature"] >= 0) & (arrays["feature"] < n_inputs)).all():
        raise ValueError("it cuts an input that there is not")
    if arrays["fill"].shape != (n_inputs,) or not np.isfinite(arrays["fill"]).all():
        raise ValueError("it is of other inputs")
    if not (np.isfinite(arrays["length"]).all() and arrays["depth"] > 0):
        raise ValueError("its paths have no length")


def _not_above(cuts: NDArray[np.float64]) -> NDArray[np.float32]:
    """The greatest float32 that is not above each cut: no float32 lies between the two, so that
    all values fall to the same sides."""
    near = cuts.astype(np.float32)
    return np.where(near > cuts, np.nextafter(near, np.float32(-np.inf)), near)


def _depths(tree: Any) -> NDArray[np.float64]:
    """How many cuts lead to each node."""
    depths = np.zeros(tree.node_count)
    for node in range(tree.node_count):  # children stand behind their parents
        if tree.children_left[node] >= 0:
            depths[tree.children_left[node]] = depths[node] + 1
            depths[tree.children_right[node]] = depths[node] + 1
    return depths


def _average(n: NDArray[np.float64]) -> NDArray[np.float64]:
    """The average path of a search without success in a binary tree of n rows (equation 1 of
    the paper)."""
    large = np.maximum(n, 3.0)
    found = 2.0 * (np.log(large - 1.0) + _EULER) - 2.0 * (large - 1.0) / large
    return np.where(n <= 1, 0.0, np.where(n == 2, 1.0, found))
