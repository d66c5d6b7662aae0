"""Scores by ONNX Runtime on one thread of the CPU."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.ports import INPUT_NAME, OUTPUT_NAMES
from falaj.training.targets import BINARY

_ROWS_AT_ONCE = 65_536


class OnnxScorer:
    """One loaded ONNX model; see ``Scorer``."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def scores(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """What the model gives; see ``Scorer.scores``."""
        parts = [
            self._run(np.ascontiguousarray(matrix[start : start + _ROWS_AT_ONCE]))
            for start in range(0, max(len(matrix), 1), _ROWS_AT_ONCE)
        ]
        found = np.concatenate(parts).astype(np.float64)
        return found[:, 0] if found.shape[1] == 1 else found

    def seconds_per_row(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The time of each row, run alone."""
        rows = [np.ascontiguousarray(row[None, :]) for row in matrix]
        for row in rows[:50]:
            self._run(row)  # warm
        taken = np.empty(len(rows), dtype=np.float64)
        for place, row in enumerate(rows):
            started = time.perf_counter_ns()
            self._run(row)
            taken[place] = (time.perf_counter_ns() - started) / 1e9
        return taken

    def _run(self, matrix: npt.NDArray[np.float32]) -> Any:
        return self._session.run(None, {INPUT_NAME: matrix})[0]


class OnnxScorers:
    """Loads ONNX models of our own making; see ``ScorerFactory``."""

    def of(
        self,
        model_format: str,
        model: bytes,
        names: tuple[str, ...],
        outputs: tuple[str, ...] = BINARY.outputs,
    ) -> OnnxScorer:
        """A scorer of an ONNX model; raises InvalidInput for another format."""
        if model_format != "onnx":
            raise InvalidInput(
                f"A model of the format {model_format} cannot be scored here, with "
                f"{len(names)} inputs or any.",
                hint="Give an ONNX model.",
            )
        return self.load(model)

    def load(self, onnx: bytes) -> OnnxScorer:
        """A scorer of these bytes."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                onnx, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise Corrupt(
                f"The model's bytes are no ONNX model: {type(error).__name__}.",
                hint="Package the model again.",
            ) from error
        inputs = [found.name for found in session.get_inputs()]
        outputs = [found.name for found in session.get_outputs()]
        if inputs != [INPUT_NAME] or len(outputs) != 1 or outputs[0] not in OUTPUT_NAMES.values():
            raise Corrupt(
                f"The ONNX model has inputs {inputs} and outputs {outputs}, not "
                f"{INPUT_NAME!r} and one of {', '.join(OUTPUT_NAMES.values())}.",
                hint="Package the model again.",
            )
        return OnnxScorer(session)
