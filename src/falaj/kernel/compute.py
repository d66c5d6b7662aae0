"""Work that is spread over processes or machines: tasks by name, on plain data.

A task is a function that stands in a module and is marked with ``@task``. It is sent by its
name and its argument is plain data (what MessagePack can write), so no code and no pickled
object crosses from one process to another: the far side imports the same package and calls
the function of that name, if it is marked.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import msgspec

from falaj.kernel.errors import ErrorKind, FalajError, InvalidInput
from falaj.kernel.problems import problem, rebuilt

Plain = Any
"""None, booleans, numbers, text, bytes, and lists and dicts (by text) of them."""
Task = Callable[[Plain], Plain]
F = TypeVar("F", bound=Task)
ATTEMPTS = 3
"""How often a task is begun whose process was lost each time."""
_MARK = "__falaj_task__"
_PROBLEM, _RESULT = "problem", "result"
_LISTENING: list[Callable[[Any], None]] = []
_ANSWERING: list[Callable[[Any], Any]] = []


class TaskLost(FalajError):
    """The process that ran a task ended before it answered, again and again."""

    code = "task-lost"
    kind = ErrorKind.UNAVAILABLE
    retryable = True


class TaskFailed(FalajError):
    """A task raised what is no error of Falaj."""

    code = "task-failed"
    kind = ErrorKind.CORRUPT
    shown = False


class TaskOutOfMemory(TaskFailed):
    """A task needs more memory than it may have."""

    code = "task-out-of-memory"


class Compute(Protocol):
    """Runs tasks on several processes or machines.

    Guarantees of every adapter:

    - Results come in the order of the items, each once. A few tasks more than there are slots
      are begun ahead; items are taken one by one as there is room, so both may be endless.
    - An item and a result are plain data, copied: nothing is shared, no closure is sent. Only
      functions that are marked with ``task`` can be run.
    - A task whose process is lost (killed, out of memory) is begun again elsewhere, three
      times in all; so a task must be idempotent.
    - What a task raises is raised here in the place of its result, as its own class if it is
      a ``FalajError``; a task that raised is not repeated.
    - Leaving the iteration early, or ``close``, ends what still runs; no process is left.
    - A task has one core, and as much memory as the settings say; what exceeds it fails or
      loses that task, not the platform.
    """

    n_slots: int
    """How many tasks run at a time."""

    def ordered(self, task: Task, items: Iterable[Plain]) -> Iterator[Plain]:
        """The results of a task for each item, in their order.

        Raises:
            InvalidInput: the function is not marked, or an item is no plain data.
            TaskLost: the process of one task was lost too often.
            TaskFailed: a task raised what is no FalajError; FalajError: what it raised.
            Unavailable: there is nothing to run tasks on.
        """
        ...

    def close(self) -> None:
        """End all processes that this began. It cannot be used again."""
        ...


def task(function: F) -> F:
    """Mark a function of a module as one that ``Compute`` may run."""
    setattr(function, _MARK, True)
    return function


def name_of(function: Task) -> str:
    """How a task is named to another process: ``module:function``.

    Raises:
        InvalidInput: it is not marked, or does not stand in a module by that name.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    if not getattr(function, _MARK, False) or not function.__qualname__.isidentifier():
        raise InvalidInput(
            f"{name} is no task.", hint="Mark a function of a module with @task, not a closure."
        )
    return name


def answer(name: str, item: Plain) -> dict[str, Plain]:
    """Run the task of that name: its result, or what it raised, as plain data."""
    return answered_by(name, lambda: _found(name)(item))


def answered_by(name: str, work: Callable[[], Plain]) -> dict[str, Plain]:
    """``answer``, of work that is done for the task of that name."""
    try:
        return {_RESULT: work()}
    except FalajError as error:
        return {_PROBLEM: problem(error)}
    except MemoryError:
        return {_PROBLEM: problem(_out_of_memory(name))}
    except Exception as error:  # noqa: BLE001 - a task may raise anything; it is told
        return {_PROBLEM: problem(_failed(name, error))}


def packed(item: Plain) -> bytes:
    """Plain data as MessagePack.

    Raises:
        InvalidInput: it is no plain data.
    """
    try:
        return msgspec.msgpack.encode(item)
    except (TypeError, OverflowError) as error:
        raise InvalidInput(
            f"What is given to a task is no plain data: {error}.",
            hint="Send numbers, text, bytes, and lists and dicts of them.",
        ) from None


def packed_answer(name: str, item: bytes) -> bytes:
    """``answer`` where only bytes travel: of what ``packed`` made, packed again."""
    return msgspec.msgpack.encode(answer_where_plain(name, msgspec.msgpack.decode(item)))


def answer_where_plain(name: str, item: Plain) -> dict[str, Plain]:
    """``answer``; a result that is no plain data is a failure of the task."""
    answered = answer(name, item)
    try:
        msgspec.msgpack.encode(answered)
    except (TypeError, OverflowError) as error:
        return {_PROBLEM: problem(_failed(name, error))}
    return answered


def tell(what: Plain) -> None:
    """Called in a task: tell whoever waits for it; in vain if nobody listens there.

    Raises:
        TypeError: it is no plain data.
    """
    if _LISTENING:
        _LISTENING[-1](what)


def ask(what: Plain) -> Plain:
    """Called in a task under limits: ask whoever waits for it, and wait for the answer.

    Raises:
        TaskFailed: nobody answers questions there.
    """
    if not _ANSWERING:
        raise TaskFailed("Nobody answers a task here.", hint="Run it under limits.")
    return _ANSWERING[-1](what)


def hear(listener: Callable[[Plain], None], answering: Callable[[Plain], Plain]) -> None:
    """What tasks of this process tell and ask from now on goes to a listener."""
    _LISTENING.append(listener)
    _ANSWERING.append(answering)


def unpacked_result(answered: bytes) -> Plain:
    """The result in what ``packed_answer`` gave; raises what the task raised."""
    return result_of(msgspec.msgpack.decode(answered))


def result_of(answered: dict[str, Plain]) -> Plain:
    """The result in what ``answer`` gave; raises what the task raised."""
    if _PROBLEM in answered:
        raise rebuilt(answered[_PROBLEM])
    return answered[_RESULT]


def _found(name: str) -> Task:
    module, _, qualname = name.partition(":")
    found = getattr(importlib.import_module(module), qualname, None)
    if not getattr(found, _MARK, False):
        raise InvalidInput(f"{name} is no task.", hint="Mark a function of a module with @task.")
    return found  # type: ignore[return-value]  # what is marked is a function


def _out_of_memory(name: str) -> TaskOutOfMemory:
    return TaskOutOfMemory(
        f"The task {name} needs more memory than it may have.",
        hint="Raise the setting compute_memory_bytes, or give it smaller parts.",
    )


def _failed(name: str, error: Exception) -> TaskFailed:
    return TaskFailed(
        f"The task {name} raised {type(error).__name__}: {str(error)[:500]}.",
        hint="The worker's log tells where.",
    )
