"""What a machine does while something runs on it: processor, memory, disk, network, GPUs.

The names are those of MLflow's system metrics, so that a run that was logged by either shows
in the same columns.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from falaj.kernel.errors import InvalidInput

MEGABYTE = 1e6
PREFIX = "system/"
EVERY_SECONDS = 10.0
Told = Callable[[Mapping[str, float]], None]
"""Takes one sample."""


class NoSystemMetrics(InvalidInput):
    """The package that samples the machine is not installed."""

    code = "no-system-metrics"


class Machine:
    """The figures of the machine that this process runs on, since this was made.

    Args:
        folder: of the file system whose fill is told.

    Raises:
        NoSystemMetrics: psutil is not installed.
    """

    def __init__(self, folder: Path = Path()) -> None:
        try:
            self._psutil: Any = importlib.import_module("psutil")
        except ImportError:
            raise NoSystemMetrics(
                "System metrics need the package psutil, which is not installed.",
                hint="Install it (pip install psutil), or leave system_metrics out.",
            ) from None
        self._folder = str(folder)
        self._process = self._psutil.Process()
        self._network = self._psutil.net_io_counters()
        self._gpus = _Gpus()
        self._psutil.cpu_percent()  # the first answer is about nothing
        self._process.cpu_percent()

    def sampled(self) -> dict[str, float]:
        """The figures of now by name; shares in percent, sizes in megabytes of 10**6 bytes.

        Network traffic is counted since this was made, shares of the processor since the last
        sample. ``system/process_…`` is this process, the rest the whole machine.
        """
        memory = self._psutil.virtual_memory()
        disk = self._psutil.disk_usage(self._folder)
        found = {
            "cpu_utilization_percentage": self._psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MEGABYTE,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_usage_megabytes": disk.used / MEGABYTE,
            "disk_available_megabytes": disk.free / MEGABYTE,
            "process_cpu_percentage": self._process.cpu_percent(),
            "process_memory_megabytes": self._process.memory_info().rss / MEGABYTE,
        }
        network = self._psutil.net_io_counters()
        if network is not None and self._network is not None:
            received = network.bytes_recv - self._network.bytes_recv
            sent = network.bytes_sent - self._network.bytes_sent
            found["network_receive_megabytes"] = received / MEGABYTE
            found["network_transmit_megabytes"] = sent / MEGABYTE
        found |= self._gpus.sampled()
        return {PREFIX + name: float(value) for name, value in found.items()}


class _Gpus:
    """NVIDIA's GPUs, where their library and a driver are; else nothing."""

    def __init__(self) -> None:
        self._handles: list[Any] = []
        try:
            self._library: Any = importlib.import_module("pynvml")
        except ImportError:
            return
        try:
            self._library.nvmlInit()
            n_gpus = self._library.nvmlDeviceGetCount()
            self._handles = [self._library.nvmlDeviceGetHandleByIndex(i) for i in range(n_gpus)]
        except self._library.NVMLError:
            return  # the library is there, but no driver

    def sampled(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for place, handle in enumerate(self._handles):
            memory = self._library.nvmlDeviceGetMemoryInfo(handle)
            share = self._library.nvmlDeviceGetUtilizationRates(handle)
            watts = self._library.nvmlDeviceGetPowerUsage(handle) / 1000
            found[f"gpu_{place}_memory_usage_percentage"] = 100 * memory.used / memory.total
            found[f"gpu_{place}_memory_usage_megabytes"] = memory.used / MEGABYTE
            found[f"gpu_{place}_utilization_percentage"] = share.gpu
            found[f"gpu_{place}_power_usage_watts"] = watts
        return found


class SystemSampler:
    """Samples the machine again and again, in a thread of its own, and once when it is stopped.

    Args:
        told: takes each sample; what it raises ends the sampling, and is raised by ``stop``.
        every_seconds: how long to wait between two samples.

    Raises:
        NoSystemMetrics: psutil is not installed.
        InvalidInput: the interval is not positive.
    """

    def __init__(self, told: Told, *, every_seconds: float = EVERY_SECONDS) -> None:
        if not every_seconds > 0:
            raise InvalidInput(
                f"The machine cannot be sampled every {every_seconds} seconds.",
                hint="Give a positive number of seconds.",
            )
        self._told = told
        self._every = every_seconds
        self._machine = Machine()
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="falaj-system", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the sampling; raises what a sample has failed with."""
        self._stopped.set()
        self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _run(self) -> None:
        try:
            ended = False
            while not ended:  # and once more at the end: a short run has a sample too
                ended = self._stopped.wait(self._every)
                self._told(self._machine.sampled())
        except Exception as error:  # noqa: BLE001 - it is raised where the run ends
            self._failure = error
