"""The process that runs tasks for ``compute_local``: one after the other, until it is let go.

``python -m falaj.kernel.taskprocess BYTES`` reads tasks from its standard input and writes
answers to its standard output. Both carry frames, eight bytes of length and then bytes: a
task is two, its name and its item (MessagePack), an answer is one. It ends when its input
ends, also in the middle of a task: so it ends with its parent.
"""

from __future__ import annotations

import os
import queue
import resource
import struct
import sys
import threading
from typing import IO

from falaj.kernel.compute import packed_answer

_LENGTH = struct.Struct("<Q")


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Write one frame; raises OSError if nobody reads any more."""
    stream.write(_LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """The next frame; raises EOFError if the stream ends before or within it."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _received(stream: IO[bytes], tasks: queue.SimpleQueue[tuple[str, bytes]]) -> None:
    try:
        while True:
            tasks.put((read_frame(stream).decode(), read_frame(stream)))
    except (EOFError, OSError):
        os._exit(0)  # the parent has gone, or wants no more; nothing is half written here


def main() -> None:
    """Run tasks until standard input ends."""
    limit = int(sys.argv[1])
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a task prints must not stand between the frames
    tasks: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
    given = os.fdopen(os.dup(0), "rb")
    threading.Thread(target=_received, args=(given, tasks), daemon=True).start()
    while True:
        name, item = tasks.get()
        write_frame(answers, packed_answer(name, item))


if __name__ == "__main__":
    main()
