"""Compiled trees give what ONNX Runtime gives, and leave to it what they do not understand."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import onnx
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import private_folder
from falaj.serving.adapters import kept_trees, runtime_trees
from falaj.serving.adapters.kept_trees import KeptTrees
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.adapters.runtime_trees import TreeRuntime
from falaj.serving.model import ServableModel
from falaj.serving.trees.checking import difference, hard_rows
from falaj.serving.trees.graphs import read_graph
from falaj.serving.trees.scorer import TreeScorer, laid
from falaj.testing.runtimes import RuntimeSuite
from falaj.testing.serving import servable
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

BRANCHES = [
    "BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT", "BRANCH_GTE", "BRANCH_EQ", "BRANCH_NEQ",
]  # fmt: skip
ORDERED = BRANCHES[:4]
N_FEATURES = 4


class TestTreeRuntime(RuntimeSuite):
    """The compiled trees keep the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> TreeRuntime:
        return TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0)

    @pytest.fixture
    def model(self) -> ServableModel:
        return servable(0)


# -- ensembles made by hand --------------------------------------------------------------


@dataclass
class Drawn:
    """Random trees as ONNX's attributes."""

    random: np.random.Generator
    modes: list[str]
    most_leaves: int
    n_features: int = N_FEATURES

    def attributes(self, n_trees: int, scores: list[list[int]], leaf: str, positive: bool):
        names = [
            "treeids", "nodeids", "featureids", "values", "modes", "truenodeids",
            "falsenodeids", "missing_value_tracks_true",
        ]  # fmt: skip
        nodes: dict[str, list] = {name: [] for name in names}
        leaves: dict[str, list] = {"treeids": [], "nodeids": [], "ids": [], "weights": []}
        for tree in range(n_trees):
            self._tree(tree, nodes, leaves, scores[tree], positive)
        given = {f"nodes_{name}": values for name, values in nodes.items()}
        return given | {f"{leaf}_{name}": values for name, values in leaves.items()}

    def _tree(self, tree, nodes, leaves, scores, positive):
        random = self.random
        open_, children = [0], {}
        n = 1
        for _ in range(int(random.integers(0, self.most_leaves))):
            split = open_.pop(int(random.integers(len(open_))))
            children[split] = (n, n + 1)
            open_ += [n, n + 1]
            n += 2
        for node in range(n):
            below = children.get(node)
            nodes["treeids"].append(tree)
            nodes["nodeids"].append(node)
            nodes["featureids"].append(int(random.integers(self.n_features)) if below else 0)
            # Few distinct values, so that equality and ties occur.
            nodes["values"].append(float(np.float32(random.integers(-6, 7) / 3)) if below else 0.0)
            nodes["modes"].append(str(random.choice(self.modes)) if below else "LEAF")
            nodes["truenodeids"].append(below[0] if below else 0)
            nodes["falsenodeids"].append(below[1] if below else 0)
            nodes["missing_value_tracks_true"].append(int(random.integers(2)) if below else 0)
            if not below:
                for score in scores:
                    weight = float(np.float32(random.normal()))
                    leaves["treeids"].append(tree)
                    leaves["nodeids"].append(node)
                    leaves["ids"].append(score)
                    leaves["weights"].append(abs(weight) if positive else weight)


def as_model(op: str, attributes: dict, outputs: int, *after, n_features: int = N_FEATURES):
    """A servable model of one ensemble; ``after`` are nodes behind its scores."""
    names = ["label", "scores"] if op == "TreeEnsembleClassifier" else ["scores"]
    node = helper.make_node(op, ["input"], names, domain="ai.onnx.ml", **attributes)
    last = after[-1].output[0] if after else "scores"
    graph = helper.make_graph(
        [node, *after],
        "trees",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [None, n_features])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1], dtype=np.int64), "one")],
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )
    inputs = tuple(f"x{i}" for i in range(n_features))
    given = tuple(f"y{i}" for i in range(outputs))
    return ServableModel("onnx", made.SerializeToString(), inputs, given)


