"""Files that come from outside: what a model of each format begins with, and sample rows.

Formats are on a list, and each is recognised by its own first bytes. A pickle is refused
wherever it is offered, under whatever name: reading one runs its author's program.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from typing import TYPE_CHECKING

from falaj.kernel.errors import InvalidInput
from falaj.models.model import ModelFormat

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from falaj.training.encoding import Encoding

_ZIP = b"PK\x03\x04"
_GZIP, _BZIP, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ"
_NUMPY, _HDF = b"\x93NUMPY", b"\x89HDF"
_STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_LONGEST_PICKLE_HEAD = 1 << 16
_GLOBAL_NAME = re.compile(r"[^\W\d][\w.]* [^\W\d][\w.]*")


def check_bytes(data: bytes, model_format: ModelFormat, *, pickles: bool = False) -> None:
    """Raise InvalidInput unless the bytes can be a model of the format.

    ONNX is read whole: its weights must lie inside, and its operators must be the
    standard's own. A pickle is not read here, nor anywhere but in its confined process.

    Args:
        pickles: whether the settings permit the format of that name.
    """
    if model_format is ModelFormat.PICKLE and not pickles:
        raise InvalidInput(
            "Pickled models are not permitted here: to read one runs what it holds.",
            hint="Convert the model to ONNX, or permit them: supply_chain.pickles.",
        )
    if model_format is not ModelFormat.PICKLE and is_pickle(data):
        raise InvalidInput(
            f"The file is a pickle, not {model_format}; to read it would run what it holds.",
            hint="Write the model in one of its library's own formats, or convert it to ONNX.",
        )
    if not data or not _begins_well(data, model_format):
        raise InvalidInput(
            f"The file does not begin as a model of the format {model_format} does.",
            hint="Name the format that it is written in.",
        )
    if model_format is ModelFormat.ONNX:
        _check_onnx(data)


def _begins_well(data: bytes, model_format: ModelFormat) -> bool:
    zipped = data.startswith(_ZIP)
    match model_format:
        case ModelFormat.ONNX:
            # ONNX Runtime takes its own format by this mark, whatever else the bytes are.
            return not data.startswith((_ZIP, _NUMPY, _HDF)) and data[4:8] != b"ORTM"
        case ModelFormat.LIGHTGBM:
            return data.startswith(b"tree\n")
        case ModelFormat.XGBOOST:
            return data.startswith(b"{")
        case ModelFormat.TORCH:
            return zipped and "archive_format" in _names(data)
        case ModelFormat.PYTHON:
            return "model.py" in _names(data) if zipped else _is_text(data)
        case ModelFormat.PICKLE:
            return data[:1] == b"\x80"  # protocol 2 and later


def is_pickle(data: bytes) -> bool:
    """True if a pickle of any protocol begins here, plain or in a PyTorch or joblib file."""
    if data.startswith((_GZIP, _BZIP, _XZ)):
        return True  # as joblib compresses one; no format of ours is compressed so
    if data.startswith(_ZIP):
        names = _names(data)
        return "data.pkl" in names and "archive_format" not in names
    if data[:1] == b"\x80":
        return True
    return _is_old_pickle(data)


def _is_old_pickle(data: bytes) -> bool:
    """True if a pickle of protocol 0 or 1 begins here, which have no mark."""
    try:
        # A text of ours stops being a pickle at its first bytes.
        for operation, named, _ in pickletools.genops(io.BytesIO(data[:_LONGEST_PICKLE_HEAD])):
            if operation.name in ("GLOBAL", "INST"):
                # A module that begins with `class` or `import` reads as one of these, of a
                # name that none can have.
                return _GLOBAL_NAME.fullmatch(str(named)) is not None
            if operation.name in ("REDUCE", "STOP", "BUILD"):
                return True
    except Exception:  # noqa: BLE001 - whatever it meets, it is no pickle from there on
        return False
    return False


def sample_table(path: Path, encoding: Encoding, most_rows: int) -> pa.Table:
    """The rows of a CSV or Parquet file, at most so many, with words as text.

    Raises:
        InvalidInput: it is neither, or cannot be read.
    """
    import pyarrow as pa

    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            rows = next(pq.ParquetFile(path).iter_batches(most_rows), None)
            found = pa.table({}) if rows is None else pa.Table.from_batches([rows])
        elif path.suffix == ".csv":
            from pyarrow import csv

            kinds = dict.fromkeys(encoding.words, pa.string())
            found = csv.read_csv(path, convert_options=csv.ConvertOptions(column_types=kinds))
        else:
            raise InvalidInput(
                f"The sample {path.name!r} is neither .csv nor .parquet.", hint="Write one."
            )
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(
            f"The sample {path.name!r} cannot be read: {str(error)[:200]}", hint="Mend the file."
        ) from error
    return found.slice(0, most_rows)


def _check_onnx(data: bytes) -> None:
    from onnx import GraphProto, ModelProto, TensorProto, load_model_from_string

    try:
        model: ModelProto = load_model_from_string(data)
    except Exception as error:
        raise InvalidInput("The file is no ONNX model.", hint="Export it again.") from error
    domains = {one.domain for one in model.opset_import} | {one.domain for one in model.functions}
    graphs: list[GraphProto] = [model.graph]
    for function in model.functions:
        domains |= {one.domain for one in function.opset_import}
        graphs.append(GraphProto(node=function.node))
    while graphs:
        graph = graphs.pop()
        tensors = list(graph.initializer)
        for node in graph.node:
            domains.add(node.domain)
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else []
                graphs += attribute.graphs
                tensors += [attribute.t] if attribute.HasField("t") else []
                tensors += attribute.tensors
                sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                for one in (*sparse, *attribute.sparse_tensors):
                    tensors += [one.values, one.indices]
        tensors += [part for one in graph.sparse_initializer for part in (one.values, one.indices)]
        if any(one.data_location == TensorProto.EXTERNAL or one.external_data for one in tensors):
            raise InvalidInput(
                "The ONNX model keeps weights in another file.",
                hint="Save it with its weights inside (save_as_external_data=False).",
            )
    foreign = domains - set(_STANDARD_DOMAINS)
    if foreign:
        raise InvalidInput(
            f"The ONNX model has operators of {', '.join(sorted(foreign))[:200]}.",
            hint="Export it with the standard operators alone.",
        )


def _names(data: bytes) -> set[str]:
    """The last parts of the names in a zip archive, and the names in its top folder."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {part for one in archive.namelist() for part in (one, one.rpartition("/")[2])}
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError):
        return set()


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return "\x00" not in text and "class Model" in text
