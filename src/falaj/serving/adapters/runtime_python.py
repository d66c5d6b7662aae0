"""Custom Python models: each in a process of its own that is confined and may be lost.

A model is the text of a Python module, or a zip archive with ``model.py`` and files beside
it. The module has a class ``Model``; ``Model(folder)`` is made once, and its ``predict``
takes a float32 matrix [n, inputs] and gives numbers [n, outputs]. The module is run in the
child process alone (``python_child`` says how that is confined), never in ours.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.kernel.telemetry import logger
from falaj.serving.adapters.python_child import ANSWER, REQUEST
from falaj.serving.adapters.python_idle import IdleUse, IdleWatch
from falaj.serving.errors import ModelFailed
from falaj.serving.model import ServableModel
from falaj.serving.rings import MEMORY
from falaj.serving.widths import check_rows, columns_of
from falaj.serving.zipped import read_entry

_CHILD = Path(__file__).with_name("python_child.py")
_MOST_FILES = 10_000
_MOST_VALUES = 100_000_000
_ROWS_AT_ONCE = 1_024
"""More rows are several calls, so that what a call may take does not bound a batch."""
_SCORED, _FAILED, _READY = 0, 1, 2
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}


_MOST_OUTPUTS = 10_000
"""Of a row; a model says how many there are before it sends them."""
_MEMORY = MEMORY if MEMORY.is_dir() else None
"""Where a model is unpacked: what is signed and sealed stands in clear on no disk."""


@dataclass(frozen=True)
class ProcessLimits:
    """What the process of a custom model may use."""

    memory_bytes: int = 2 << 30
    """Of address space (RLIMIT_AS), with Python and numpy in it."""
    call_seconds: float = 1.0
    """For one run of up to 1,024 rows; after that the process is killed."""
    idle_cpu_seconds: float = 0.5
    """Of CPU time that it may use while it is asked nothing, beyond a tenth of a core; after
    that the process is killed, and started again by the next call."""
    start_seconds: float = 30.0
    """For the process to start and the model to be made."""
    unpacked_bytes: int = 2 << 30
    """Of the files of a model's archive."""
    confined: bool = True
    """Refuse to run where the kernel has no seccomp or no Landlock."""


class PythonRuntime:
    """Loads custom Python models into processes of their own.

    Args:
        limits: of each process.
    """

    formats: tuple[str, ...] = ("python",)

    def __init__(self, limits: ProcessLimits | None = None) -> None:
        self._limits = limits or ProcessLimits()
        # The kernel ends a child with the *thread* that started it: one that stays.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix="falaj-python-models")
        self._watch = IdleWatch()

    def load(self, model: ServableModel) -> PythonModel:
        """The model in a started process; see ``Runtime.load``."""
        loaded = PythonModel(model, self._limits, self._starter)
        self._watch.add(loaded)
        return loaded


