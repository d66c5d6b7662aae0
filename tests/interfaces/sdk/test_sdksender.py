"""The sender of metric values: in order, each once, in bounded memory, never in silence."""

import threading

import pytest

from falaj.interfaces.sdksender import MetricSender, Value, ValuesNotSent
from falaj.kernel.errors import Conflict, InvalidInput, Unavailable


class Platform:
    """Takes batches, and fails as it is told."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.taken = {}
        self.keys = []
        self.open = threading.Event()
        self.open.set()

    def send(self, values, key):
        self.open.wait()
        self.keys.append(key)
        failure = self.failures.pop(0) if self.failures else None
        if not isinstance(failure, Exception):
            self.taken.setdefault(key, list(values))  # the second time under a key does nothing
        if failure == "answer lost":
            raise Unavailable("The answer was lost.")
        if isinstance(failure, Exception):
            raise failure

    def values(self):
        return [value.value for batch in self.taken.values() for value in batch]


def some(n, start=0):
    return [Value("loss", float(i), i, 0.0) for i in range(start, start + n)]


def test_a_batch_whose_answer_was_lost_is_sent_again_under_its_key():
    platform = Platform("answer lost", Unavailable("Nobody answers."))
    sender = MetricSender(platform.send, batch=10)
    sender.add(some(25))
    sender.close()
    assert platform.values() == list(range(25))
    assert len(platform.keys) == 5
    assert len(set(platform.keys)) == 3


def test_it_gives_up_when_nobody_answers_for_long_and_says_how_many_values_lack():
    platform = Platform(*[Unavailable("Nobody answers.")] * 1_000)
    sender = MetricSender(platform.send, batch=10, patience_seconds=0.2)
    sender.add(some(3))
    with pytest.raises(ValuesNotSent, match="3 values"):
        sender.flush()
    with pytest.raises(ValuesNotSent):
        sender.add(some(1))
    with pytest.raises(ValuesNotSent):
        sender.close()


@pytest.mark.parametrize("failure", [Conflict("It has ended."), RuntimeError("a fault")])
def test_what_cannot_be_mended_is_raised_to_the_next_caller(failure):
    platform = Platform(failure)
    sender = MetricSender(platform.send, batch=2)
    sender.add(some(2))
    with pytest.raises(ValuesNotSent) as raised:
        sender.close()
    assert raised.value.__cause__ is failure
    assert len(platform.keys) == 1


def test_no_more_than_the_bound_waits_and_who_adds_more_waits_too():
    platform = Platform()
    platform.open.clear()
    sender = MetricSender(platform.send, batch=10, most_waiting=20)
    done = threading.Event()

    def add():
        sender.add(some(100))
        done.set()

    threading.Thread(target=add).start()
    assert not done.wait(0.3)
    assert len(sender._waiting) <= 20
    platform.open.set()
    assert done.wait(10)
    sender.close()
    assert platform.values() == list(range(100))


def test_a_flush_waits_for_what_was_added_before_it_alone():
    platform = Platform()
    sender = MetricSender(platform.send, batch=1_000, every_seconds=60)
    stopped = threading.Event()

    def keep_adding():
        while not stopped.is_set():
            sender.add(some(1, start=10_000))

    sender.add(some(5))
    adding = threading.Thread(target=keep_adding)
    adding.start()
    try:
        sender.flush()
        assert set(range(5)) <= set(platform.values())
    finally:
        stopped.set()
        adding.join()
        sender.close()


def test_nothing_is_added_after_the_end():
    sender = MetricSender(Platform().send)
    sender.close()
    with pytest.raises(InvalidInput):
        sender.add(some(1))
