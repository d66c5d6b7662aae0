from __future__ import annotations

import threading

from falaj.testing.installations import eventually
from falaj.wiring.seldom import Beside


def test_a_chore_beside_keeps_nobody_waiting_and_is_done_once_at_a_time() -> None:
    gate, begun = threading.Event(), list[int]()

    def chore() -> None:
        begun.append(1)
        gate.wait(20)

    beside = Beside(chore, name="test")
    beside()
    beside()
    eventually(lambda: begun == [1])
    gate.set()

    def again() -> bool:
        beside()
        return len(begun) > 1

    eventually(again)
