"""Programs that are measured beside ours, in an interpreter of their own.

A peer is a script that runs in ``.venv-peers/feast`` (``make peers``). It reads one JSON object a
line from its standard input, does that work, and answers with one JSON object a line; what
it times is timed there, without the way between the two processes.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[1]


def interpreter(environment: str = "feast") -> Path:
    """The interpreter of one of the environments that ``make peers`` makes."""
    return ROOT / ".venv-peers" / environment / "bin" / "python"


def available(environment: str = "feast") -> bool:
    """True if ``make peers`` has made that environment."""
    return interpreter(environment).exists()


class Peer:
    """A running peer; use it as a context manager.

    Args:
        script: below ``benchmarks``, such as ``features/peers/feast_offline.py``.
        arguments: of its command line.
        environment: whose interpreter runs it.

    Raises:
        RuntimeError: from ``ask``, if the peer failed; with what it said.
    """

    def __init__(self, script: str, *arguments: str, environment: str = "feast") -> None:
        path = ROOT / "benchmarks" / script
        surroundings = {
            **os.environ,
            "FEAST_USAGE": "False",
            "NML_DISABLE_USAGE_LOGGING": "1",
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            [str(interpreter(environment)), str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=surroundings,
            cwd=path.parent,
        )

    @property
    def pid(self) -> int:
        """The peer's process."""
        return self._process.pid

    def ask(self, work: str, **arguments: Any) -> dict[str, Any]:
        """Have some work done; what the peer answers."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError
        self._process.stdin.write(json.dumps({"work": work, **arguments}) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):  # libraries print what they like before it
                answer: dict[str, Any] = json.loads(line)
                if "error" in answer:
                    raise RuntimeError(f"the peer failed: {answer['error']}")
                return answer
        raise RuntimeError(f"the peer ended with {self._process.wait()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
