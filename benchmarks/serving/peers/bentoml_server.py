"""Starts BentoML's server of ``bentoml_service.py``, without its telemetry."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> None:
    """Become ``bentoml serve``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    home = given.folder / "bentoml"
    home.mkdir(exist_ok=True)
    surroundings = {
        **os.environ,
        "BENCH_FOLDER": str(given.folder.resolve()),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(home.resolve()),
    }
    program = str(Path(sys.executable).parent / "bentoml")
    folder = str(Path(__file__).parent)
    words = ["serve", "bentoml_service:Bench", "--working-dir", folder]
    address = ["--host", "127.0.0.1", "--port", str(given.port)]
    os.execve(program, [program, *words, *address, "--quiet"], surroundings)


if __name__ == "__main__":
    main()
