"""PyTorch programs (``torch.export``, .pt2), run by PyTorch on one thread.

A .pt2 file is an archive, parts of which PyTorch would unpickle or evaluate as Python, and
whose names it writes into Python source that it runs. Nothing of that kind reaches it: the
archive is read here, only its graph and its plain weights are taken over into a new one,
every operator must be on a list (``torch_operators``), every expression be one of sizes, and
every other text a plain word. PyTorch is not among the platform's own dependencies.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.adapters.torch_operators import check_registered, may_be_called
from falaj.serving.adapters.torch_operators import refused as _refused
from falaj.serving.model import ServableModel
from falaj.serving.widths import check_rows, columns_of
from falaj.serving.zipped import read_entry

_GRAPH = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_CONFIGS = (f"{_WEIGHTS}model_weights_config.json", f"{_CONSTANTS}model_constants_config.json")
_SAMPLES = "data/sample_inputs/model.pt"
_MARKS = ("archive_format", "archive_version", "byteorder", ".data/version")
_PLAIN = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
_EXPRESSION = re.compile(
    r"(?:\bSymbol\('[su][0-9]{1,6}'(?:, [a-z_]{1,20}=(?:True|False))*\)"
    r"|\b(?:Add|Mul|Integer|Max|Min|FloorDiv|Mod|PythonMod|CleanDiv|True|False)\b"
    r"|\b[su][0-9]{1,6}\b|\b[0-9]{1,18}\b|[-+*(), ])*"
)
"""Sizes as PyTorch writes them; it evaluates the text as Python."""
_WORD = re.compile(r"[A-Za-z0-9_.]{0,500}")
"""A name. PyTorch writes those of inputs, nodes and weights into source as they are."""
_FREE = frozenset({"as_string", "as_strings"})
"""Texts that are arguments of operators: these it quotes."""
_SPECIFICATIONS = frozenset({"in_spec", "out_spec"})
_DROPPED: dict[str, Any] = {"metadata": {}, "guards_code": []}
"""What a graph can do without: where it came from, and checks of its inputs as source."""
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
        archive, operators = cleaned(model.model)
        if find_spec("torch") is None:
            raise InvalidInput(
                "The model is a PyTorch program, and PyTorch is not installed here.",
                hint="Install torch beside falaj on every machine that serves it.",
            )
        import torch

        check_registered(operators)
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
    """A .pt2 archive of the graph and plain weights of another; raises as ``cleaned`` does."""
    return cleaned(data)[0]


def cleaned(data: bytes) -> tuple[bytes, set[str]]:
    """A .pt2 archive of the graph and plain weights of another, with nothing else of it.

    Returns:
        the archive, and the operators that its graph calls.

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
        operators: set[str] = set()
        graph = _clean("", json.loads(parts[_GRAPH]), operators)
        parts[_GRAPH] = json.dumps(graph).encode()
        configs = [json.loads(parts[name])["config"] for name in _CONFIGS]
        for folder, config in zip((_WEIGHTS, _CONSTANTS), configs, strict=True):
            for name, entry in config.items():
                _check_word(name)
                _check_weight(folder, entry, parts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(f"its archive cannot be read ({type(error).__name__})") from error
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as clean:
        for name, part in parts.items():
            if name in (_GRAPH, *_CONFIGS, *_MARKS) or _PLAIN.fullmatch(name):
                clean.writestr(f"archive/{name}", part)
        clean.writestr(f"archive/{_SAMPLES}", b"")  # would be unpickled; empty is "none"
    return buffer.getvalue(), operators


def _clean(key: str, value: Any, operators: set[str]) -> Any:
    """A JSON document without what a graph can do without; raises InvalidInput.

    Args:
        key: the name under which it stands.
        value: the document.
        operators: takes the operators that it names.
    """
    if key in _DROPPED:
        return _DROPPED[key]
    if isinstance(value, dict):
        if value.get("as_custom_obj") is not None:
            raise _refused("it holds a custom object")
        for name in value:
            _check_word(name)
        return {name: _clean(name, one, operators) for name, one in value.items()}
    if isinstance(value, list):
        return [_clean(key, one, operators) for one in value]
    if isinstance(value, str):
        _check_text(key, value, operators)
    return value


def _check_text(key: str, value: str, operators: set[str]) -> None:
    if key in ("target", "as_operator"):
        if not may_be_called(value):
            raise _refused(f"it calls {value[:80]!r}")
        operators.add(value)
    elif key == "expr_str":
        if "**" in value or not _EXPRESSION.fullmatch(value):
            raise _refused(f"it has the expression {value[:80]!r}")
    elif key in _SPECIFICATIONS:
        _check_specification(json.loads(value))
    elif key in ("as_float", "as_floats"):
        _check_word(value.removeprefix("-"))  # infinity
    elif key == "torch_version":
        _check_word(value.replace("+", "").replace("-", ""))
    elif key not in _FREE:
        _check_word(value)


def _check_specification(document: Any) -> None:
    """How inputs or outputs are nested: lists, names, and further such texts."""
    if isinstance(document, dict):
        document = [*document, *document.values()]
    if isinstance(document, list):
        for one in document:
            _check_specification(one)
    elif isinstance(document, str) and not _WORD.fullmatch(document):
        try:
            further = json.loads(document)
        except ValueError:
            raise _refused(f"it has the name {document[:80]!r}") from None
        _check_specification(further)


def _check_word(text: str) -> None:
    if not _WORD.fullmatch(text):
        raise _refused(f"it has the name {text[:80]!r}")


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


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        f"The bytes are no PyTorch program that can be loaded: {why}.",
        hint="Write it again with torch.export.save.",
    )
