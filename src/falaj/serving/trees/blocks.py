"""One model as one block of words: a header, then sections, as ``kernels_trees`` reads it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from falaj.serving.trees.ensemble import Ensemble, NotCompilable

HEADER = (
    "n_scores", "transform", "divisor", "base", "n_trees", "trees", "values", "n_columns",
    "columns", "starts", "entries", "n_groups", "groups", "block", "rows", "thresholds",
    "edges", "n_padded", "nodes", "grouped", "n_features",
)  # fmt: skip
"""The words of the header, in their order; ``kernels_trees`` numbers them alike."""
_MOST_WORDS = 1 << 26
"""A block is at most 256 MB; a place in it fits a word."""

Words = NDArray[np.uint32]


class BlockWriter:
    """Puts sections one after another, each on a border of 64 bytes."""

    def __init__(self, trees: Ensemble, n_trees: int) -> None:
        self._sections: list[Words] = []
        self._n_words = 32
        self.header: dict[str, int] = {
            "n_scores": trees.n_scores,
            "transform": int(trees.transform),
            "divisor": int(np.float32(trees.divisor).view(np.uint32)),
            "n_trees": n_trees,
            "n_features": trees.n_features,
        }
        self.add("base", trees.base)

    def add(self, name: str, section: NDArray[np.float32] | NDArray[np.uint32]) -> int:
        """Put a section behind the others, and its place into the header.

        Raises:
            NotCompilable: the block becomes too large.
        """
        words = np.ascontiguousarray(section).reshape(-1).view(np.uint32)
        place = self._n_words
        padded = np.zeros(-(-max(len(words), 1) // 16) * 16, dtype=np.uint32)
        padded[: len(words)] = words
        self._sections.append(padded)
        self._n_words += len(padded)
        if self._n_words > _MOST_WORDS:
            raise NotCompilable(
                "The trees take more than 256 MB when laid out.",
                hint="Serve them with ONNX Runtime.",
            )
        self.header[name] = place
        return place

    def block(self, numbers: Mapping[str, int]) -> Words:
        """The whole block; ``numbers`` are further words of the header."""
        head = np.zeros(32, dtype=np.uint32)
        told = {**self.header, **numbers}
        head[: len(HEADER)] = [told.get(name, 0) for name in HEADER]
        return np.concatenate([head, *self._sections])


class Columns:
    """The columns that nodes ask for: a feature or its negative, NaN kept or made +inf."""

    def __init__(self, n_features: int) -> None:
        self._n_features = n_features

    def kinds(
        self,
        feature: NDArray[np.int64],
        negative: NDArray[np.bool_],
        missing_yes: NDArray[np.bool_],
    ) -> tuple[Words, NDArray[np.int64]]:
        """The distinct columns of questions, and the column of each question.

        Raises:
            NotCompilable: a feature is none of the model's.
        """
        if len(feature) and (feature.min() < 0 or feature.max() >= self._n_features):
            raise NotCompilable(
                f"A tree asks for a feature beyond the {self._n_features} that the model takes.",
                hint="Make the bundle again from its run.",
            )
        kind = feature * 4 + missing_yes * 2 + negative
        distinct, place = np.unique(kind, return_inverse=True)
        return distinct.astype(np.uint32), place.astype(np.int64)
