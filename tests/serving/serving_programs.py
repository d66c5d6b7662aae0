"""An inference worker and a log writer as programs of their own, to be killed by tests.

``python serving_programs.py FOLDER PORT-FILE [ring]`` is the worker, and with
``writer`` in the place of the port file it is the log writer. The folder holds the keys, the
models (``model.onnx`` and ``challenger.onnx`` with inputs a, b and c) and the routing table.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from pathlib import Path

from falaj.kernel.clock import SystemClock
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.compiler import PlanCompiler
from falaj.serving.inference import InferenceApp
from falaj.serving.logwriter import LogWriter
from falaj.serving.meters import Meters
from falaj.serving.model import ServableModel
from falaj.serving.plans import Keeper, Plans
from falaj.serving.predictionlog import PredictionLog
from falaj.serving.rings import Ring, Rings, ring_folder
from falaj.serving.routing import RoutingTable
from falaj.serving.running import run
from falaj.serving.spools import DirectorySpools
from falaj.testing.fakes import AllowAll
from falaj.testing.serving import MemoryBundles, NamedTokens, onnx_classifier
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

FLUSH_SECONDS = 0.2


def prepare(folder: Path) -> None:
    """Put keys and a model into a folder."""
    FileKeyring.create(
        folder / "ring.json", MachineSeal.create(folder / "secret"), clock=SystemClock()
    )
    (folder / "model.onnx").write_bytes(onnx_classifier())
    (folder / "challenger.onnx").write_bytes(onnx_classifier(seed=1))


def keys_of(folder: Path) -> FileKeyring:
    """The keys in a folder."""
    return FileKeyring(folder / "ring.json", MachineSeal(folder / "secret"), clock=SystemClock())


def write(folder: Path) -> None:
    """Be the log writer until SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    writer = LogWriter(
        Rings(ring_folder(folder)),
        DirectorySpools(folder / "spool", keys_of(folder)),
        flush_seconds=0.05,
    )
    writer.run(stopped)


def serve(folder: Path, port_file: Path, *, ring: bool) -> None:
    """Be a worker until SIGTERM; the port file appears when it listens."""
    table = RoutingTable(folder / "routing")
    models = {
        digest: ServableModel("onnx", (folder / name).read_bytes(), ("a", "b", "c"))
        for digest, name in {"sha256:a": "model.onnx", "sha256:b": "challenger.onnx"}.items()
    }
    compiler = PlanCompiler(MemoryBundles(models), [OnnxRuntime(device="cpu")], None)
    plans = Plans(table, compiler)
    app = InferenceApp(
        plans=plans,
        keeper=Keeper(plans, table),
        verifier=NamedTokens(),
        policy=AllowAll(),
        log=PredictionLog(
            DirectorySpools(folder / "spool", keys_of(folder)),
            flush_seconds=FLUSH_SECONDS,
            ring=Ring(ring_folder(folder), 1 << 26) if ring else None,
        ),
        meters=Meters(folder / "meters", "w0"),
    )

    bound = socket.create_server(("127.0.0.1", 0))

    def ready() -> None:
        port_file.with_suffix(".new").write_text(str(bound.getsockname()[1]))
        port_file.with_suffix(".new").rename(port_file)

    run(app, [bound], ready=ready)


if __name__ == "__main__":
    if sys.argv[2] == "writer":
        write(Path(sys.argv[1]))
    else:
        serve(Path(sys.argv[1]), Path(sys.argv[2]), ring="ring" in sys.argv[3:])
