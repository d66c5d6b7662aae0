"""Starts MLServer at its best setting for one core.

No parallel workers (they would cost two hops for each request), no metrics, no
compression, no access log; uvicorn takes uvloop and httptools because they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from pathlib import Path


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def main() -> None:
    """Write the settings and become ``mlserver start``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    home = given.folder / "mlserver"
    home.mkdir(exist_ok=True)
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": given.port,
        "grpc_port": free_port(),
        "parallel_workers": 0,
        "metrics_endpoint": None,
        "gzip_enabled": False,
    }
    model = {
        "name": "bench",
        "implementation": "mlserver_runtime.Runtime",
        "parameters": {"uri": str(given.folder.resolve())},
    }
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    surroundings = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    program = str(Path(sys.executable).parent / "mlserver")
    os.execve(program, [program, "start", str(home)], surroundings)


if __name__ == "__main__":
    main()
