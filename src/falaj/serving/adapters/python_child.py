"""The program in which a custom Python model runs: alone, confined, told what by a pipe.

It is started by ``runtime_python`` as a script and imports nothing of the platform but
``kernel.confinement``. It limits itself before it reads the first byte of the model: memory by
RLIMIT_AS, no core dump, no file that grows (RLIMIT_FSIZE 0), and what ``confined`` gives up
(sockets, programs, processes, files but Python's, the system's libraries and the model's).

What the kernel cannot do is told to the parent, which decides whether that is enough.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import resource
import signal
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

from falaj.kernel.confinement import confined, ends_with_parent

REQUEST = struct.Struct("<qq")
"""Rows and columns; then the rows, float32."""
ANSWER = struct.Struct("<qqq")
"""0, rows and columns, then float64; or 1, the length of a text, 0, then why it failed."""


def main(arguments: list[str]) -> int:
    """Confine this process, load the model in a folder, answer until the pipe ends."""
    folder, memory, inputs, outputs, parent = arguments
    requests, answers = int(inputs), int(outputs)
    libc = ctypes.CDLL(None, use_errno=True)
    if not ends_with_parent(libc, int(parent)):
        return 1  # it died before we could ask to be told
    import numpy as np  # the model's library too: loaded before the filter forbids programs

    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    lacking = confined(libc, Path(folder))
    try:
        model = _loaded(Path(folder))
    except BaseException as error:  # noqa: BLE001 - a model may raise whatever it likes
        _fail(answers, error)
        return 1
    _write(answers, ANSWER.pack(2, len(lacking), 0) + lacking)
    while True:
        head = _read(requests, REQUEST.size)
        if head is None:
            return 0
        n_rows, n_columns = REQUEST.unpack(head)
        data = _read(requests, 4 * n_rows * n_columns)
        if data is None:
            return 0
        rows = np.frombuffer(data, dtype="<f4").reshape(n_rows, n_columns).copy()
        try:
            out = np.ascontiguousarray(model.predict(rows), dtype="<f8")
            if out.ndim == 1:
                out = out.reshape(-1, 1)
            if out.ndim != 2 or len(out) != n_rows:
                raise ValueError(f"predict gave the shape {out.shape} for {n_rows} rows")
        except BaseException as error:  # noqa: BLE001 - as above; SystemExit is one of them
            _fail(answers, error)
            continue
        _write(answers, ANSWER.pack(0, *out.shape) + out.tobytes())


def _loaded(folder: Path) -> Any:
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("model", folder / "model.py")
    if spec is None or spec.loader is None:
        raise ImportError("there is no model.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["model"] = module
    spec.loader.exec_module(module)
    return module.Model(folder)


def _fail(answers: int, error: BaseException) -> None:
    last = traceback.extract_tb(error.__traceback__)
    where = f" (line {last[-1].lineno} of {Path(last[-1].filename).name})" if last else ""
    text = f"{type(error).__name__}: {error}"[:500].encode(errors="replace")
    text += where.encode(errors="replace")
    _write(answers, ANSWER.pack(1, len(text), 0) + text)


def _read(descriptor: int, n: int) -> bytes | None:
    parts = []
    while n:
        part = os.read(descriptor, min(n, 1 << 20))
        if not part:
            return None
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
