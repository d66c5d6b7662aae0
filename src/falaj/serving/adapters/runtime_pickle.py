"""Pickled models of scikit-learn: read in a confined process alone, by exact names alone.

They are off unless the settings permit them. A pickle is never read in this process: it is
put beside ``pickle_child`` and goes the way of a custom Python model (``runtime_python``),
whose process has no network, no other program, no files but its own, and limits.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.serving.adapters.runtime_python import ProcessLimits, PythonModel, PythonRuntime
from falaj.serving.model import ServableModel

_CHILD = Path(__file__).with_name("pickle_child.py")


class PickleRuntime:
    """Loads pickles into confined processes.

    Args:
        permitted: whether the settings permit them.
        limits: of each process.
    """

    formats: tuple[str, ...] = ("pickle",)

    def __init__(self, *, permitted: bool, limits: ProcessLimits | None = None) -> None:
        self._permitted = permitted
        self._python = PythonRuntime(limits)

    def load(self, model: ServableModel) -> PythonModel:
        """The model in a started process; see ``Runtime.load``.

        Raises:
            InvalidInput: the settings do not permit pickles.
            Corrupt: it names what is not allowed, or holds no classifier.
        """
        if not self._permitted:
            raise InvalidInput(
                "Pickled models are not permitted here.",
                hint="Convert the model to ONNX, or permit them: supply_chain.pickles.",
            )
        if model.model[:1] != b"\x80":
            raise Corrupt("The bytes are no pickle.", hint="Write one with pickle.dump.")
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("model.py", _CHILD.read_bytes())
            archive.writestr("model.pickle", model.model)
        return self._python.load(replace(model, format="python", model=sink.getvalue()))