def classifier(seed=0, *, classes=2, transform="LOGISTIC", base=None, modes=ORDERED, n_trees=7,
               most_leaves=12, every=False, positive=False):  # fmt: skip
    """A classifier: trees for one class each, or (``every``) leaves for all classes."""
    drawn = Drawn(np.random.default_rng(seed), modes, most_leaves)
    if every:
        scores = [list(range(classes))] * n_trees
    else:
        scores = [[0 if classes == 2 else tree % classes] for tree in range(n_trees)]
    attributes = drawn.attributes(n_trees, scores, "class", positive)
    attributes |= {"post_transform": transform, "classlabels_int64s": list(range(classes))}
    if base is not None:
        attributes["base_values"] = base
    return as_model("TreeEnsembleClassifier", attributes, 1 if classes == 2 else classes)


def regressor(seed=0, *, targets=1, aggregate="SUM", base=None, modes=ORDERED, n_trees=7,
              most_leaves=12):  # fmt: skip
    """A regression with leaves for all targets."""
    drawn = Drawn(np.random.default_rng(seed), modes, most_leaves)
    scores = [list(range(targets))] * n_trees
    attributes = drawn.attributes(n_trees, scores, "target", False)
    attributes |= {"n_targets": targets, "aggregate_function": aggregate}
    if base is not None:
        attributes["base_values"] = base
    return as_model("TreeEnsembleRegressor", attributes, targets)


def held_against_onnx(model: ServableModel, seed: int = 1) -> TreeScorer:
    """The compiled model; fails where it differs from ONNX Runtime."""
    graph = read_graph(model.model, len(model.inputs), len(model.outputs))
    scorer = TreeScorer(laid(graph))
    theirs = OnnxRuntime(device="cpu").load(model)
    assert difference(scorer.run, theirs.run, hard_rows(graph.trees, seed=seed)) == 0
    return scorer


MANY = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@MANY
@given(
    seed=st.integers(0, 2**32 - 1),
    n_trees=st.integers(1, 40),
    most_leaves=st.integers(1, 31),
    modes=st.lists(st.sampled_from(BRANCHES), min_size=1, unique=True),
    base=st.sampled_from([None, [0.25]]),
    positive=st.booleans(),
)
def test_a_binary_classifier_of_small_trees_scores_as_onnx_runtime(
    seed, n_trees, most_leaves, modes, base, positive
):
    model = classifier(
        seed, n_trees=n_trees, most_leaves=most_leaves, modes=modes, base=base, positive=positive
    )
    held_against_onnx(model, seed)


@MANY
@given(
    seed=st.integers(0, 2**32 - 1),
    n_trees=st.integers(1, 20),
    most_leaves=st.integers(40, 120),
    modes=st.lists(st.sampled_from(ORDERED), min_size=1, unique=True),
)
def test_large_trees_score_as_onnx_runtime(seed, n_trees, most_leaves, modes):
    model = regressor(seed, n_trees=n_trees, most_leaves=most_leaves, modes=modes)
    held_against_onnx(model, seed)


@MANY
@given(
    seed=st.integers(0, 2**32 - 1),
    classes=st.integers(3, 5),
    transform=st.sampled_from(["NONE", "LOGISTIC", "SOFTMAX"]),
    every=st.booleans(),
    based=st.booleans(),
    most_leaves=st.sampled_from([1, 8, 60]),
)
def test_a_classifier_of_many_classes_scores_as_onnx_runtime(
    seed, classes, transform, every, based, most_leaves
):
    base = [0.1 * number for number in range(classes)] if based else None
    model = classifier(seed, classes=classes, transform=transform, every=every, base=base,
                       n_trees=classes * 3, most_leaves=most_leaves)  # fmt: skip
    held_against_onnx(model, seed)


