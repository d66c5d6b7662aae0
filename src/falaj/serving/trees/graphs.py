"""Reads an ensemble of trees out of an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.serving.trees.ensemble import Ensemble, Mode, NotCompilable, Transform

_DOMAIN = "ai.onnx.ml"
_ENSEMBLES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
_MODES = {
    b"LEAF": Mode.LEAF, b"BRANCH_LEQ": Mode.LEQ, b"BRANCH_LT": Mode.LT, b"BRANCH_GT": Mode.GT,
    b"BRANCH_GTE": Mode.GTE, b"BRANCH_EQ": Mode.EQ, b"BRANCH_NEQ": Mode.NEQ,
}  # fmt: skip
_TRANSFORMS = {
    b"NONE": Transform.NONE, b"LOGISTIC": Transform.LOGISTIC, b"SOFTMAX": Transform.SOFTMAX,
}  # fmt: skip
_FLOAT = 1
"""The number of float32 among ONNX's types."""


@dataclass(frozen=True)
class TreeGraph:
    """A graph that is one ensemble: its trees, and which of its scores the graph gives."""

    trees: Ensemble
    columns: tuple[int, ...]


def read_graph(model: bytes, n_features: int, n_outputs: int) -> TreeGraph:
    """The ensemble that an ONNX graph consists of.

    Args:
        model: the graph's bytes; ONNX Runtime has loaded them before.
        n_features: the columns of its input.
        n_outputs: how many numbers a row are wanted; 1 of a binary classifier is the
            probability of the positive class.

    Raises:
        NotCompilable: the graph does something else too, or the ensemble does what is
            not compiled.
    """
    import onnx

    graph = onnx.load_model_from_string(model).graph
    found = [node for node in graph.node if node.op_type.startswith("TreeEnsemble")]
    if len(found) != 1 or found[0].op_type not in _ENSEMBLES or found[0].domain != _DOMAIN:
        told = ", ".join(sorted({node.op_type for node in graph.node}))
        raise _not_compilable(f"the graph is not one ensemble of trees, but {told}")
    (ensemble,) = found
    given = {attribute.name: _value(attribute) for attribute in ensemble.attribute}
    by_name = [name for name in given if name.endswith("_as_tensor")]
    if by_name:
        raise _not_compilable(f"it has attributes of doubles ({', '.join(by_name)})")
    _input_is_plain(graph, ensemble)
    classifies = ensemble.op_type == "TreeEnsembleClassifier"
    trees, columns = _ensemble(given, n_features, classifies=classifies)
    chosen = _chosen(graph, ensemble.output[1 if classifies else 0], columns)
    if len(chosen) == 2 and n_outputs == 1:
        chosen = chosen[1:]
    if len(chosen) != n_outputs or -1 in chosen:
        raise _not_compilable(f"it gives scores that are not compiled, {n_outputs} a row")
    return TreeGraph(trees, chosen)


def _not_compilable(why: str) -> NotCompilable:
    return NotCompilable(f"The model is not compiled: {why}.", hint="It is served by ONNX Runtime.")


def _value(attribute: Any) -> Any:
    import onnx

    return onnx.helper.get_attribute_value(attribute)


# -- the nodes around the ensemble -------------------------------------------------------


def _constants(graph: Any) -> dict[str, NDArray[Any]]:
    import onnx

    found = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = onnx.numpy_helper.to_array(_value(node.attribute[0]))
    return found


def _input_is_plain(graph: Any, ensemble: Any) -> None:
    makers = {name: node for node in graph.node for name in node.output}
    name = ensemble.input[0]
    while name in makers:
        node = makers[name]
        same = node.op_type == "Identity" or (
            node.op_type == "Cast" and _value(node.attribute[0]) == _FLOAT
        )
        if not same:
            raise _not_compilable(f"its input goes through {node.op_type}")
        name = node.input[0]


