"""The process that runs steps: confined, told what by a pipe, one step after the other.

``python -I -m falaj.training.pipelines.stepprocess FOLDER MEMORY IN OUT PARENT CONFINED`` reads
frames from one descriptor and writes frames to another. It holds no key, no token and no setting
of the platform; a step that calls the platform asks the worker, which asks the door.
"""

from __future__ import annotations

import ctypes
import linecache
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from falaj.kernel.confinement import confined, ends_with_parent
from falaj.training.pipelines.frames import (
    MOST_TOLD,
    FrameRefused,
    NotPlain,
    packed,
    read_frame,
    unpacked,
    write_bytes,
    write_frame,
)

_MOST_TOLD = 1000
_FILE_BYTES = 8 << 30
_FILES = 256
"""So many open at a time: pipes and deleted files hold memory and disk that no folder shows."""


class PlatformError(Exception):
    """The platform has refused or failed; ``code`` names the error, ``hint`` what to do."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(str(told.get("message", "")))
        self.told = told
        self.code = str(told.get("code", ""))
        self.hint = str(told.get("hint", ""))


class Answer(dict[str, Any]):
    """What an action answered: a dict whose keys are attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the answer has no {name!r}; it has {', '.join(self)}") from None


class _Service:
    def __init__(self, ask: Callable[..., Any], name: str) -> None:
        self._ask, self._name = ask, name

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb.startswith("_"):
            raise AttributeError(verb)
        return lambda *values, **named: self._ask(f"{self._name}.{verb}", list(values), named)


class Platform:
    """The platform as a step holds it: its services are attributes, as of ``falaj.open``."""

    def __init__(self, given: int, answers: int) -> None:
        self._given, self._answers = given, answers

    def __getattr__(self, service: str) -> _Service:
        if service.startswith("_"):
            raise AttributeError(service)
        return _Service(self._asked, service)

    def wait(self, job: Any, *, timeout_seconds: float = 86_400.0) -> Answer:
        """Follow a job until it ends; raises PlatformError if it failed or was cancelled."""
        job_id = job if isinstance(job, str) else job["id"]
        until, pause = time.monotonic() + timeout_seconds, 0.02
        while True:
            seen = self.jobs.get(job_id)
            if seen["state"] in ("failed", "cancelled"):
                told = seen.get("error") or {"code": "job-cancelled", "message": "cancelled"}
                raise PlatformError({**told, "message": f"{job_id}: {told.get('message', '')}"})
            if seen["state"] == "done":
                return Answer(seen)
            if time.monotonic() > until:
                raise TimeoutError(f"the job {job_id} did not end within {timeout_seconds:g} s")
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)

    def _asked(self, action: str, values: list[Any], named: dict[str, Any]) -> Any:
        asked = {"ask": action, "values": values, "named": named}
        try:
            write_frame(self._answers, asked, most=MOST_TOLD)
        except FrameRefused as error:
            raise NotPlain(f"a call of {action}: {error}") from None
        answer = read_frame(self._given)
        if "problem" in answer:
            raise PlatformError(answer["problem"])
        return _with_attributes(answer["answer"])


def _with_attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return Answer({name: _with_attributes(one) for name, one in value.items()})
    if isinstance(value, list):
        return [_with_attributes(one) for one in value]
    return value


def main(arguments: list[str]) -> int:
    """Run steps until the pipe ends."""
    folder = Path(arguments[0])
    memory, given, answers, parent, must = (int(one) for one in arguments[1:])
    os.umask(0o077)
    libc = ctypes.CDLL(None, use_errno=True)
    if not ends_with_parent(libc, parent):
        return 1
    if memory:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_FILES, _FILES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.dont_write_bytecode = True
    if must:
        lacking = confined(libc, folder, writable=folder)
        write_frame(answers, {"ready": True, "lacking": lacking.decode()})
    else:
        write_frame(answers, {"ready": True, "lacking": ""})
    _emptied(folder)
    while True:
        try:
            asked = read_frame(given)
        except (EOFError, OSError):
            return 0
        _answer(answers, _done(asked, folder, given, answers))


def _answer(answers: int, told: dict[str, Any]) -> None:
    """Write what a step gave: first what there is, then the bytes of each value in turn."""
    values = [one.pop("data") for one in told.get("outputs", {}).values()]
    for one, data in zip(told.get("outputs", {}).values(), values, strict=True):
        one["size"] = len(data)
    write_frame(answers, told)
    for data in values:
        write_bytes(answers, data)


def _done(asked: dict[str, Any], folder: Path, given: int, answers: int) -> dict[str, Any]:
    """Run one step; what it gave, or what it raised and where."""
    name = f"<step {asked['step']}>"
    work = folder / "work"
    try:
        function = _made(asked, name)
        values = {
            argument: unpacked(value, folder, argument)
            for argument, value in asked["inputs"].items()
        }
        if asked["platform"]:
            values[asked["platform"]] = Platform(given, answers)
        started, cpu = time.perf_counter(), time.process_time()
        value = function(**values)
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        return {
            "outputs": _outputs(value, asked["outputs"], work),
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
    except PlatformError as error:
        return {"problem": error.told, "where": _where(error, name)}
    except NotPlain as error:
        return {"wrong": f"what it gives cannot be passed on: {error}", "where": "", "fatal": True}
    except MemoryError:
        return {"wrong": "it needs more memory than it may have", "where": "", "fatal": True}
    except BaseException as error:  # noqa: BLE001 - a step may raise whatever it likes
        told = f"{type(error).__name__}: {str(error)[:_MOST_TOLD]}"
        traceback.print_exc()  # into the worker's log
        return {"wrong": told, "where": _where(error, name)}
    finally:
        _emptied(folder)


def _emptied(folder: Path) -> None:
    """Leave nothing of a step's files to the next one; it begins in an empty folder."""
    work = str(folder / "work")
    if os.listdir(folder) == ["work"] and not os.listdir(work):  # noqa: PTH208 - in microseconds
        os.chdir(work)
        return
    os.chdir(folder)
    for left in folder.iterdir():
        shutil.rmtree(left, ignore_errors=True)
    Path(work).mkdir()
    os.chdir(work)


def _made(asked: dict[str, Any], name: str) -> Callable[..., Any]:
    """The step's function, of its text, in a module of its own."""
    for module, text in asked["modules"].items():
        made = types.ModuleType(module)
        sys.modules[module] = made
        _run(text, f"<module {module}>", made)
    own = types.ModuleType("falaj_step")
    sys.modules["falaj_step"] = own
    _run(asked["source"], name, own)
    found: Callable[..., Any] = vars(own)[asked["function"]]
    return found


@lru_cache(maxsize=64)
def _compiled(text: str, name: str) -> types.CodeType:
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    return compile(text, name, "exec", dont_inherit=True)


def _run(text: str, name: str, module: types.ModuleType) -> None:
    exec(_compiled(text, name), vars(module))  # noqa: S102 - it is what this process is for


def _outputs(value: Any, wanted: list[str], folder: Path) -> dict[str, Any]:
    if not wanted:
        return {"": packed(value, folder)}
    if not isinstance(value, dict) or set(value) != set(wanted):
        raise NotPlain(f"it must return a dict of {', '.join(wanted)}")
    return {name: packed(value[name], folder) for name in wanted}


def _where(error: BaseException, name: str) -> str:
    """The line of the step's own text, the last one on the way to the error."""
    lines = [one for one in traceback.extract_tb(error.__traceback__) if one.filename == name]
    return f"line {lines[-1].lineno}: {lines[-1].line}"[:200] if lines else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
