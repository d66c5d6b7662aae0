"""Compute on this machine: a pool of processes with limits of memory and of one core each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from falaj.kernel.compute import (
    ATTEMPTS,
    Plain,
    Task,
    TaskLost,
    name_of,
    packed,
    unpacked_result,
)
from falaj.kernel.errors import Unavailable
from falaj.kernel.limits import Asked, Check, Heard, no_answers, run_limited
from falaj.kernel.resources import Resources, Used
from falaj.kernel.taskprocess import read_frame, write_frame

_THREADS = ("OMP", "OPENBLAS", "MKL", "NUMBA")
_ONE_CORE = {**{f"{name}_NUM_THREADS": "1" for name in _THREADS}, "ARROW_IO_THREADS": "1"}
AHEAD = 1
"""So many tasks more than there are slots are begun or done before their turn."""


class LocalCompute:
    """A ``Compute`` of processes on this machine, started when they are first needed.

    Args:
        slots: how many processes; by default one for each core that this process may use.
        memory_bytes: the address space of each (RLIMIT_AS); None for no limit.
    """

    def __init__(self, slots: int | None = None, *, memory_bytes: int | None = None) -> None:
        self.n_slots = slots or len(os.sched_getaffinity(0))
        self._memory = memory_bytes
        self._threads = ThreadPoolExecutor(self.n_slots, thread_name_prefix="falaj-compute")
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False

    def ordered(self, task: Task, items: Iterable[Plain]) -> Iterator[Plain]:
        """See ``Compute.ordered``."""
        name = name_of(task)
        begun: deque[Future[Any]] = deque()
        busy: set[_Process] = set()
        try:
            for item in items:
                begun.append(self._threads.submit(self._run, name, packed(item), busy))
                if len(begun) > self.n_slots + AHEAD:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            if begun:
                self._abandon(begun, busy)

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
        """See ``LimitedCompute.limited``."""
        name, data = name_of(task), packed(item)
        return run_limited(
            name, data, resources, heard=heard, check=check, measured=measured, asked=asked
        )

    def close(self) -> None:
        """See ``Compute.close``."""
        with self._lock:
            self._closed = True
            processes, self._idle = list(self._all), []
        for process in processes:
            process.end()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            process.kill()

    def pids(self) -> list[int]:
        """The ids of the processes that there are now."""
        with self._lock:
            return [process.pid for process in self._all]

    def _abandon(self, begun: Iterable[Future[Any]], busy: set[_Process]) -> None:
        """Nobody waits for these any more: what runs is ended, and its process with it."""
        running = [future for future in begun if not future.cancel()]
        with self._lock:
            for process in busy:
                process.end()
        for future in running:
            future.exception()

    def _run(self, name: str, item: bytes, busy: set[_Process]) -> Plain:
        """One task; ``busy`` holds the process that it is in while it is."""
        for _ in range(ATTEMPTS):
            process = self._taken(busy)
            try:
                answered: bytes | None = process.asked(name, item)
            except (EOFError, OSError):
                answered = None
            with self._lock:
                busy.discard(process)
                if answered is not None and not process.ended:
                    self._idle.append(process)
                else:
                    self._all.discard(process)
            if answered is not None:
                return unpacked_result(answered)
            process.kill()
            if process.ended:
                break
        raise TaskLost(
            f"The process of the task {name} was lost {ATTEMPTS} times.",
            hint="It may need more memory than there is: see the worker's log, or raise"
            " compute_memory_bytes.",
        )

    def _taken(self, busy: set[_Process]) -> _Process:
        with self._lock:
            if self._closed:
                raise Unavailable("The compute was closed.", hint="Open another one.")
            process = self._idle.pop() if self._idle else _Process(self._memory)
            self._all.add(process)
            busy.add(process)
            return process


class _Process:
    """One process that runs tasks; asked by one thread at a time."""

    def __init__(self, memory_bytes: int | None) -> None:
        self.ended = False
        """True once nobody wants its answer any more."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "falaj.kernel.taskprocess", str(memory_bytes or 0)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_CORE},
        )
        self.pid = self._process.pid

    def asked(self, name: str, item: bytes) -> bytes:
        """The answer to one task; raises EOFError or OSError if the process is lost."""
        given, answers = self._process.stdin, self._process.stdout
        if given is None or answers is None:
            raise EOFError
        write_frame(given, name.encode())
        write_frame(given, item)
        return read_frame(answers)

    def end(self) -> None:
        """Stop it: whoever waits for its answer learns that nobody wants it any more."""
        self.ended = True
        self._process.kill()

    def kill(self) -> None:
        """Make sure that it has gone, and give its pipes back."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # what was not written yet has nobody to read it