@MANY
@given(
    seed=st.integers(0, 2**32 - 1),
    targets=st.integers(1, 3),
    aggregate=st.sampled_from(["SUM", "AVERAGE"]),
    based=st.booleans(),
    most_leaves=st.sampled_from([1, 8, 60]),
)
def test_a_regression_scores_as_onnx_runtime(seed, targets, aggregate, based, most_leaves):
    base = [1.5] * targets if based else None
    model = regressor(seed, targets=targets, aggregate=aggregate, base=base,
                      most_leaves=most_leaves)  # fmt: skip
    held_against_onnx(model, seed)


def test_small_trees_are_masks_and_large_ones_walks():
    assert held_against_onnx(classifier(most_leaves=12)).kind == "masks"
    assert held_against_onnx(classifier(most_leaves=90, n_trees=9)).kind == "walks"


def test_a_tree_of_exactly_thirty_two_leaves_is_a_mask():
    drawn = Drawn(np.random.default_rng(3), ORDERED, 1)
    drawn.random = _Always(drawn.random, 31)
    model = as_model(
        "TreeEnsembleRegressor", drawn.attributes(1, [[0]], "target", False) | {"n_targets": 1}, 1
    )
    assert held_against_onnx(model).kind == "masks"


class _Always:
    """A generator whose first integer is given: how often the tree is split."""

    def __init__(self, random, first):
        self._random, self._first = random, [first]

    def integers(self, *limits):
        return self._first.pop() if self._first else self._random.integers(*limits)

    def __getattr__(self, name):
        return getattr(self._random, name)


def test_two_classes_with_a_value_each_score_as_onnx_runtime():
    held_against_onnx(classifier(every=True, transform="NONE", positive=True))


def test_leaves_that_are_all_positive_are_probabilities_as_in_onnx_runtime():
    held_against_onnx(classifier(positive=True, transform="NONE"))


def test_sums_are_the_same_to_the_last_bit():
    for model in (regressor(5, n_trees=60), regressor(5, n_trees=60, most_leaves=99)):
        theirs = OnnxRuntime(device="cpu").load(model)
        graph = read_graph(model.model, N_FEATURES, 1)
        rows = hard_rows(graph.trees)
        np.testing.assert_array_equal(TreeScorer(laid(graph)).run(rows), theirs.run(rows))


# -- models of libraries -----------------------------------------------------------------


def training_rows(seed=0, n=400):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, N_FEATURES)).astype(np.float32)
    rows[:, 3] = random.integers(0, 4, n)
    signal = rows[:, 0] + 0.5 * rows[:, 1] + random.normal(size=n) / 2
    return rows, signal


def served(converted, outputs=1) -> ServableModel:
    given = tuple(f"y{i}" for i in range(outputs))
    inputs = tuple(f"x{i}" for i in range(N_FEATURES))
    return ServableModel("onnx", converted.SerializeToString(), inputs, given)


@pytest.mark.parametrize("leaves", [7, 31, 63])
def test_lightgbm_models_score_as_onnx_runtime(leaves):
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, signal = training_rows()
    rows[::7, 1] = np.nan
    fitted = lightgbm.LGBMClassifier(
        n_estimators=40, num_leaves=leaves, min_child_samples=2, verbose=-1, n_jobs=1
    ).fit(rows, (signal > 0).astype(int))
    kind = [("input", FloatTensorType([None, N_FEATURES]))]
    converted = convert_lightgbm(fitted, initial_types=kind, zipmap=False, target_opset=15)
    held_against_onnx(served(converted))