def _chosen(graph: Any, scores: str, columns: tuple[int, ...]) -> tuple[int, ...]:
    """Which columns of the scores the graph's last output of floats holds."""
    constants = _constants(graph)
    floats = [one.name for one in graph.output if one.type.tensor_type.elem_type == _FLOAT]
    if not floats:
        raise _not_compilable("it gives no float32 numbers")
    makers = {name: node for node in graph.node for name in node.output}
    way = []
    name = floats[-1]
    while name != scores:
        if name not in makers:
            raise _not_compilable("what it gives does not come from the trees")
        way.append(makers[name])
        # A product may name its constant first.
        name = next((one for one in way[-1].input if one not in constants), scores)
    for node in reversed(way):
        columns = _through(node, columns, constants)
    return columns


def _through(
    node: Any, columns: tuple[int, ...], constants: dict[str, NDArray[Any]]
) -> tuple[int, ...]:
    attributes = {one.name: _value(one) for one in node.attribute}
    others = [constants[name] for name in node.input if name in constants]
    match node.op_type:
        case "Identity" | "Reshape":  # whether the shape fits is seen when both are compared
            return columns
        case "Cast" if attributes["to"] == _FLOAT:
            return columns
        case "Mul" if others and np.all(others[0] == 1):
            return columns
        case "Gather" if others and attributes.get("axis", 0) == 1:
            return tuple(columns[place] for place in others[0].reshape(-1).tolist())
        case "ArrayFeatureExtractor" if others:
            return tuple(columns[place] for place in others[0].reshape(-1).tolist())
        case "Slice" if len(others) >= 3 and others[2].tolist() == [1]:
            step = int(others[3][0]) if len(others) > 3 else 1
            return columns[int(others[0][0]) : int(others[1][0]) : step]
    raise _not_compilable(f"its scores go through {node.op_type}")


# -- the ensemble itself -----------------------------------------------------------------


def _ensemble(
    given: dict[str, Any], n_features: int, *, classifies: bool
) -> tuple[Ensemble, tuple[int, ...]]:
    """The trees, and the columns of ONNX's scores as columns of ours (-1: not to be had)."""
    leaf = "class" if classifies else "target"
    transform = given.get("post_transform", b"NONE")
    averaged = given.get("aggregate_function", b"SUM")
    if transform not in _TRANSFORMS or averaged not in (b"SUM", b"AVERAGE"):
        raise _not_compilable(f"it asks for {transform.decode()} of {averaged.decode()}")
    try:
        mode = np.array([_MODES[name] for name in given["nodes_modes"]], dtype=np.int8)
    except KeyError as unknown:
        raise _not_compilable(f"a node has the mode {unknown}") from None
    tree, number = _integers(given, "nodes_treeids"), _integers(given, "nodes_nodeids")
    node_of = _Places(tree, number)
    if_true = node_of(tree, _integers(given, "nodes_truenodeids"), where=mode != Mode.LEAF)
    if_false = node_of(tree, _integers(given, "nodes_falsenodeids"), where=mode != Mode.LEAF)
    _, firsts = np.unique(tree, return_index=True)
    roots = np.sort(firsts).astype(np.int64)  # trees are added up as they stand in the file

    score = _integers(given, f"{leaf}_ids")
    weights = np.array(given.get(f"{leaf}_weights", ()), dtype=np.float32)
    at = node_of(_integers(given, f"{leaf}_treeids"), _integers(given, f"{leaf}_nodeids"))
    base = np.array(given.get("base_values", ()), dtype=np.float32)
    form = _Form(given, score, weights, base, classifies=classifies)
    values = np.zeros((len(mode), form.n_scores), dtype=np.float32)
    places = at * form.n_scores + form.score
    if len(np.unique(places)) != len(places) or (mode[at] != Mode.LEAF).any():
        raise _not_compilable("a node has two values for one score, or is no leaf")
    values.reshape(-1)[places] = weights
    first, width = _scores_of_trees(tree, roots, at, form)
    n_missing = len(mode)
    missing = np.array(given.get("nodes_missing_value_tracks_true", ()) or [0] * n_missing)
    trees = Ensemble(
        n_features=n_features,
        n_scores=form.n_scores,
        roots=roots,
        mode=mode,
        feature=_integers(given, "nodes_featureids"),
        threshold=np.array(given["nodes_values"], dtype=np.float32),
        if_true=if_true,
        if_false=if_false,
        missing_is_true=missing.astype(np.bool_),
        values=values,
        first_score=first,
        tree_scores=width,
        base=form.base,
        divisor=float(len(roots)) if averaged == b"AVERAGE" else 1.0,
        transform=form.transform,
    )
    return trees, form.columns


