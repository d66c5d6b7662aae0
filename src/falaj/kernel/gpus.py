"""GPUs of this machine, as NVIDIA's own tool tells of them."""

from __future__ import annotations

import math
import os
import shutil
import subprocess

from falaj.kernel.clock import monotonic
from falaj.kernel.resources import MIB, HardwareMissing

_TOOL = "nvidia-smi"
_PATIENCE_SECONDS = 5.0
_EVERY_SECONDS = 2.0


def gpus_here() -> list[str]:
    """The GPUs that this process may use, by index or id; none if there is no driver."""
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return [one for one in allowed.split(",") if one]
    return [row[0] for row in _asked("index")]


def visible_gpus(wanted: float) -> list[str]:
    """As many GPUs as are wanted, rounded up; none if none is wanted.

    Raises:
        HardwareMissing: there are fewer.
    """
    if not wanted:
        return []
    there, n_wanted = gpus_here(), math.ceil(wanted)
    if len(there) < n_wanted:
        raise HardwareMissing(
            f"The run asks for {wanted:g} GPUs, and this machine has {len(there)}.",
            hint="Run it on a cluster with GPUs (compute = ray://…), or ask for none.",
        )
    return there[:n_wanted]


class GpuWatch:
    """Adds up how much GPUs compute, and remembers the most memory in use on them.

    It counts all that runs on these GPUs: with a share of one, what others do there too.
    """

    def __init__(self, gpus: list[str]) -> None:
        self._gpus = gpus
        self._looked_at = monotonic()
        self._busy_seconds = 0.0
        self._peak = 0

    def look(self) -> None:
        """Look at them, if the last look was two seconds ago."""
        passed = monotonic() - self._looked_at
        if passed < _EVERY_SECONDS:
            return
        self._looked_at += passed
        rows = _asked("utilization.gpu,memory.used", self._gpus)
        busy = sum(float(row[0]) / 100 for row in rows if row[0].replace(".", "").isdigit())
        self._busy_seconds += busy * passed
        held = sum(int(row[1]) * MIB for row in rows if row[1].isdigit())
        self._peak = max(self._peak, held)

    def used(self) -> tuple[float, int]:
        """GPU-seconds of computing, and the most bytes in use at one time."""
        return self._busy_seconds, self._peak


def _asked(fields: str, gpus: list[str] | None = None) -> list[list[str]]:
    """What the tool says, a list for each GPU; empty if there is no tool or no driver."""
    tool = shutil.which(_TOOL)
    if tool is None:
        return []
    command = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    if gpus:
        command.append(f"--id={','.join(gpus)}")
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [[part.strip() for part in line.split(",")] for line in told.splitlines() if line]
