"""The classifier that every peer serves: ONNX Runtime with one thread, as ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime


class OnnxModel:
    """The model in a folder; ``scores`` gives the probability of the positive class."""

    def __init__(self, folder: str | Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(Path(folder) / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._run = session.run
        self._outputs = [session.get_outputs()[1].name]
        self._input = session.get_inputs()[0].name

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """[n] for rows float32 [n, features]."""
        scores: np.ndarray = self._run(self._outputs, {self._input: rows})[0][:, 1]
        return scores
