from __future__ import annotations

import sys

import pytest

from falaj.serving.yielding import yielding


def test_other_threads_get_the_lock_soon_until_the_last_of_those_inside_has_left() -> None:
    usual = sys.getswitchinterval()
    first, second = yielding(), yielding()
    first.__enter__()
    second.__enter__()
    assert sys.getswitchinterval() < usual
    first.__exit__(None, None, None)
    assert sys.getswitchinterval() < usual
    second.__exit__(None, None, None)
    assert sys.getswitchinterval() == usual


def test_what_fails_inside_leaves_the_usual_interval_behind() -> None:
    usual = sys.getswitchinterval()
    with pytest.raises(ZeroDivisionError), yielding():
        1 / 0  # noqa: B018
    assert sys.getswitchinterval() == usual