@pytest.mark.parametrize("what", ["binary", "classes", "regression"])
def test_xgboost_models_score_as_onnx_runtime(what):
    xgboost = pytest.importorskip("xgboost")
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, signal = training_rows()
    rows[::5, 0] = np.nan
    kind = [("input", FloatTensorType([None, N_FEATURES]))]
    maker = xgboost.XGBRegressor if what == "regression" else xgboost.XGBClassifier
    classes = np.digitize(signal, [-0.5, 0.5])
    target = {"binary": (signal > 0).astype(int), "classes": classes, "regression": signal}[what]
    fitted = maker(n_estimators=25, max_depth=5, n_jobs=1).fit(rows, target)
    converted = convert_xgboost(fitted, initial_types=kind, target_opset=15)
    held_against_onnx(served(converted, 3 if what == "classes" else 1))


CLASSIFIERS = [
    "RandomForestClassifier", "ExtraTreesClassifier", "GradientBoostingClassifier",
    "HistGradientBoostingClassifier", "DecisionTreeClassifier",
]  # fmt: skip
REGRESSORS = ["RandomForestRegressor", "GradientBoostingRegressor", "HistGradientBoostingRegressor"]


@pytest.mark.parametrize(
    ("name", "classes"),
    [(name, n) for name in CLASSIFIERS for n in (2, 3)] + [(name, 1) for name in REGRESSORS],
)
def test_scikit_learn_models_score_as_onnx_runtime(name, classes):
    import sklearn.ensemble
    import sklearn.tree
    from skl2onnx import to_onnx

    rows, signal = training_rows()
    maker = getattr(sklearn.ensemble, name, None) or getattr(sklearn.tree, name)
    size = {"max_iter": 12} if name.startswith("Hist") else {"n_estimators": 12}
    fitted = maker(random_state=0, **({} if name.startswith("Decision") else size))
    if classes == 1:
        converted = to_onnx(fitted.fit(rows, signal), rows[:1], target_opset=18)
    else:
        labels = np.digitize(signal, [-0.5, 0.5]) if classes == 3 else signal > 0
        fitted.fit(rows, labels.astype(int))
        converted = to_onnx(fitted, rows[:1], options={"zipmap": False}, target_opset=18)
    outputs = classes if classes > 2 else 1
    held_against_onnx(served(converted, outputs))


# -- the runtime -------------------------------------------------------------------------


def compiled(model: ServableModel) -> bool:
    return TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0).load(model).compiled


def scaled(model: ServableModel, op: str, *inputs: str) -> ServableModel:
    """The model with one more node behind its scores."""
    made = onnx.load_model_from_string(model.model)
    node = helper.make_node(op, ["scores", *inputs], ["more"])
    made.graph.node.append(node)
    made.graph.output[0].name = "more"
    made.graph.initializer.append(numpy_helper.from_array(np.array([2], dtype=np.float32), "two"))
    return ServableModel("onnx", made.SerializeToString(), model.inputs, model.outputs)


def test_nodes_that_change_nothing_are_passed_through():
    assert compiled(scaled(regressor(), "Identity"))
    gather = helper.make_node("Gather", ["scores", "one"], ["positive"], axis=1)
    drawn = Drawn(np.random.default_rng(0), ORDERED, 9)
    attributes = drawn.attributes(3, [[0]] * 3, "class", False)
    attributes |= {"post_transform": "LOGISTIC", "classlabels_int64s": [0, 1]}
    assert compiled(as_model("TreeEnsembleClassifier", attributes, 1, gather))


@pytest.mark.parametrize(
    "model",
    [
        scaled(regressor(), "Mul", "two"),
        scaled(regressor(), "Neg"),
        classifier(classes=3, transform="SOFTMAX_ZERO"),
        classifier(transform="NONE"),
        classifier(base=[0.5, -0.5]),
        regressor(aggregate="MAX"),
        regressor(modes=["BRANCH_EQ"], most_leaves=90),
    ],
    ids=[
        "doubled",
        "negative",
        "softmax-zero",
        "raw scores",
        "two bases",
        "greatest",
        "equality in large trees",
    ],
)
def test_what_is_not_understood_stays_with_the_wrapped_runtime(model):
    wrapped = OnnxRuntime(device="cpu")
    loaded = TreeRuntime(wrapped, after_runs=0).load(model)
    rows = np.random.default_rng(0).normal(size=(9, N_FEATURES)).astype(np.float32)
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.run(rows), wrapped.load(model).run(rows))


