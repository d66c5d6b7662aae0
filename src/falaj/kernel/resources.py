"""What a run asks for, what it used of that, and the errors of what it may not exceed."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from falaj.kernel.errors import ErrorKind, FalajError, LimitExceeded

MIB = 2**20
GIB = 2**30
LEAST_MEMORY = 256 * MIB
THOUSANDTHS = 1000
"""Shares of cores and GPUs are counted in whole thousandths, so that sums are exact."""
_LONGEST = 30 * 86_400


def thousandths(amount: float) -> int:
    """A number of cores or GPUs in thousandths of one."""
    return round(amount * THOUSANDTHS)


def _in_thousandths(amount: float) -> float:
    if abs(amount * THOUSANDTHS - thousandths(amount)) > 1e-6:
        raise ValueError("a share is given to the thousandth")
    return amount


class Resources(BaseModel):
    """What one run may use; what it asks for is also its limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cpus: Annotated[float, Field(gt=0, le=1024), AfterValidator(_in_thousandths)] = 1.0
    """Cores of each worker. A share below one counts in the queue and in prices; the run still
    has one thread, at a lower priority."""
    memory_bytes: int = Field(2 * GIB, ge=LEAST_MEMORY, le=2**44)
    """Resident memory of each worker."""
    gpus: Annotated[float, Field(ge=0, le=64), AfterValidator(_in_thousandths)] = 0.0
    """GPUs of each worker: a share of one, or a whole number."""
    seconds: float | None = Field(None, gt=0, le=_LONGEST)
    """So long may it take, by the clock; None: as long as it likes."""
    spot: bool = False
    """It may be taken away at any moment, and goes on later from its last checkpoint."""
    workers: int = Field(1, ge=1, le=64)
    """On so many workers, where the trainer can."""
    least_workers: int = Field(1, ge=1, le=64)
    """It goes on with so many of them when others are lost."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError("more than one GPU is a whole number of them")
        if self.least_workers > self.workers:
            raise ValueError("least_workers is not more than workers")
        return self

    @property
    def cpu_thousandths(self) -> int:
        """Thousandths of cores of all workers together."""
        return thousandths(self.cpus) * self.workers

    @property
    def gpu_thousandths(self) -> int:
        """Thousandths of GPUs of all workers together."""
        return thousandths(self.gpus) * self.workers

    @property
    def all_memory_bytes(self) -> int:
        """Memory of all workers together."""
        return self.memory_bytes * self.workers


class Used(BaseModel):
    """What a run has used."""

    model_config = ConfigDict(frozen=True)

    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of all its processes."""
    peak_memory_bytes: int = 0
    """The most resident memory at one time."""
    read_bytes: int = 0
    """From disks; what was in the page cache does not count."""
    written_bytes: int = 0
    gpu_seconds: float | None = None
    """GPUs times the share of the time in which they computed; None without a GPU."""
    gpu_peak_memory_bytes: int | None = None

    def with_more(self, other: Used) -> Used:
        """Both one beside the other: times and bytes add up, the wall time is the longer one."""

        def added(mine: float | None, its: float | None) -> float | None:
            return None if mine is None and its is None else (mine or 0) + (its or 0)

        memory = added(self.gpu_peak_memory_bytes, other.gpu_peak_memory_bytes)
        return Used(
            wall_seconds=max(self.wall_seconds, other.wall_seconds),
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            peak_memory_bytes=self.peak_memory_bytes + other.peak_memory_bytes,
            read_bytes=self.read_bytes + other.read_bytes,
            written_bytes=self.written_bytes + other.written_bytes,
            gpu_seconds=added(self.gpu_seconds, other.gpu_seconds),
            gpu_peak_memory_bytes=None if memory is None else int(memory),
        )


class MemoryLimit(LimitExceeded):
    """A run needed more memory than it asked for."""

    code = "memory-limit"


class TimeLimit(LimitExceeded):
    """A run took longer than it may."""

    code = "time-limit"


class HardwareMissing(FalajError):
    """A run asks for what no machine of this platform has."""

    code = "hardware-missing"
    kind = ErrorKind.EXHAUSTED


def shown_bytes(n_bytes: int) -> str:
    """A number of bytes as people read it: ``2.5 GiB``, ``300 MiB``."""
    return f"{n_bytes / GIB:.1f} GiB" if n_bytes >= GIB else f"{n_bytes / MIB:.0f} MiB"