class _Process:
    """One started child."""

    def __init__(self, folder: Path, limits: ProcessLimits) -> None:
        request_read, self.requests = os.pipe2(os.O_CLOEXEC)
        self.answers, answer_write = os.pipe2(os.O_CLOEXEC)
        try:
            self.started = subprocess.Popen(
                [sys.executable, "-I", "-B", str(_CHILD), str(folder), str(limits.memory_bytes),
                 str(request_read), str(answer_write), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=(request_read, answer_write), env=_ENVIRONMENT, cwd=folder,
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(request_read)
            os.close(answer_write)
        self.idle: IdleUse | None = None
        """Set when its model is made."""
        self._lock = threading.Lock()
        self._how = ""
        os.set_blocking(self.requests, False)
        os.set_blocking(self.answers, False)

    def send(self, data: bytes, until: float) -> None:
        """Write to the child; raises TimeoutError, OSError."""
        view = memoryview(data)
        while view:
            _await(self.requests, select.POLLOUT, until)
            try:
                view = view[os.write(self.requests, view) :]
            except BlockingIOError:
                continue

    def receive(self, n: int, until: float) -> bytes:
        """Read from the child; raises TimeoutError, and EOFError when it has died."""
        data = bytearray()
        while len(data) < n:
            _await(self.answers, select.POLLIN, until)
            try:
                part = os.read(self.answers, min(n - len(data), 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def end(self) -> str:
        """Kill the child with all that it started; returns how it ended."""
        with self._lock:
            if not self._how:  # once: its id and its descriptors are another's behind it
                for descriptor in (self.requests, self.answers):
                    os.close(descriptor)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.started.pid, signal.SIGKILL)
                code = self.started.wait()
                self._how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return self._how

    def look(self) -> float:
        """The CPU time that it has used while it was asked nothing; 0 if it has ended."""
        with self._lock:
            return 0.0 if self._how or self.idle is None else self.idle.look()

    def rest(self) -> None:
        """Note that it has answered."""
        with self._lock:
            if not self._how and self.idle is not None:
                self.idle.rest()

    def more_threads(self) -> int:
        """Threads that its model has left since the last look."""
        with self._lock:
            return 0 if self._how or self.idle is None else self.idle.more_threads()


class PythonModel:
    """One custom model and its process; one run at a time. After a failure a new one starts."""

    waits = True
    """A run waits for another process: not for the thread of an event loop."""

    def __init__(
        self, model: ServableModel, limits: ProcessLimits, starter: ThreadPoolExecutor
    ) -> None:
        self.n_inputs = len(model.inputs)
        self._limits = limits
        self._starter = starter
        self._lock = threading.Lock()
        self._resting = False
        """True while there is no process, until somebody asks."""
        self._n_calls = self._n_calls_seen = 0
        self.n_threads_left = 0
        """Threads that calls have left behind, of all its processes so far."""
        self.n_idle_kills = 0
        """Processes that were killed for what they did while they were asked nothing."""
        self._folder = Path(tempfile.mkdtemp(prefix="falaj-model-", dir=_MEMORY))
        self._holder: list[Future[_Process]] = []
        self._closing = weakref.finalize(self, _ended, self._holder, self._folder)
        try:
            _unpack(model.model, self._folder, limits.unpacked_bytes)
            self._start()
            self._columns = columns_of(model, self._probed())
        except BaseException:
            self.close()
            raise

    def _probed(self) -> int:
        """How many numbers a row the model gives."""
        try:
            self._child()
        except ModelFailed as error:
            raise Corrupt(
                f"The model does not start: {error.message}", hint="Mend its module."
            ) from error
        try:
            return int(self._answer(np.zeros((1, self.n_inputs), dtype=np.float32)).shape[1])
        except ModelFailed as error:
            raise InvalidInput(
                f"The model does not take {self.n_inputs} columns: {error.message}",
                hint="Its predict takes a float32 matrix [n, inputs] and gives numbers.",
            ) from error

    def close(self) -> None:
        """End the process and remove its files; what is not called is done when it is let go."""
        self._closing()

    @property
    def pid(self) -> int:
        """Of the process that runs now, or ran last; waits for one that starts."""
        return self._holder[0].result().started.pid

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs float64 [n, k]; see ``LoadedModel.run``.

        Raises:
            ModelFailed: the model raised, or its process ended or took too long; the next
                run finds a new process.
        """
        check_rows(rows, self.n_inputs)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if len(rows) <= _ROWS_AT_ONCE:
            return self._answer(rows)[:, self._columns]
        starts = range(0, len(rows), _ROWS_AT_ONCE)
        parts = [self._answer(rows[start : start + _ROWS_AT_ONCE]) for start in starts]
        return np.concatenate(parts)[:, self._columns]

    def _answer(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        with self._lock:
            child = self._child()
            if child.look() > self._limits.idle_cpu_seconds:
                self._end_idle(child)
                child = self._child()
            self._n_calls += 1
            until = time.monotonic() + self._limits.call_seconds
            try:
                child.send(REQUEST.pack(*rows.shape) + rows.tobytes(), until)
                kind, n, k = ANSWER.unpack(child.receive(ANSWER.size, until))
                if kind == _FAILED:
                    raise _failed(_text(child.receive(min(n, 4096), until)))
                most = min(_MOST_OUTPUTS, _MOST_VALUES // max(1, n))
                if kind != _SCORED or n != len(rows) or not 0 < k <= most:
                    raise ValueError("it answered out of turn")
                data = child.receive(8 * n * k, until)
            except ModelFailed:
                raise
            except (TimeoutError, EOFError, OSError, ValueError) as error:
                raise _failed(self._lost(child, error)) from None
            finally:
                child.rest()
            return np.frombuffer(data, dtype="<f8").reshape(n, k)

    def look(self) -> None:
        """See what the process does while it is asked nothing; see ``python_idle``."""
        if not self._lock.acquire(blocking=False):
            return  # it is in a call, which has a time limit of its own
        try:
            future = next(iter(self._holder), None)
            if self._resting or future is None or not future.done() or future.exception():
                return
            child = future.result()
            if child.look() > self._limits.idle_cpu_seconds:
                self._end_idle(child)
            elif self._n_calls == self._n_calls_seen:  # they had the time from look to look to end
                more = child.more_threads()
                if more and not self.n_threads_left:
                    logger(__name__).warning("custom model leaves threads behind", threads=more)
                self.n_threads_left += more
            self._n_calls_seen = self._n_calls
        finally:
            self._lock.release()

    def _end_idle(self, child: _Process) -> None:
        """End a process that computes though nobody asks; the next call starts another."""
        child.end()
        self._resting = True
        self.n_idle_kills += 1
        logger(__name__).warning(
            "custom model ended: it computes while it is asked nothing", times=self.n_idle_kills
        )

    def _child(self) -> _Process:
        if self._resting and self._closing.alive:
            self._resting = False
            self._start()
        if self._holder[0].done() and self._holder[0].exception() is not None:
            self._start()  # it did not start the last time
        return self._holder[0].result()

    def _start(self) -> None:
        self._holder[:] = [self._starter.submit(_started, self._folder, self._limits)]

    def _lost(self, child: _Process, error: Exception) -> str:
        """End a process that cannot be trusted any more, and start the next one."""
        ended = child.end()
        self._start()
        if isinstance(error, TimeoutError):
            why = f"it took longer than {self._limits.call_seconds:g} s"
        elif isinstance(error, ValueError):
            why = str(error)
        else:
            why = f"its process ended ({ended})"
        logger(__name__).warning("custom model lost", why=why)
        return why


def _started(folder: Path, limits: ProcessLimits) -> _Process:
    """A child whose model is made; raises ModelFailed."""
    child = _Process(folder, limits)
    until = time.monotonic() + limits.start_seconds
    try:
        kind, n, _ = ANSWER.unpack(child.receive(ANSWER.size, until))
        text = _text(child.receive(min(n, 4096), until))
    except TimeoutError:
        child.end()
        raise _failed(f"it did not start in {limits.start_seconds:g} s") from None
    except (EOFError, OSError):
        raise _failed(f"its process ended while it started ({child.end()})") from None
    if kind != _READY:
        child.end()
        raise _failed(text)
    if text and limits.confined:
        child.end()
        raise _failed(f"this machine cannot confine it (it lacks {text.replace(' ', ' and ')})")
    child.idle = IdleUse(child.started.pid)
    return child


def _ended(holder: list[Future[_Process]], folder: Path) -> None:
    for future in holder:
        if not future.cancel():
            future.add_done_callback(_end_started)
    holder.clear()
    shutil.rmtree(folder, ignore_errors=True)


def _end_started(future: Future[_Process]) -> None:
    if not future.cancelled() and future.exception() is None:
        future.result().end()


def _await(descriptor: int, event: int, until: float) -> None:
    left = until - time.monotonic()
    poll = select.poll()
    poll.register(descriptor, event)
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError


def _unpack(data: bytes, folder: Path, most_bytes: int) -> None:
    """Write the model's files into its folder; raises Corrupt."""
    if not data.startswith(b"PK\x03\x04"):
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if not text.strip() or "\x00" in text or data[:1] == b"\x80":
            raise _corrupt("it is neither the text of a Python module nor a zip archive")
        (folder / "model.py").write_bytes(data)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [one for one in archive.infolist() if not one.is_dir()]
            if len(entries) > _MOST_FILES or sum(one.file_size for one in entries) > most_bytes:
                raise _corrupt("its archive is too large")
            if "model.py" not in {one.filename for one in entries}:
                raise _corrupt("its archive has no model.py")
            for entry in entries:
                path = (folder / entry.filename).resolve()
                if not path.is_relative_to(folder.resolve()) or entry.external_attr >> 28 == 0xA:
                    raise _corrupt(f"its archive has a file {entry.filename!r}")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(read_entry(archive, entry))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise _corrupt(f"its archive is damaged ({error})") from error


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _failed(why: str) -> ModelFailed:
    return ModelFailed(
        f"The custom model failed: {why[:600]}.",
        hint="Mend the model, or roll the endpoint back: `falaj endpoints rollback NAME`.",
    )


def _corrupt(why: str) -> Corrupt:
    return Corrupt(
        f"The bytes are no custom Python model: {why}.",
        hint="Give a module with a class Model, or a zip archive with model.py in it.",
    )