def test_a_model_is_compiled_aside_once_it_was_asked_often():
    loaded = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=3).load(classifier())
    row = np.zeros((1, N_FEATURES), dtype=np.float32)
    before = [loaded.run(row), loaded.run(row)]
    assert not loaded.compiled
    loaded.run(row)
    assert loaded.compile()  # waits for the thread that the third run has started
    np.testing.assert_allclose(loaded.run(row), before[0], atol=1e-6)


def test_trees_that_would_score_otherwise_stay_with_the_wrapped_runtime(monkeypatch):
    monkeypatch.setattr("falaj.serving.trees.scorer.TreeScorer.run", lambda self, rows: rows[:, :1])
    model = classifier()
    with structlog.testing.capture_logs() as told:
        loaded = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0).load(model)
    assert [(one["event"], one["log_level"]) for one in told] == [("model_not_compiled", "error")]
    assert "differ" in told[0]["reason"]
    assert not loaded.compiled
    row = np.ones((1, N_FEATURES), dtype=np.float32)
    np.testing.assert_array_equal(loaded.run(row), OnnxRuntime(device="cpu").load(model).run(row))


def test_rows_of_another_width_are_refused():
    loaded = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0).load(classifier())
    for n in (1, 40):
        with pytest.raises(InvalidInput, match="columns"):
            loaded.run(np.zeros((n, N_FEATURES + 1), dtype=np.float32))


def test_rows_that_cannot_be_written_and_rows_of_no_number_are_scored():
    loaded = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0).load(classifier())
    rows = np.random.default_rng(0).normal(size=(3, N_FEATURES)).astype(np.float32)
    wanted = loaded.run(rows)
    frozen = np.frombuffer(rows.tobytes(), dtype=np.float32).reshape(3, N_FEATURES)
    np.testing.assert_array_equal(loaded.run(frozen), wanted)
    assert loaded.run(rows[:0]).shape == (0, 1)
    aside = np.frombuffer(b"\0" + rows.tobytes(), dtype=np.uint8)[1:].view(np.float32)
    np.testing.assert_allclose(loaded.run(aside.reshape(3, N_FEATURES)), wanted, atol=1e-6)


@pytest.mark.parametrize("lay_out", [np.asfortranarray, np.float64, lambda rows: rows[:, ::-1]])
def test_rows_of_another_layout_or_type_are_scored_by_the_compiled_loops(monkeypatch, lay_out):
    model = classifier()
    loaded = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0).load(model)
    rows = lay_out(np.random.default_rng(1).normal(size=(40, N_FEATURES)).astype(np.float32))
    wanted = OnnxRuntime(device="cpu").load(model).run(np.ascontiguousarray(rows, np.float32))
    monkeypatch.delattr(type(loaded._wrapped), "run")
    np.testing.assert_allclose(loaded.run(rows), wanted, atol=1e-6)


def test_the_module_names_how_often_a_model_is_asked_first():
    assert TreeRuntime(OnnxRuntime(device="cpu"))._after_runs == runtime_trees.AFTER_RUNS > 3


class Unwilling:
    """A runtime that must not be asked."""

    formats = ("onnx",)

    def load(self, model):
        raise AssertionError("the wrapped runtime was asked")


@pytest.fixture
def kept(tmp_path):
    seal = MachineSeal.create(tmp_path / "machine.secret")
    keys = FileKeyring.create(tmp_path / "keyring.json", seal, clock=SystemClock())
    return KeptTrees(private_folder(tmp_path / "trees"), keys)


def files_of(kept):
    return sorted(kept._folder.iterdir())


