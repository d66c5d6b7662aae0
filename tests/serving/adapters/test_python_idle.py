"""What a process uses while it is asked nothing: measured on real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from falaj.serving.adapters.python_idle import IdleUse


@contextmanager
def process(text: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE)
    try:
        assert started.stdout is not None
        started.stdout.readline()
        yield started
    finally:
        started.kill()
        started.communicate()


def test_a_busy_process_is_seen_and_what_it_does_in_a_call_is_not_counted() -> None:
    with process("print(1, flush=True)\nwhile True: pass") as busy:
        use = IdleUse(busy.pid)
        until = time.monotonic() + 20
        while use.look() < 0.1:
            assert time.monotonic() < until
            time.sleep(0.01)
        seen = use.seconds
        time.sleep(0.2)
        use.rest()
        assert use.look() < seen + 0.1


def test_a_process_at_rest_uses_nothing_and_its_past_is_forgotten() -> None:
    with process("import time\nprint(1, flush=True)\ntime.sleep(60)") as resting:
        use = IdleUse(resting.pid)
        use.seconds = 0.01
        time.sleep(0.3)
        assert use.look() < 0.01
        assert use.more_threads() == 0


def test_a_process_that_has_ended_uses_nothing() -> None:
    with process("print(1, flush=True)") as ended:
        use = IdleUse(ended.pid)
    assert use.look() == 0.0
    assert use.more_threads() == 0
