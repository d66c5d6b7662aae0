"""BentoML at its best setting for one core: one worker, asynchronous, nothing observed."""

from __future__ import annotations

import os

import bentoml
import numpy as np
from onnx_model import OnnxModel


@bentoml.service(
    workers=1,
    http={"host": "127.0.0.1"},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Bench:
    """The classifier in the folder that BENCH_FOLDER names."""

    def __init__(self) -> None:
        self._model = OnnxModel(os.environ["BENCH_FOLDER"])

    @bentoml.api
    async def predict(self, row: list[float]) -> float:
        """The score of one row."""
        return float(self._model.scores(np.array([row], dtype=np.float32))[0])
