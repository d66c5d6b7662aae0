"""The program in which a user's training function runs: alone, confined, told what in a folder.

It is started by ``trainer_function`` as a script and imports nothing of the platform. Before
it reads a byte of the function it limits itself (address space, CPU time, no file that
grows) and runs the program that confines it: no network, no other program, files read in
Python's own folders and its own folder alone, written nowhere. What the function returns
leaves through one pipe, as JSON and the bytes of a model.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import resource
import signal
import struct
import sys
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

HEAD = struct.Struct("<qq")
"""The lengths of the JSON and of the model that follow."""
_DIE_WITH_PARENT = 1
_LONGEST_ERROR = 2_000


def main(arguments: list[str]) -> int:
    """Confine this process, train with the function in a folder, answer once."""
    folder, told_by, memory, seconds, answers, parent = arguments
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):
        return 1  # it died before we could ask to be told
    import numpy as np  # before the filter forbids programs

    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    confining = _module("confining", Path(told_by))
    lacking = confining.confined(libc, Path(folder)).decode()
    asked = json.loads((Path(folder) / "asked.json").read_text())
    if lacking:
        _answer(int(answers), {"error": f"this machine cannot confine it: it lacks {lacking}"})
        return 1
    try:
        with np.load(Path(folder) / "rows.npz", allow_pickle=False) as rows:
            parts = [
                SimpleNamespace(
                    matrix=rows[f"{part}_matrix"],
                    labels=rows[f"{part}_labels"],
                    weights=rows.get(f"{part}_weights"),
                )
                for part in ("train", "validation")
            ]
        function = getattr(_module("function", Path(folder) / "function.py"), asked["function"])
        made = function(
            *parts, names=tuple(asked["names"]), seed=asked["seed"], options=asked["options"]
        )
        told, model = _checked(made)
    except BaseException as error:  # noqa: BLE001 - a function may raise whatever it likes
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f" (line {last.lineno} of {Path(last.filename).name})"
        _answer(
            int(answers), {"error": f"{type(error).__name__}: {error}"[:_LONGEST_ERROR] + where}
        )
        return 1
    _answer(int(answers), told, model)
    return 0


def _checked(made: Any) -> tuple[dict[str, Any], bytes]:
    if not isinstance(made, dict) or not isinstance(made.get("model"), bytes):
        raise TypeError("the function must return a dict with `format` and `model`, which is bytes")
    facts = {
        str(name): value if isinstance(value, str) else float(value)
        for name, value in dict(made.get("facts", {})).items()
    }
    importance = {
        str(name): float(value) for name, value in dict(made.get("importance", {})).items()
    }
    told = {"format": str(made.get("format")), "facts": facts, "importance": importance}
    return told, made["model"]


def _module(name: str, path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path.name} is no module")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    specification.loader.exec_module(module)
    return module


def _answer(descriptor: int, told: dict[str, Any], model: bytes = b"") -> None:
    text = json.dumps(told).encode()
    data = memoryview(HEAD.pack(len(text), len(model)) + text + model)
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
