"""PyTorch programs (``torch.export``, .pt2), run by PyTorch on one thread.

A .pt2 file is an archive, parts of which PyTorch would unpickle or evaluate as Python.
Nothing of that kind reaches it: the archive is read here, only its graph and its plain
weights are taken over into a new one, and every operator and every expression of the graph
must be on a list. PyTorch is not among the platform's own dependencies.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.model import ServableModel
from falaj.serving.widths import check_rows, columns_of
from falaj.serving.zipped import read_entry

_GRAPH = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_CONFIGS = (f"{_WEIGHTS}model_weights_config.json", f"{_CONSTANTS}model_constants_config.json")
_SAMPLES = "data/sample_inputs/model.pt"
_MARKS = ("archive_format", "archive_version", "byteorder", ".data/version")
_PLAIN = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims)\.[A-Za-z0-9_]+\.[A-Za-z0-9_]+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(trunc|floor|ceil)"
)
_HARMFUL = re.compile(
    r"from_file|save|set_.*|.*resize.*|.*empty.*|_print|warn|.*_unsafe|_unsafe_(?:index|masked_index).*"
)
"""PyTorch's own operators that read or write files, tell what the memory held before, or do
not look where they write."""
_EXPRESSION = re.compile(
    r"(?:\bSymbol\('[su][0-9]{1,6}'(?:, [a-z_]{1,20}=(?:True|False))*\)"
    r"|\b(?:Add|Mul|Integer|Max|Min|FloorDiv|Mod|PythonMod|CleanDiv|True|False)\b"
    r"|\b[su][0-9]{1,6}\b|\b[0-9]{1,18}\b|[-+*(), ])*"
)
"""Sizes as PyTorch writes them; it evaluates the text as Python."""
_MOST_BYTES = 2 << 30


class TorchRuntime:
    """Loads exported PyTorch programs that take one float32 matrix.

    Args:
        compiled: compile the program with ``torch.compile`` (needs a C++ compiler on the
            machine; pays for large programs).
    """

    formats: tuple[str, ...] = ("torch",)

    def __init__(self, *, compiled: bool = False) -> None:
        self._compiled = compiled

    def load(self, model: ServableModel) -> TorchModel:
        """The program as a module; see ``Runtime.load``.

        Raises:
            InvalidInput: PyTorch is not installed here.
        """
        archive = clean_archive(model.model)
        if find_spec("torch") is None:
            raise InvalidInput(
                "The model is a PyTorch program, and PyTorch is not installed here.",
                hint="Install torch beside falaj on every machine that serves it.",
            )
        import torch

        try:
            module = torch.export.load(io.BytesIO(archive)).module()
        except Exception as error:  # PyTorch raises whatever it meets
            raise _corrupt(f"{type(error).__name__}: {str(error)[:200]}") from error
        program: Any = torch.compile(module, dynamic=True) if self._compiled else module
        return TorchModel(program, model)


class TorchModel:
    """One exported program: float32 [n, f] in, one tensor of numbers [n, k] out."""

    def __init__(self, program: Any, model: ServableModel) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._program = program
        self.n_inputs = len(model.inputs)
        try:
            probe = self._scored(np.zeros((2, self.n_inputs), dtype=np.float32))
            self._scored(np.zeros((1, self.n_inputs), dtype=np.float32))
        except Exception as error:  # as above: the program checks its own input
            raise InvalidInput(
                f"The program does not take {self.n_inputs} columns and any number of rows: "
                f"{str(error)[:200]}",
                hint="Export it with one float32 input whose first dimension is dynamic.",
            ) from error
        self._columns = columns_of(model, probe.shape[1])

    def _scored(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        torch = self._torch
        with torch.inference_mode():
            told = self._program(torch.from_numpy(np.require(rows, requirements=["C", "W"])))
        if not isinstance(told, torch.Tensor) or told.shape[:1] != (len(rows),):
            raise ValueError("the program does not give one tensor with a row for each row")
        scores: NDArray[np.floating[Any]] = told.numpy()
        return scores.reshape(len(rows), -1)

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs [n, k]; see ``LoadedModel.run``."""
        check_rows(rows, self.n_inputs)
        return self._scored(rows)[:, self._columns]


