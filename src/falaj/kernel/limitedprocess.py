"""The process of one task under limits: see ``limits``.

``python -m falaj.kernel.limitedprocess BYTES CORES`` reads a task's name and its item as two
frames, writes frames of what the task tells and one of its answer, and ends. It also ends, with
all that it began, when its input does: so it ends with its parent.
"""

from __future__ import annotations

import os
import queue
import resource
import signal
import sys
import threading
from typing import IO

import msgspec

from falaj.kernel.compute import answer_where_plain, hear
from falaj.kernel.limits import ANSWER, ASKED, TOLD
from falaj.kernel.processes import peak_bytes
from falaj.kernel.taskprocess import read_frame, write_frame


def _receive(parent: IO[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    try:
        while True:
            answers.put(read_frame(parent))
    except (EOFError, OSError):
        os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run one task."""
    n_bytes, cores = int(sys.argv[1]), {int(core) for core in sys.argv[2].split(",")}
    resource.setrlimit(resource.RLIMIT_DATA, (n_bytes, n_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold rows in clear
    os.sched_setaffinity(0, cores)
    os.nice(int(os.environ.pop("FALAJ_NICE", "0")))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a task prints must not stand between the frames
    given = os.fdopen(os.dup(0), "rb")
    name, item = read_frame(given).decode(), read_frame(given)
    replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(given, replies), daemon=True).start()
    turn = threading.Lock()

    def told(what: object) -> None:
        with turn:
            write_frame(answers, TOLD + msgspec.msgpack.encode(what))

    def asked(what: object) -> object:
        with turn:
            write_frame(answers, ASKED + msgspec.msgpack.encode(what))
        return msgspec.msgpack.decode(replies.get())

    hear(told, asked)
    decoded = msgspec.msgpack.decode(item)
    del item
    answered = answer_where_plain(name, decoded)
    answered["peak_memory_bytes"] = peak_bytes()
    with turn:
        write_frame(answers, ANSWER + msgspec.msgpack.encode(answered))


if __name__ == "__main__":
    main()
