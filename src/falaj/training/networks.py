"""Dense networks as plain arrays: what the PyTorch trainer makes, and what becomes ONNX.

A network reads each input twice: standardised, with 0 for a missing value, and as a mark of
whether it is missing. Between its layers stands max(0, x). Its bytes are NumPy's ``.npz``
without objects, so that reading them runs nothing.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from falaj.kernel.errors import Corrupt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from falaj.training.ports import Rows

    Array = npt.NDArray[np.float32]

FORMAT = "network"
WIDEST = 10.0
"""Standard deviations; an input beyond (and an infinite one) is read as this far."""


@dataclass(frozen=True)
class Network:
    """Arrays of float32: ``centers`` and ``scales`` [f], then weights [out, in] and offsets
    [out] of each layer; the first has 2 f inputs. The last has one output, the log odds or the
    predicted number, or of classes one for each, whose softmax are the probabilities."""

    centers: Array
    scales: Array
    layers: tuple[tuple[Array, Array], ...]

    def packed(self) -> bytes:
        """The same network is the same bytes."""
        arrays = {"centers": self.centers, "scales": self.scales}
        for place, (weights, offsets) in enumerate(self.layers):
            arrays |= {f"weights_{place}": weights, f"offsets_{place}": offsets}
        return packed_arrays(arrays)


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of each input, and of a number that is predicted."""

    centers: Array
    scales: Array
    label_center: float = 0.0
    label_scale: float = 1.0


def unpacked(data: bytes) -> Network:
    """The network of these bytes; raises Corrupt."""
    arrays = unpacked_arrays(data)
    try:
        n_layers = sum(name.startswith("weights_") for name in arrays)
        return Network(
            arrays["centers"],
            arrays["scales"],
            tuple((arrays[f"weights_{i}"], arrays[f"offsets_{i}"]) for i in range(n_layers)),
        )
    except KeyError as error:
        raise _corrupt() from error


def standardising(matrix: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each column without its missing values.

    A column without a value, or of one value alone, has the scale 1.
    """
    clipped = np.where(np.isinf(matrix), np.nan, matrix).astype(np.float64)
    known = ~np.isnan(clipped)
    n = np.maximum(known.sum(axis=0), 1)
    centers = np.where(known, clipped, 0).sum(axis=0) / n
    spread = np.where(known, clipped - centers, 0)
    scales = np.sqrt((spread**2).sum(axis=0) / n)
    scales = np.where(scales > 1e-12, scales, 1.0)
    return centers.astype(np.float32), scales.astype(np.float32)


def standard_of(rows: Rows) -> Standard:
    """What a fit on these rows takes its inputs and labels to be like."""
    centers, scales = standardising(rows.matrix)
    if rows.target.task != "regression":
        return Standard(centers, scales)
    spread = float(rows.labels.std())
    return Standard(centers, scales, float(rows.labels.mean()), spread if spread > 0 else 1.0)


def read_as(matrix: Array, centers: Array, scales: Array) -> Array:
    """What the first layer reads: float32 [n, 2 f]."""
    missing = np.isnan(matrix)
    known = np.where(missing, centers, np.nan_to_num(matrix, nan=0.0))
    with np.errstate(over="ignore"):
        standard = np.clip((known - centers) / scales, -WIDEST, WIDEST)
    return np.hstack([standard, missing.astype(np.float32)]).astype(np.float32)


def packed_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Arrays by name as ``.npz`` without objects; the same arrays are the same bytes."""
    sink = io.BytesIO()
    np.savez(sink, allow_pickle=False, **{name: arrays[name] for name in sorted(arrays)})
    return sink.getvalue()


def unpacked_arrays(data: bytes) -> dict[str, Any]:
    """The arrays of such bytes, by name; raises Corrupt."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as opened:
            return {name: opened[name] for name in opened.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise _corrupt() from error


def _corrupt() -> Corrupt:
    return Corrupt("The bytes are no network of arrays.", hint="Train it again.")
