"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.model import ServableModel

PREFERRED = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
)
"""Execution providers, the one to take first where it is there."""


def chosen_providers(available: list[str], device: str = "auto") -> list[str]:
    """The providers to give to a session, best first; the CPU is always the last resort.

    Args:
        available: what this build of ONNX Runtime can do on this machine.
        device: ``auto``, ``cpu`` or ``gpu``.

    Raises:
        InvalidInput: a GPU is asked for and there is none, or the word is unknown.
    """
    if device not in {"auto", "cpu", "gpu"}:
        raise InvalidInput(
            f"The setting device={device!r} is unknown.", hint="Use auto, cpu or gpu."
        )
    if device == "cpu":
        return ["CPUExecutionProvider"]
    found = [name for name in PREFERRED if name in available]
    if device == "gpu" and not {"TensorrtExecutionProvider", "CUDAExecutionProvider"} & set(found):
        raise InvalidInput(
            "A GPU is asked for, but this ONNX Runtime has no provider for one.",
            hint="Install onnxruntime-gpu, or set device to auto.",
        )
    return found or ["CPUExecutionProvider"]


class OnnxRuntime:
    """Loads ONNX models; one thread for each run, so that a worker keeps to its core.

    Args:
        device: see ``chosen_providers``.
        threads: threads inside one run; more pays for large batches only.
    """

    formats: tuple[str, ...] = ("onnx",)

    def __init__(self, *, device: str = "auto", threads: int = 1) -> None:
        self._providers = chosen_providers(ort.get_available_providers(), device)
        self._options = ort.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self._options.log_severity_level = 4

    def load(self, model: ServableModel) -> OnnxModel:
        """The model as a session; see ``Runtime.load``."""
        try:
            session = ort.InferenceSession(model.model, self._options, providers=self._providers)
        except Exception as error:  # ONNX Runtime raises a family of its own
            raise Corrupt(
                f"The model is not one that ONNX Runtime can load: {str(error)[:200]}",
                hint="Make the bundle again from its run.",
            ) from error
        return OnnxModel(session, model)


class OnnxModel:
    """One ONNX model with one float32 input [n, f] and an output of numbers."""

    def __init__(self, session: Any, model: ServableModel) -> None:
        self._run = session.run
        inputs = session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            told = ", ".join(f"{item.name}: {item.type}" for item in inputs)
            raise InvalidInput(
                f"The model takes ({told}); a servable one takes a single float32 matrix.",
                hint="Convert it with one FloatTensorType([None, n_features]) input.",
            )
        self._input = inputs[0].name
        self.n_inputs = len(model.inputs)
        width = inputs[0].shape[-1] if inputs[0].shape else None
        if isinstance(width, int) and width != self.n_inputs:
            raise InvalidInput(
                f"The model takes {width} columns, its bundle names {self.n_inputs}.",
                hint="Make the bundle again from its run.",
            )
        self._outputs = [_numeric_output(session)]
        self._columns = self._chosen_columns(len(model.outputs))

    def _chosen_columns(self, wanted: int) -> slice:
        probe = self._scored(np.zeros((1, self.n_inputs), dtype=np.float32))
        have = probe.shape[1]
        if have == wanted:
            return slice(None)
        if wanted == 1 and have == 2:
            return slice(1, 2)  # a binary classifier: the probability of the positive class
        raise InvalidInput(
            f"The model gives {have} numbers a row, its bundle names {wanted} outputs.",
            hint="Make the bundle again from its run.",
        )

    def _scored(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        scores: NDArray[np.floating[Any]] = self._run(self._outputs, {self._input: rows})[0]
        return scores if scores.ndim == 2 else scores.reshape(len(rows), -1)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs [n, k]; see ``LoadedModel.run``."""
        return self._scored(rows)[:, self._columns]


def _numeric_output(session: Any) -> str:
    floats = [
        item.name
        for item in session.get_outputs()
        if item.type in ("tensor(float)", "tensor(double)")
    ]
    if not floats:
        told = ", ".join(f"{item.name}: {item.type}" for item in session.get_outputs())
        raise InvalidInput(
            f"The model gives ({told}), but no tensor of numbers.",
            hint="Convert a classifier with zipmap=False.",
        )
    return str(floats[-1])
