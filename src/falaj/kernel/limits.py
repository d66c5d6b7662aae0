"""Runs one task in a process of its own, under limits, and says what it used.

The process has as many threads and cores as it asked for. Its resident memory is looked at
twenty times a second, and beyond the limit it is ended; an allocation far beyond it is refused
by the kernel at once. What it tells on its way comes through the same pipe as its answer.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec

from falaj.kernel.clock import monotonic
from falaj.kernel.compute import (
    Plain,
    Task,
    TaskFailed,
    TaskLost,
    TaskOutOfMemory,
    answered_by,
    packed,
    result_of,
)
from falaj.kernel.cores import lent_cores
from falaj.kernel.errors import FalajError
from falaj.kernel.gpus import GpuWatch, visible_gpus
from falaj.kernel.processes import bytes_moved, resident_bytes
from falaj.kernel.resources import (
    MIB,
    MemoryLimit,
    Resources,
    TimeLimit,
    Used,
    shown_bytes,
)
from falaj.kernel.taskprocess import read_frame, write_frame

Heard = Callable[[Plain], None]
"""Takes what a task tells; may raise, which ends it."""
Check = Callable[[], None]
"""Raises if the run should end now; asked about four times a second."""
Asked = Callable[[Plain], Plain]
"""Answers what a task asks; the task waits meanwhile. May raise, which ends it."""
TOLD, ASKED, ANSWER = b"t", b"q", b"a"
HEADROOM = 512 * MIB
"""So much private memory beyond its limit may a process reserve without using it."""
_LOOK_SECONDS = 0.05
_CHECK_SECONDS = 0.25
_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA", "POLARS_MAX", "NUMEXPR")


def no_answers(_what: Plain) -> Plain:
    """For tasks that ask nothing."""
    raise TaskFailed("The task asked something, and nobody answers it here.")


class LimitedCompute(Protocol):
    """Runs one task under limits, here or on a cluster.

    Guarantees of every adapter:

    - The task has a process of its own, with the cores, memory and GPUs it asked for and no
      more; what exceeds memory or time is ended with an error that says which of them.
    - ``check`` is asked at least twice a second; what it raises ends the process within a
      second and is raised here. So does what ``heard`` raises.
    - What the task tells is heard here, in order, each once.
    - ``measured`` is told what was used, once, however it ended.
    - Nothing is repeated: a lost process is raised as TaskLost, which may be tried again.
    """

    def limited(
        self,
        task: Task,
        item: Plain,
        resources: Resources,
        *,
        heard: Heard,
        check: Check,
        measured: Callable[[Used], None],
        asked: Asked = no_answers,
    ) -> Plain:
        """The result of a task of that item.

        Raises:
            InvalidInput: the function is no task, or the item is no plain data.
            HardwareMissing: nothing here has what it asks for.
            MemoryLimit, TimeLimit: it exceeded what it asked for.
            TaskLost: its process or machine was lost.
            TaskFailed: it raised what is no FalajError; FalajError: what it raised.
        """
        ...


def run_limited(
    name: str,
    item: bytes,
    resources: Resources,
    *,
    heard: Heard,
    check: Check,
    measured: Callable[[Used], None],
    asked: Asked = no_answers,
) -> Plain:
    """Run the task of that name on what ``packed`` made; see ``LimitedCompute.limited``."""
    with _begun(resources) as process:
        try:
            return process.answer(name, item, heard, asked, check)
        finally:
            process.end()
            measured(process.used())


@contextmanager
def _begun(resources: Resources) -> Iterator[_Process]:
    gpus = visible_gpus(resources.gpus)
    with lent_cores(resources.cpus) as cores:
        yield _Process(resources, cores, gpus)


class _Process:
    """One process that runs one task."""

    def __init__(self, resources: Resources, cores: set[int], gpus: list[str]) -> None:
        self._resources = resources
        self._began = monotonic()
        self._ended_at: float | None = None
        self._peak = 0
        self._moved = (0, 0)
        self._cpu_seconds = 0.0
        self._gpu = GpuWatch(gpus) if gpus else None
        self._threads: list[threading.Thread] = []
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        limits = [str(resources.memory_bytes + HEADROOM), ",".join(map(str, sorted(cores)))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "falaj.kernel.limitedprocess", *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(resources, gpus),
            start_new_session=True,
        )

    def answer(self, name: str, item: bytes, heard: Heard, asked: Asked, check: Check) -> Plain:
        """The result; raises as ``run_limited`` does."""
        for work in (lambda: self._give(name, item), self._receive):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        looked = checked = self._began
        while True:
            try:
                frame = self._frames.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                frame = b""
            if frame is None:
                raise self._lost(name)
            now = monotonic()
            if now - looked >= _LOOK_SECONDS:
                self._look(name)
                looked = now
            if now - checked >= _CHECK_SECONDS:
                check()
                checked = now
            if frame[:1] == TOLD:
                heard(msgspec.msgpack.decode(frame[1:]))
            elif frame[:1] == ASKED:
                self._reply(asked(msgspec.msgpack.decode(frame[1:])))
            elif frame[:1] == ANSWER:
                return self._answered(name, frame[1:])

    def end(self) -> None:
        """End it and all that it began; nothing is left of it afterwards."""
        if self._process.returncode is not None:
            return
        self._sample()
        self._kill()
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._cpu_seconds = used.ru_utime + used.ru_stime
        self._ended_at = monotonic()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not written yet has nobody to read it

    def used(self) -> Used:
        """What it has used; after ``end``."""
        gpu = self._gpu.used() if self._gpu is not None else None
        return Used(
            wall_seconds=(self._ended_at or monotonic()) - self._began,
            cpu_seconds=self._cpu_seconds,
            peak_memory_bytes=self._peak,
            read_bytes=self._moved[0],
            written_bytes=self._moved[1],
            gpu_seconds=None if gpu is None else gpu[0],
            gpu_peak_memory_bytes=None if gpu is None else gpu[1],
        )

    def _give(self, name: str, item: bytes) -> None:
        given = self._process.stdin
        try:
            if given is not None:
                write_frame(given, name.encode())
                write_frame(given, item)
        except (OSError, ValueError):
            return  # it has ended, and its answer tells why

    def _reply(self, answer: Plain) -> None:
        given = self._process.stdin
        try:
            if given is not None:
                write_frame(given, packed(answer))
        except (OSError, ValueError):
            return  # it has ended, which is noticed next

    def _receive(self) -> None:
        stream = self._process.stdout
        try:
            while stream is not None:
                frame = read_frame(stream)
                self._frames.put(frame)
        except (EOFError, OSError, ValueError):
            self._frames.put(None)

    def _sample(self) -> int:
        now = resident_bytes(self._process.pid)
        self._peak = max(self._peak, now)
        read, written = bytes_moved(self._process.pid)
        self._moved = (max(self._moved[0], read), max(self._moved[1], written))
        if self._gpu is not None:
            self._gpu.look()
        return now

    def _look(self, name: str) -> None:
        """Raise if it exceeds its memory or its time."""
        if self._sample() > self._resources.memory_bytes:
            raise self._too_much(name)
        allowed = self._resources.seconds
        if allowed is not None and monotonic() - self._began > allowed:
            raise TimeLimit(
                f"{name} took longer than the {allowed:g} s that it may take.",
                hint="Ask for more time (resources.seconds), or give it less to do.",
                seconds=allowed,
            )

    def _answered(self, name: str, answered: bytes) -> Plain:
        told = msgspec.msgpack.decode(answered)
        self._peak = max(self._peak, int(told.pop("peak_memory_bytes", 0)))
        try:
            return result_of(told)
        except TaskOutOfMemory:
            raise self._too_much(name) from None

    def _too_much(self, name: str) -> MemoryLimit:
        asked = self._resources.memory_bytes
        return MemoryLimit(
            f"{name} needed more memory than the {shown_bytes(asked)} that it asked for"
            f" (it held {shown_bytes(self._peak)}).",
            hint="Ask for more (resources.memory_bytes), or give it fewer rows.",
            memory_bytes=asked,
            peak_memory_bytes=self._peak,
        )

    def _lost(self, name: str) -> FalajError:
        self.end()
        code = self._process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return TaskLost(
            f"The process of {name} ended {how} before it answered"
            f" (it held {shown_bytes(self._peak)}).",
            hint="The worker's log may tell why. SIGKILL usually means that the machine had no"
            " memory left.",
        )

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it ended by itself


def _environment(resources: Resources, gpus: list[str]) -> dict[str, str]:
    threads = str(max(1, int(resources.cpus)))
    environment = {**os.environ, **{f"{name}_NUM_THREADS": threads for name in _THREADS}}
    environment["POLARS_MAX_THREADS"] = threads
    if "CUDA_VISIBLE_DEVICES" not in os.environ or gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if 0 < resources.gpus < 1:
        environment["FALAJ_GPU_SHARE"] = str(resources.gpus)
    if resources.cpus < 1:
        environment["FALAJ_NICE"] = "10"
    return environment


class FarRun:
    """``run_limited`` where only bytes travel and the waiting side asks: for a cluster's worker.

    Args:
        name, item: the task's, as ``packed`` made it.
        resources: as JSON.
    """

    def __init__(self, name: str, item: bytes, resources: str) -> None:
        self._messages: queue.SimpleQueue[tuple[str, Plain]] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stopped = threading.Event()
        work = lambda: self._work(name, item, resources)  # noqa: E731 - a thread's target
        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the task, with all that it began, and come back when it has gone."""
        self._stopped.set()
        self._thread.join()

    def reply(self, answer: bytes) -> None:
        """Answer what was asked last, as MessagePack."""
        self._replies.put(answer)

    def heard(self, wait_seconds: float) -> bytes:
        """What there is to say, after a wait if there is nothing: MessagePack of pairs.

        They are ``told`` and what, ``asked`` and what, ``used`` and what (JSON), and last
        ``answer`` and what ``answer`` gives.
        """
        found = []
        try:
            found.append(self._messages.get(timeout=wait_seconds))
            while True:
                found.append(self._messages.get_nowait())
        except queue.Empty:
            return msgspec.msgpack.encode(found)

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise TaskLost("Nobody waits for it any more.")

    def _asked(self, what: Plain) -> Plain:
        self._messages.put(("asked", what))
        while True:
            self._go_on()
            try:
                return msgspec.msgpack.decode(self._replies.get(timeout=_CHECK_SECONDS))
            except queue.Empty:
                continue

    def _work(self, name: str, item: bytes, resources: str) -> None:
        def run() -> Plain:
            return run_limited(
                name,
                item,
                Resources.model_validate_json(resources),
                heard=lambda told: self._messages.put(("told", told)),
                check=self._go_on,
                measured=lambda used: self._messages.put(("used", used.model_dump_json())),
                asked=self._asked,
            )

        self._messages.put(("answer", answered_by(name, run)))
