"""What the registry needs of others, each with its guarantees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from falaj.training.targets import BINARY, Target, Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.training.calibration import Calibration
    from falaj.training.ports import FittedModel

INPUT_NAME, OUTPUT_NAME = "inputs", "probability"
OUTPUT_NAMES: Mapping[Task, str] = MappingProxyType(
    {"binary": OUTPUT_NAME, "regression": "value", "classes": "probabilities"}
)
"""Of a model's graph, by what it predicts."""


class OnnxConverter(Protocol):
    """Turns a native model into ONNX.

    The graph takes ``inputs`` (float32, rows x inputs) and gives ``probability`` (float32,
    rows x 1), or of other tasks ``value`` (rows x 1) and ``probabilities`` (rows x classes).
    For every float32 input, also NaN, it answers as the native model does, within 1e-5 (of a
    number: of the greatest one, if that is beyond 1).
    """

    def convert(self, fitted: FittedModel) -> bytes:
        """The ONNX model's bytes; raises InvalidInput for a format it does not know."""
        ...


class EstimatorConverter(Protocol):
    """Turns a stored scikit-learn estimator into ONNX, without running what it holds."""

    def convert(self, data: bytes, rows: npt.NDArray[np.float32], target: Target = BINARY) -> bytes:
        """The ONNX model's bytes, as ``OnnxConverter`` makes them.

        Args:
            data: as skops wrote it.
            rows: float32 [n, f]; on each the ONNX model answers as the estimator does.
            target: what it predicts.

        Raises:
            InvalidInput: it holds types that are not trusted, or cannot be converted.
            Unavailable: what reads it is not installed.
        """
        ...


class Calibrate(Protocol):
    """Puts a calibration behind an ONNX model."""

    def __call__(self, onnx_model: bytes, calibration: Calibration, /) -> bytes:
        """The model with the same inputs and output that answers calibrated probabilities.

        Raises InvalidInput if the model's output is not one of Falaj's own.
        """
        ...


class Scorer(Protocol):
    """A loaded model; one thread, so that times are those of one core."""

    def scores(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """What it gives for each row, of shape [rows], or of classes [rows, classes]."""
        ...

    def seconds_per_row(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The time of each row, run alone."""
        ...


class ScorerFactory(Protocol):
    """Loads models to score rows with them, outside of serving."""

    def of(
        self,
        model_format: str,
        model: bytes,
        names: tuple[str, ...],
        outputs: tuple[str, ...] = BINARY.outputs,
    ) -> Scorer:
        """A scorer of a model of any format.

        Args:
            names: of the model's inputs, in order.
            outputs: the names of what it gives for a row.

        Raises:
            Corrupt: the bytes are no such model.
            InvalidInput: it does not give these outputs from these inputs, or there is no
                runtime for the format here.
        """
        ...


class Withdrawal(Protocol):
    """Stops what serves."""

    def withdraw(self, call: Call, revoked: Callable[[str], bool]) -> list[str]:
        """Let endpoints whose active release has a revoked bundle serve nothing.

        In force when the call's transaction commits: each later request on this machine
        finds nothing, and on every other machine about a second later.

        Args:
            revoked: told the digest of a bundle, whether it was revoked.

        Returns:
            the names of those endpoints.
        """
        ...


class ServedVersions(Protocol):
    """Tells what serving holds."""

    def holding(self, connection: Connection, model: str, version: int) -> list[str]:
        """The names of endpoints with a release, not retired, that pins a version."""
        ...


class Quantizer(Protocol):
    """Makes a smaller, faster ONNX model that answers nearly as another."""

    def quantized(self, onnx: bytes) -> bytes:
        """The model with int8 weights; same inputs and outputs.

        Raises InvalidInput for a model without dense layers (a tree ensemble).
        """
        ...


@dataclass(frozen=True)
class Footprint:
    """What a process of its own took to load a model and score rows with it."""

    peak_bytes: int
    """The most that was resident at once, with the interpreter and all libraries."""
    before_bytes: int
    """What was resident before the model's runtime was loaded."""
    load_seconds: float


class Weighing(Protocol):
    """Measures memory where it can be measured honestly: in a fresh process."""

    def weighed(
        self,
        model_format: str,
        model: bytes,
        names: tuple[str, ...],
        matrix: npt.NDArray[np.float32],
        outputs: tuple[str, ...] = BINARY.outputs,
    ) -> Footprint:
        """Load a model and score the rows in a new process, and tell what that took.

        Raises:
            Unavailable: the process could not be started, or did not answer in time.
            Corrupt, InvalidInput: it could not load the model, as of ``ScorerFactory.of``.
        """
        ...
