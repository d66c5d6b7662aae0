"""Steps of pipelines in processes of this machine: confined, with limits, kept for a whole run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from falaj.kernel.clock import monotonic
from falaj.kernel.errors import FalajError, Unavailable
from falaj.kernel.problems import problem, rebuilt
from falaj.training.pipelines.frames import (
    MOST_BYTES,
    MOST_TOLD,
    FrameRefused,
    Packed,
    read_bytes,
    read_frame,
    write_frame,
)
from falaj.training.pipelines.model import StepFailed, StepLost, StepTimedOut
from falaj.training.pipelines.ports import Ask, StepAnswer, StepTask

_START_SECONDS = 60.0
_PROGRAM = "falaj.training.pipelines.stepprocess"
_STARTER = ThreadPoolExecutor(1, thread_name_prefix="falaj-steps")
"""Starts all processes: the kernel ends a child with the *thread* that started it."""


class LocalSteps:
    """Runs steps on this machine; fulfils ``StepRunner``.

    A process is started when a step first needs it and takes step after step of its run. It is
    given an environment of its own (none of the platform's variables) and an empty folder.

    Args:
        slots: so many steps at a time.
        memory_bytes: the address space of each process; None for no limit.
        must_confine: refuse to run where the kernel has neither Landlock nor seccomp.
    """

    def __init__(
        self, slots: int = 1, *, memory_bytes: int | None = None, must_confine: bool = True
    ) -> None:
        self._memory = memory_bytes
        self._must_confine = must_confine
        self._free = threading.Semaphore(slots)
        self._idle: list[_Process] = []
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, task: StepTask, ask: Ask | None) -> StepAnswer:
        """See ``StepRunner.run``."""
        with self._free:
            process = self._taken(task.step)
            try:
                answer = process.asked(task, ask)
            except BaseException:
                self._dropped(process)
                raise
            with self._lock:
                if not self._stopped:
                    self._idle.append(process)
        if "outputs" in answer:
            return StepAnswer(
                outputs=answer["outputs"],
                seconds=answer["seconds"],
                cpu_seconds=answer["cpu_seconds"],
                peak_bytes=answer["peak_bytes"],
            )
        raise _error(task, answer)

    def stop(self) -> None:
        """See ``StepRunner.stop``."""
        with self._lock:
            self._stopped = True
            processes = list(self._all)
        for process in processes:
            process.kill()

    def close(self) -> None:
        """See ``StepRunner.close``."""
        self.stop()
        with self._lock:
            processes, self._all, self._idle = list(self._all), set(), []
        for process in processes:
            process.end()

    def pids(self) -> list[int]:
        """The ids of the processes that there are now."""
        with self._lock:
            return [process.started.pid for process in self._all]

    def _taken(self, step: str) -> _Process:
        with self._lock:
            if self._stopped:
                raise StepLost(f"The step {step!r} was not begun: its run was stopped.")
            if self._idle:
                return self._idle.pop()
        process = _STARTER.submit(_Process, self._memory, self._must_confine).result()
        with self._lock:
            self._all.add(process)
        if self._is_stopped():
            process.kill()
        return process

    def _is_stopped(self) -> bool:
        """Asked anew: ``stop`` may have come while a process was started."""
        with self._lock:
            return self._stopped

    def _dropped(self, process: _Process) -> None:
        process.end()
        with self._lock:
            self._all.discard(process)


def _error(task: StepTask, answer: dict[str, Any]) -> FalajError:
    """What a step raised, as ours."""
    where = f" ({answer['where']})" if answer.get("where") else ""
    if "problem" in answer:
        told = answer["problem"]
        found = rebuilt({"detail": told.get("message", ""), **told})
        found.message = f"The step {task.step!r}{where}: {found.message}"
        return found
    return StepFailed(
        f"The step {task.step!r} failed{where}: {answer['wrong']}.",
        hint="Mend the function, apply the definitions, and run the pipeline anew.",
        step=task.step,
        fatal=bool(answer.get("fatal")),
    )


class _Value(msgspec.Struct):
    """What a child tells of a value before it writes its bytes."""

    form: Literal["none", "plain", "table", "file"]
    size: int
    name: str = ""


class _Gave(msgspec.Struct):
    """What a child tells of a step that was done."""

    outputs: dict[str, _Value]
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class _Process:
    """One started child; asked by one thread at a time.

    Nothing that it writes is trusted: its code may have taken the pipe. Frames have a bound,
    are of declared types, and each read and write ends with the step's time.
    """

    def __init__(self, memory_bytes: int | None, must_confine: bool) -> None:
        # It has packed what it gives in its own memory, so it cannot rightly give more.
        self._most = min(MOST_BYTES, memory_bytes or MOST_BYTES)
        self.folder = Path(tempfile.mkdtemp(prefix="falaj-step-"))
        read, self._given = os.pipe2(os.O_CLOEXEC)
        self._answers, write = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._given, False)  # our end alone: a child that reads nothing
        command = [
            sys.executable, "-I", "-B", "-m", _PROGRAM, str(self.folder), str(memory_bytes or 0),
            str(read), str(write), str(os.getpid()), str(int(must_confine)),
        ]  # fmt: skip
        try:
            self.started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=2, pass_fds=(read, write),
                env=_surroundings(self.folder), cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(read)
            os.close(write)
        try:
            ready = self._next(monotonic() + _START_SECONDS)
        except (EOFError, OSError, TimeoutError, FrameRefused, msgspec.DecodeError):
            self.end()
            raise Unavailable("The process of a step cannot be started.") from None
        if must_confine and ready["lacking"]:
            self.end()
            raise Unavailable(
                f"This machine's kernel cannot confine the steps of pipelines: {ready['lacking']}.",
                hint="Run the worker on a kernel with Landlock and seccomp, or set"
                " pipelines.confined = false if only trusted people apply definitions.",
            )

    def asked(self, task: StepTask, ask: Ask | None) -> dict[str, Any]:
        """The answer to one step; what it asks of the platform is asked meanwhile."""
        until = monotonic() + task.timeout_seconds
        try:
            write_frame(self._given, task.told(), until=until)
            while True:
                told: dict[str, Any] = msgspec.convert(self._next(until), dict[str, Any])
                if "outputs" in told:
                    return self._gave(task, told, until)
                if "ask" not in told:
                    return told
                write_frame(self._given, _asked(told, ask), until=until)
        except (FrameRefused, msgspec.DecodeError, KeyError) as error:
            raise StepFailed(
                f"The process of the step {task.step!r} told what it may not: {error}.",
                hint=f"All that a step gives has at most {self._most} bytes, and a call of the"
                f" platform {MOST_TOLD}.",
                step=task.step,
                fatal=True,
            ) from None
        except TimeoutError:
            raise StepTimedOut(
                f"The step {task.step!r} did not end within {task.timeout_seconds:g} s.",
                hint="Give it more with step(…, timeout_seconds=…).",
            ) from None
        except (EOFError, OSError):
            raise StepLost(
                f"The process of the step {task.step!r} was lost.",
                hint="It was killed, crashed, or needs more memory: see `memory_bytes`.",
            ) from None

    def _gave(self, task: StepTask, told: Any, until: float) -> dict[str, Any]:
        """The values of a step, whose bytes follow what was told of them."""
        gave = msgspec.convert(told, _Gave)
        sizes = [one.size for one in gave.outputs.values()]
        if set(gave.outputs) != set(task.outputs or ("",)) or any(size < 0 for size in sizes):
            raise FrameRefused("values that the step does not declare")
        if sum(sizes) > self._most:
            raise FrameRefused(f"values of {sum(sizes)} bytes, where {self._most} may be")
        outputs: dict[str, Packed] = {}
        for name, one in gave.outputs.items():
            data = bytes(read_bytes(self._answers, one.size, until=until))
            outputs[name] = {"form": one.form, "data": data, "name": one.name}
        return {
            "outputs": outputs,
            "seconds": gave.seconds,
            "cpu_seconds": gave.cpu_seconds,
            "peak_bytes": gave.peak_bytes,
        }

    def _next(self, until: float) -> Any:
        return read_frame(self._answers, most=MOST_TOLD, until=until)

    def kill(self) -> None:
        """End it now; whoever waits for its answer learns that."""
        with suppress(ProcessLookupError):
            self.started.kill()

    def end(self) -> None:
        """End it, and give back what it holds."""
        self.kill()
        self.started.wait()
        for descriptor in (self._given, self._answers):
            with suppress(OSError):
                os.close(descriptor)
        shutil.rmtree(self.folder, ignore_errors=True)


def _asked(told: dict[str, Any], ask: Ask | None) -> dict[str, Any]:
    if ask is None:
        return {"problem": {"code": "forbidden", "message": "This step has no platform."}}
    try:
        return {"answer": ask(told["ask"], told["values"], told["named"])}
    except FalajError as error:
        document = problem(error)
        return {"problem": {**document, "message": error.message, "hint": error.hint}}


def _surroundings(folder: Path) -> dict[str, str]:
    """The variables of the process: nothing that the worker has, but how to run programs."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "POLARS")}
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    return {
        **kept, **threads, "HOME": str(folder), "TMPDIR": str(folder), "POLARS_MAX_THREADS": "1",
        "NUMBA_CACHE_DIR": str(folder), "MPLCONFIGDIR": str(folder), "ARROW_IO_THREADS": "1",
    }  # fmt: skip