def _integers(given: dict[str, Any], name: str) -> NDArray[np.int64]:
    return np.array(given.get(name, ()), dtype=np.int64)


class _Places:
    """Finds nodes by the number of their tree and their own."""

    def __init__(self, tree: NDArray[np.int64], number: NDArray[np.int64]) -> None:
        self._factor = int(number.max(initial=0)) + 1
        keys = tree * self._factor + number
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        if len(np.unique(keys)) != len(keys):
            raise _not_compilable("two nodes of a tree have one number")

    def __call__(
        self,
        tree: NDArray[np.int64],
        number: NDArray[np.int64],
        where: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        wanted = tree * self._factor + number
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        bad = (self._keys[at] != wanted) | (number < 0) | (number >= self._factor)
        if (bad if where is None else bad & where).any():
            raise _not_compilable("a node is named that does not exist")
        return self._order[at].astype(np.int64)


class _Form:
    """How the scores of ONNX come about from the sums of the trees.

    A classifier of two classes whose leaves all speak of one class has one sum, from which
    the positive class gets its score. Where the sum is a raw score of either sign, ONNX
    Runtime turns the sign by the winning class: that is left to it, as are base values of
    both classes.
    """

    def __init__(
        self,
        given: dict[str, Any],
        score: NDArray[np.int64],
        weights: NDArray[np.float32],
        base: NDArray[np.float32],
        *,
        classifies: bool,
    ) -> None:
        transform = _TRANSFORMS[given.get("post_transform", b"NONE")]
        if classifies:
            n_classes = len(given.get("classlabels_int64s") or given["classlabels_strings"])
        else:
            n_classes = int(given.get("n_targets", 1))
            if transform is not Transform.NONE:
                raise _not_compilable("it transforms the targets of a regression")
        self.score = score
        self.n_scores, self.transform = n_classes, transform
        self.columns: tuple[int, ...] = tuple(range(n_classes))
        if len(score) and (score.min() < 0 or score.max() >= n_classes):
            raise _not_compilable("a leaf speaks of a class that there is not")
        if classifies and n_classes == 2 and len(np.unique(score)) == 1:
            self.score = np.zeros_like(score)
            self.n_scores, self.columns = 1, (-1, 0)
            raw = transform is Transform.NONE and not (weights >= 0).all()
            if raw or transform is Transform.SOFTMAX:
                raise _not_compilable("it gives raw scores of two classes")
        if len(base) not in (0, self.n_scores):
            raise _not_compilable("its base values do not fit its scores")
        self.base = base if len(base) else np.zeros(self.n_scores, dtype=np.float32)


def _scores_of_trees(
    tree: NDArray[np.int64],
    roots: NDArray[np.int64],
    at: NDArray[np.int64],
    form: _Form,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first score that each tree adds to, and how many; others would add zeros."""
    ids = tree[roots]
    order = np.argsort(ids)
    owner = order[np.searchsorted(ids[order], tree[at])]
    least = np.full(len(roots), form.n_scores, dtype=np.int64)
    most = np.full(len(roots), -1, dtype=np.int64)
    np.minimum.at(least, owner, form.score)
    np.maximum.at(most, owner, form.score)
    silent = most < 0
    least[silent], most[silent] = 0, 0
    return least, most - least + 1
