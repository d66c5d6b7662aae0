"""How much memory a model takes: measured in a fresh process, by the runtimes that serve it."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falaj.kernel.compute import task
from falaj.models.ports import Footprint
from falaj.training.targets import BINARY

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_STATUS = Path("/proc/self/status")


class FreshProcess:
    """Starts a process, lets it load a model and score rows, and asks what it took.

    The peak counts the interpreter, the libraries that the model's format needs, the bytes of
    the model as they arrived, and, where a format runs in processes of its own, those too.
    Fulfils ``models.ports.Weighing``.

    Args:
        pickles: whether the settings permit pickled models.
    """

    def __init__(self, *, pickles: bool = False) -> None:
        self._pickles = pickles

    def weighed(
        self,
        model_format: str,
        model: bytes,
        names: tuple[str, ...],
        matrix: npt.NDArray[np.float32],
        outputs: tuple[str, ...] = BINARY.outputs,
    ) -> Footprint:
        """What it took; see ``Weighing.weighed``."""
        from falaj.kernel.adapters.compute_local import LocalCompute

        item = {
            "format": str(model_format),
            "model": model,
            "names": list(names),
            "outputs": list(outputs),
            "rows": matrix.astype("<f4").tobytes(),
            "pickles": self._pickles,
        }
        compute = LocalCompute(1)
        try:
            (found,) = compute.ordered(weigh, [item])
        finally:
            compute.close()
        return Footprint(found["peak_bytes"], found["before_bytes"], found["load_seconds"])


@task
def weigh(item: Any) -> Any:
    """Load the model of an item, score its rows, and tell the memory that this process took."""
    import numpy as np

    from falaj.serving.scorers import RuntimeScorers
    from falaj.wiring.servingparts import runtimes_with

    names = tuple(item["names"])
    matrix = np.frombuffer(item["rows"], dtype="<f4").reshape(-1, len(names))
    before = _resident("VmRSS")
    started = time.perf_counter()
    scorer = RuntimeScorers(runtimes_with(pickles=item["pickles"])).of(
        item["format"], item["model"], names, tuple(item["outputs"])
    )
    load_seconds = time.perf_counter() - started
    scorer.scores(matrix)
    children = _of_children()
    return {
        "peak_bytes": _resident("VmHWM") + children,
        "before_bytes": before,
        "load_seconds": load_seconds,
    }


def _resident(field: str, status: Path = _STATUS) -> int:
    """Bytes of this process by the kernel's own count; elsewhere than on Linux the peak."""
    if status.exists():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _of_children() -> int:
    """The peaks of the processes below this one, together; 0 where the kernel does not tell."""
    waiting, total = [Path("/proc/self")], 0
    while waiting:
        for told in waiting.pop().glob("task/*/children"):
            for pid in told.read_text(encoding="ascii").split():
                total += _resident("VmHWM", Path(f"/proc/{pid}/status"))
                waiting.append(Path(f"/proc/{pid}"))
    return total