def clean_archive(data: bytes) -> bytes:
    """A .pt2 archive of the graph and plain weights of another, with nothing else of it.

    Raises:
        Corrupt: it is no such archive.
        InvalidInput: it has what would have to be unpickled or run: other operators than
            PyTorch's own, expressions with names, packed objects.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(one.file_size for one in archive.infolist()) > _MOST_BYTES:
                raise _corrupt("it is too large")
            parts = {
                one.filename.partition("/")[2]: read_entry(archive, one)
                for one in archive.infolist()
            }
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise _corrupt("it is no archive") from error
    missing = [name for name in (_GRAPH, *_CONFIGS, "archive_format") if name not in parts]
    if missing:
        raise _corrupt(f"its archive lacks {', '.join(missing)}")
    try:
        graph = json.loads(parts[_GRAPH])
        configs = [json.loads(parts[name])["config"] for name in _CONFIGS]
        _check_graph(graph)
        for folder, config in zip((_WEIGHTS, _CONSTANTS), configs, strict=True):
            for entry in config.values():
                _check_weight(folder, entry, parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(f"its archive cannot be read ({type(error).__name__})") from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as clean:
        for name, part in parts.items():
            if name in (_GRAPH, *_CONFIGS, *_MARKS) or _PLAIN.fullmatch(name):
                clean.writestr(f"archive/{name}", part)
        clean.writestr(f"archive/{_SAMPLES}", b"")  # would be unpickled; empty is "none"
    return buffer.getvalue()


def _check_graph(graph: Any) -> None:
    for key, value in _strings(graph):
        if key == "target" and not _may_be_called(value):
            raise _refused(f"it calls {value[:80]!r}")
        if key == "expr_str" and ("**" in value or not _EXPRESSION.fullmatch(value)):
            raise _refused(f"it has the expression {value[:80]!r}")
        if key == "as_custom_obj":
            raise _refused("it holds a custom object")


def _may_be_called(target: str) -> bool:
    if not _TARGET.fullmatch(target):
        return False
    parts = target.split(".")
    return parts[0] != "torch" or not _HARMFUL.fullmatch(parts[3])


def _strings(document: Any) -> Iterator[tuple[str, str]]:
    """Every text in a JSON document, with the name under which it stands."""
    ahead: list[tuple[str, Any]] = [("", document)]
    while ahead:
        key, value = ahead.pop()
        if isinstance(value, dict):
            if value.get("as_custom_obj") is not None:
                yield "as_custom_obj", ""
            ahead += value.items()
        elif isinstance(value, list):
            ahead += [(key, one) for one in value]
        elif isinstance(value, str):
            yield key, value


def _check_weight(folder: str, entry: Any, parts: dict[str, bytes]) -> None:
    path = f"{folder}{entry['path_name']}"
    if entry["use_pickle"] or entry["tensor_meta"] is None or not _PLAIN.fullmatch(path):
        raise _refused(f"{path[:80]!r} would have to be unpickled")
    if path not in parts:
        raise _corrupt(f"its archive lacks {path[:80]}")
    meta = entry["tensor_meta"]
    sizes = [_whole(one) for one in meta["sizes"]]
    strides = [_whole(one) for one in meta["strides"]]
    last = _whole(meta["storage_offset"])
    last += sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min([*sizes, *strides, last], default=0) < 0 or last >= max(1, len(parts[path])):
        raise _corrupt(f"{path[:80]} is smaller than it should be")


def _whole(number: Any) -> int:
    found = number["as_int"]
    if not isinstance(found, int) or isinstance(found, bool):
        raise TypeError("a size is no number")
    return found


def _refused(why: str) -> InvalidInput:
    return InvalidInput(
        f"The PyTorch program is not served: {why}.",
        hint="Export a program of PyTorch's own operators with torch.export.",
    )


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        f"The bytes are no PyTorch program that can be loaded: {why}.",
        hint="Write it again with torch.export.save.",
    )
