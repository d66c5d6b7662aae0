"""ONNX models, run by ONNX Runtime on the best device that is there.

On the CPU a run reads the rows where they lie. On a GPU the input is copied to the device
once and the output back once, by binding both (I/O binding); nothing else is moved.
"""

from __future__ import annotations

import threading
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.model import ServableModel
from falaj.serving.widths import check_inputs, check_rows, columns_of

PREFERRED = (
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "OpenVINOExecutionProvider",
    "CPUExecutionProvider",
)
"""Execution providers, the one to take first where it is there."""
_ON_GPU = ("TensorrtExecutionProvider", "CUDAExecutionProvider")
_NO_FOLDER = "/nonexistent/falaj-external-data"
"""Weights outside of a model's own bytes are looked for here, so they are never found."""


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


def bound_device(providers: list[str]) -> str | None:
    """The device to bind inputs to, as ONNX Runtime names it; None to pass arrays as they are.

    Args:
        providers: those that a session has, best first.
    """
    return "cuda" if providers and providers[0] in _ON_GPU else None


class OnnxRuntime:
    """Loads ONNX models; one thread for each run, so that a worker keeps to its core.

    Args:
        device: see ``chosen_providers``.
        threads: threads inside one run; more pays for large batches only.
    """

    formats: tuple[str, ...] = ("onnx",)

    def __init__(self, *, device: str = "auto", threads: int = 1) -> None:
        self._device = device
        self._threads = threads

    @cached_property
    def _providers(self) -> list[str]:
        import onnxruntime

        return chosen_providers(onnxruntime.get_available_providers(), self._device)

    @cached_property
    def _options(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", _NO_FOLDER
        )
        return options

    def load(self, model: ServableModel) -> OnnxModel:
        """The model as a session; see ``Runtime.load``."""
        import onnxruntime

        providers = self._providers
        try:
            session = onnxruntime.InferenceSession(model.model, self._options, providers=providers)
        except Exception as error:  # ONNX Runtime raises a family of its own
            raise Corrupt(
                f"The model is not one that ONNX Runtime can load: {str(error)[:200]}",
                hint="Make the bundle again from its run.",
            ) from error
        device = bound_device(session.get_providers())
        return OnnxModel(session, model) if device is None else BoundModel(session, model, device)


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
        if isinstance(width, int):
            check_inputs(model, width)
        self._outputs = [_numeric_output(session)]
        try:
            probe = self._scored(np.zeros((1, self.n_inputs), dtype=np.float32))
        except Exception as error:  # as above: not every graph tells its width
            raise InvalidInput(
                f"The model does not take {self.n_inputs} columns: {str(error)[:200]}",
                hint="Make the bundle again from its run.",
            ) from error
        self._columns = columns_of(model, probe.shape[1])

    def _scored(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        scores: NDArray[np.floating[Any]] = self._run(self._outputs, {self._input: rows})[0]
        return scores if scores.ndim == 2 else scores.reshape(len(rows), -1)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs [n, k]; see ``LoadedModel.run``."""
        if rows.ndim != 2 or rows.shape[1] != self.n_inputs:
            check_rows(rows, self.n_inputs)
        return self._scored(rows)[:, self._columns]


class BoundModel(OnnxModel):
    """A model on a device: each thread binds its input to it, and its output to the host.

    Args:
        device: as ONNX Runtime names it: ``cuda``.
    """

    def __init__(self, session: Any, model: ServableModel, device: str) -> None:
        self._session = session
        self._device = device
        self._mine = threading.local()
        super().__init__(session, model)

    def _scored(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        import onnxruntime

        mine = self._mine
        if not hasattr(mine, "binding"):
            mine.binding, mine.value, mine.n = self._session.io_binding(), None, -1
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if mine.n == len(rows):
            mine.value.update_inplace(rows)  # the memory on the device is used again
        else:
            mine.value = onnxruntime.OrtValue.ortvalue_from_numpy(rows, self._device, 0)
            mine.n = len(rows)
            mine.binding.bind_ortvalue_input(self._input, mine.value)
        # The host's side of the output is made by the run, which copies straight into it.
        mine.binding.bind_output(self._outputs[0], "cpu")
        self._session.run_with_iobinding(mine.binding)
        scores: NDArray[np.floating[Any]] = mine.binding.get_outputs()[0].numpy()
        return scores if scores.ndim == 2 else scores.reshape(len(rows), -1)


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
