"""The model that all servers serve: a LightGBM classifier of 300 trees on 20 features."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

KEPT = Path(__file__).parents[2] / "results"
N_FEATURES, N_TREES, N_ASKED = 20, 300, 1_000
NAMES = [f"x{place}" for place in range(N_FEATURES)]


@dataclass(frozen=True)
class Classifier:
    """The model in its two forms, and rows to ask with their scores by ONNX Runtime."""

    onnx: bytes
    native: bytes
    """LightGBM's own text."""
    rows: np.ndarray
    """float32 [1,000, 20], all different: one row repeated would teach the branch predictor."""
    scores: np.ndarray


def make_classifier(folder: Path, *, seed: int = 7) -> Classifier:
    """The classifier of a seed; the peers read ``model.onnx`` in the folder.

    It is trained and converted once and kept in ``benchmarks/results``.
    """
    names = ("lightgbm", "onnxmltools", "numpy")
    told = "-".join(version(name) for name in names)
    kept = KEPT / f"classifier-{N_TREES}-{N_FEATURES}-{seed}-{told}.npz"
    if not kept.exists():
        _train(kept, seed)
    with np.load(kept) as found:
        onnx, native = found["onnx"].tobytes(), found["native"].tobytes()
        asked = found["asked"]
    (folder / "model.onnx").write_bytes(onnx)
    return Classifier(onnx, native, asked, scores_of(onnx, asked))


def make_model(folder: Path) -> None:
    """Write the classifier to ``model.onnx`` in a folder."""
    (folder / "model.onnx").write_bytes(make_classifier(folder).onnx)


def _train(kept: Path, seed: int) -> None:
    import lightgbm
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    random = np.random.default_rng(seed)
    rows = random.normal(size=(5_000, N_FEATURES)).astype(np.float32)
    labels = (rows[:, :5].sum(axis=1) + random.normal(size=5_000) > 0).astype(int)
    model = lightgbm.LGBMClassifier(n_estimators=N_TREES, verbose=-1, n_jobs=1).fit(rows, labels)
    onnx = convert_lightgbm(
        model,
        initial_types=[("input", FloatTensorType([None, N_FEATURES]))],
        zipmap=False,
        target_opset=15,
    ).SerializeToString()
    kept.parent.mkdir(parents=True, exist_ok=True)
    begun = kept.with_name(f"{os.getpid()}.new.npz")
    np.savez(
        begun,
        onnx=np.frombuffer(onnx, np.uint8),
        native=np.frombuffer(model.booster_.model_to_string().encode(), np.uint8),
        asked=random.normal(size=(N_ASKED, N_FEATURES)).astype(np.float32),
    )
    begun.replace(kept)


def scores_of(onnx: bytes, rows: np.ndarray) -> np.ndarray:
    """The scores of rows by ONNX Runtime alone."""
    scores: np.ndarray = session_of(onnx).run(None, {"input": rows})[1][:, 1]
    return scores


def session_of(onnx: bytes) -> object:
    """ONNX Runtime with one thread, as the peers and our workers run it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