@pytest.mark.parametrize("most_leaves", [8, 90])
@pytest.mark.parametrize("made", [classifier, regressor])
def test_a_model_that_was_compiled_before_is_answered_without_the_wrapped_runtime(
    kept, made, most_leaves
):
    model = made(most_leaves=most_leaves)
    first = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept).load(model)
    again = TreeRuntime(Unwilling(), kept=lambda: kept).load(model)
    rows = np.random.default_rng(0).normal(size=(50, N_FEATURES)).astype(np.float32)
    assert again.compiled
    assert again.n_inputs == first.n_inputs
    for n in (1, 6, 50):
        np.testing.assert_array_equal(again.run(rows[:n]), first.run(rows[:n]))
    with pytest.raises(InvalidInput, match="columns"):
        again.run(rows[:, 1:])


def test_the_wrapped_runtime_says_what_is_wrong_with_rows_of_a_kept_model(kept):
    model = classifier()
    TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept).load(model)
    again = TreeRuntime(OnnxRuntime(device="cpu"), kept=lambda: kept).load(model)
    assert again.compiled
    with pytest.raises(InvalidInput):
        again.run(np.zeros(N_FEATURES, dtype=np.float32))


def test_kept_trees_are_sealed_and_bound_to_their_model(kept):
    model, other = classifier(), regressor()
    runtime = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept)
    scorer = runtime.load(model)._scorer
    (file,) = files_of(kept)
    assert scorer._few[1].tobytes()[:64] not in file.read_bytes()
    moved = file.with_name(file.name.replace(file.name[:64], sha256(other.model).hexdigest()))
    file.rename(moved)
    assert kept.find(other.model, len(other.outputs)) is None
    assert files_of(kept) == []


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:40] + b"x" + b[41:], lambda b: b""]
)
def test_what_was_changed_is_thrown_away_and_compiled_anew(kept, damage):
    model = classifier()
    runtime = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept)
    wanted = runtime.load(model).run(np.zeros((1, N_FEATURES), np.float32))
    (file,) = files_of(kept)
    file.write_bytes(damage(file.read_bytes()))
    again = runtime.load(model)
    assert again.compiled
    np.testing.assert_array_equal(again.run(np.zeros((1, N_FEATURES), np.float32)), wanted)
    assert kept.find(model.model, len(model.outputs)) is not None


def test_trees_laid_out_by_other_code_are_not_read(kept, monkeypatch):
    model = classifier()
    runtime = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept)
    runtime.load(model)
    monkeypatch.setattr(kept_trees, "_format", lambda: "other")
    assert kept.find(model.model, len(model.outputs)) is None


def test_trees_that_differ_from_the_model_are_not_kept(kept, monkeypatch):
    monkeypatch.setattr("falaj.serving.trees.scorer.TreeScorer.run", lambda self, rows: rows[:, :1])
    TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept).load(classifier())
    assert files_of(kept) == []


@pytest.mark.parametrize("bound", ["MOST_FILES", "MOST_BYTES"])
def test_only_the_newest_are_kept(kept, monkeypatch, bound):
    blocks = laid(read_graph(classifier().model, N_FEATURES, 1))
    kept.keep(b"0", 1, blocks)
    (first,) = files_of(kept)
    most = 3 if bound == "MOST_FILES" else 3 * first.stat().st_size + 1
    monkeypatch.setattr(kept_trees, bound, most)
    for number in range(1, 5):
        time.sleep(0.01)
        kept.keep(str(number).encode(), 1, blocks)
    assert len(files_of(kept)) == 3
    assert [kept.find(str(number).encode(), 1) is not None for number in range(5)] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_a_folder_that_cannot_be_written_costs_nothing_but_the_next_compilation(kept):
    shutil.rmtree(kept._folder)
    runtime = TreeRuntime(OnnxRuntime(device="cpu"), after_runs=0, kept=lambda: kept)
    assert runtime.load(classifier()).compiled
