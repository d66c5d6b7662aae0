"""Cores are lent to one run at a time, and are free again when their borrower has gone."""

import os

import pytest

from falaj.kernel.cores import lent_cores
from falaj.kernel.resources import HardwareMissing, Resources

HERE = os.sched_getaffinity(0)


def test_more_cores_than_there_are_cannot_be_had():
    with (
        pytest.raises(HardwareMissing, match=f"and this machine has {len(HERE)}"),
        lent_cores(len(HERE) + 0.5),
    ):
        pass


@pytest.mark.skipif(len(HERE) < 2, reason="there is one core")
def test_two_runs_have_different_cores_and_a_third_shares(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    half = len(HERE) / 2
    with lent_cores(half) as first, lent_cores(half) as second:
        assert not first & second
        if len(HERE) % 2 == 0:
            with lent_cores(1) as third:
                assert third == HERE
    with lent_cores(half) as again:
        assert again == first


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"gpus": 1.5}, "whole number"),
        ({"cpus": 0.0004}, "thousandth"),
        ({"workers": 2, "least_workers": 3}, "not more than workers"),
        ({"memory_bytes": 1}, "greater than or equal"),
        ({"cpus": float("nan")}, "less than or equal"),
        ({"cpus": float("inf")}, "less than or equal"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, told):
    with pytest.raises(ValueError, match=told):
        Resources(**asked)
