"""The servers that ours is measured against, each in an environment of its own.

``make peers`` makes ``.venv-peers/<name>`` from ``peers/requirements-<name>.txt``; a peer
whose environment is missing is left out, and the table says so.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stand.classifier import NAMES
from stand.load import ask_once, request
from stand.processes import ServerProcess, free_port

ROOT = Path(__file__).parents[3]
SCRIPTS = Path(__file__).parents[1] / "peers"
READY_SECONDS = 90.0


@dataclass(frozen=True)
class Peer:
    """One server to compare with."""

    name: str
    """Of its environment and script; our own environment if ``ours``."""
    title: str
    ask: Callable[[list[float]], bytes]
    """The request for one row."""
    score: Callable[[dict[str, Any]], float]
    """The score in an answer."""
    ours: bool = False

    @property
    def python(self) -> Path:
        """Its interpreter."""
        if self.ours:
            return Path(sys.executable)
        return ROOT / ".venv-peers" / self.name / "bin" / "python"

    @property
    def available(self) -> bool:
        """True if its environment is there."""
        return self.python.exists()

    def version(self) -> str:
        """The version of its package, as its environment says."""
        package = {"triton": "nvidia_pytriton"}.get(self.name, self.name)
        site = self.python.parents[1] / "lib"
        found = sorted(site.glob(f"python*/site-packages/{package}-*.dist-info"))
        return found[-1].name.removesuffix(".dist-info").partition("-")[2] if found else "?"

    def requests(self, rows: np.ndarray) -> list[bytes]:
        """One request for each row."""
        return [self.ask(row) for row in rows.tolist()]

    def start(self, folder: Path, core: int) -> ServerProcess:
        """Start it on a core; it serves ``model.onnx`` of the folder when this returns.

        Raises:
            RuntimeError: it did not begin to answer; with what it said.
        """
        port = free_port()
        script = str(SCRIPTS / f"{self.name}_server.py")
        command = [str(self.python), script, "--folder", str(folder), "--port", str(port)]
        server = ServerProcess(
            self.title, command, port, core=core, log=folder / f"{self.name}.log"
        )
        try:
            self._await(server)
            server.settle(patience_seconds=3)
        except BaseException:
            server.end()
            raise
        return server

    def _await(self, server: ServerProcess) -> None:
        first = self.ask([0.0] * len(NAMES))
        until = time.monotonic() + READY_SECONDS
        while True:
            server.check()
            try:
                ask_once(server.port, first)
            except (OSError, RuntimeError, ValueError) as error:
                if time.monotonic() > until:
                    raise RuntimeError(
                        f"{self.title} does not answer: {error}\n{server.said()}"
                    ) from error
                time.sleep(0.1)
            else:
                return


def _named(row: list[float]) -> bytes:
    return request("/predict", {"inputs": [dict(zip(NAMES, row, strict=True))]})


def _v2(name: str) -> Callable[[list[float]], bytes]:
    def ask(row: list[float]) -> bytes:
        tensor = {"name": name, "shape": [1, len(row)], "datatype": "FP32", "data": row}
        return request("/v2/models/bench/infer", {"inputs": [tensor]})

    return ask


def _v2_score(told: dict[str, Any]) -> float:
    return float(told["outputs"][0]["data"][0])


MLSERVER = Peer("mlserver", "MLServer", _v2("input"), _v2_score)
TRITON = Peer("triton", "Triton (pytriton)", _v2("rows"), _v2_score)
LITSERVE = Peer(
    "litserve",
    "LitServe",
    lambda row: request("/predict", {"input": row}),
    lambda told: float(told["score"]),
)
BENTOML = Peer(
    "bentoml",
    "BentoML",
    lambda row: request("/predict", {"row": row}),
    lambda told: float(told["value"]),
)
KSERVE = Peer(
    "kserve",
    "KServe",
    lambda row: request("/v1/models/bench:predict", {"instances": [row]}),
    lambda told: float(told["predictions"][0]),
)
FASTAPI = Peer(
    "fastapi",
    "FastAPI + ORT",
    _named,
    lambda told: float(told["predictions"][0]["score"]),
    ours=True,
)
PEERS = (MLSERVER, TRITON, LITSERVE, BENTOML, KSERVE, FASTAPI)
