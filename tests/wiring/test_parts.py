"""Parts and services are made late, and once."""

import threading
import time

import pytest

from falaj.kernel.actions import Service, action
from falaj.kernel.door import Services
from falaj.wiring.parts import part

N_THREADS = 8


class House:
    """Something with a part that takes a while to make."""

    def __init__(self):
        self.making = threading.RLock()
        self.made = []

    @part
    def door(self):
        """The door."""
        time.sleep(0.01)
        self.made.append("door")
        return object()

    @part
    def wall(self):
        """The wall, which holds the door."""
        return [self.door]


class Late(Service):
    """A service that is made when it is needed."""

    name = "late"

    @action(get="/late")
    def look(self) -> str:
        """Look."""
        return "late"


def at_once(work):
    found = []
    threads = [threading.Thread(target=lambda: found.append(work())) for _ in range(N_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_that_ask_at_once_get_the_same_part():
    house = House()
    assert len({id(found) for found in at_once(lambda: house.door)}) == 1
    assert house.made == ["door"]


def test_a_part_may_be_made_of_parts():
    house = House()
    assert house.wall == [house.door]


def test_a_part_tells_what_it_is():
    assert House.door.__doc__ == "The door."


def test_a_service_is_made_once_and_not_before_it_is_asked_for():
    made = []

    def make():
        time.sleep(0.01)
        made.append(Late())
        return made[-1]

    services = Services(makers={Late: make})
    assert list(services.actions) == ["late.look"]
    assert made == []
    assert len({id(found) for found in at_once(lambda: services.named("late"))}) == 1
    assert len(made) == 1


def test_a_service_that_could_not_be_made_is_tried_again():
    attempts = iter([OSError("no disk"), None])

    def make():
        error = next(attempts)
        if error:
            raise error
        return Late()

    services = Services(makers={Late: make})
    with pytest.raises(OSError, match="no disk"):
        services.named("late")
    assert isinstance(services.named("late"), Late)
