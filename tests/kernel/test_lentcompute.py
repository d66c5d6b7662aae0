"""A compute that jobs borrow is started once, and stopped when nobody has needed it for a while."""

import pytest

from falaj.kernel import lentcompute
from falaj.kernel.lentcompute import LentCompute
from falaj.testing.compute import HereCompute, doubled


class Started(HereCompute):
    """Counts how many were started and closed."""

    begun = 0
    closed = 0

    def __init__(self):
        super().__init__()
        type(self).begun += 1

    def close(self):
        type(self).closed += 1


@pytest.fixture
def now(monkeypatch):
    Started.begun = Started.closed = 0
    at = [0.0]
    monkeypatch.setattr(lentcompute, "monotonic", lambda: at[0])
    return at


def test_borrowers_share_one_and_it_is_stopped_after_some_time(now):
    lender = LentCompute(Started, 300.0)
    first, second = lender.opened(), lender.opened()
    assert next(iter(first.ordered(doubled, [{"n": 1}])))["twice"] == 2
    first.close()
    first.close()  # a second time gives nothing back
    now[0] = 1000.0
    assert not lender.stop_if_idle(), "somebody has it still"
    second.close()
    now[0] = 1299.0
    assert not lender.stop_if_idle()
    now[0] = 1300.0
    assert lender.stop_if_idle()
    assert (Started.begun, Started.closed) == (1, 1)
    lender.opened().close()
    assert Started.begun == 2


def test_without_a_time_to_wait_it_is_stopped_when_it_is_given_back(now):
    lender = LentCompute(Started, 0.0)
    lender.opened().close()
    assert (Started.begun, Started.closed) == (1, 1)


def test_closing_stops_it_though_it_is_lent(now):
    lender = LentCompute(Started, 300.0)
    lent = lender.opened()
    lender.close()
    lent.close()
    assert Started.closed == 1
