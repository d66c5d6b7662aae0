"""Pushers and workers are killed in the middle: nothing is lost, nothing counts twice."""

import pytest

from falaj.testing.streamprocesses import StreamKillSuite, on_segments


class TestKillsOnTheEmbeddedLog(StreamKillSuite):
    @pytest.fixture
    def log_program(self):
        return on_segments()

    @pytest.mark.nightly
    @pytest.mark.timeout(1200)
    def test_many_kills_lose_nothing_and_count_nothing_twice(self, tmp_path, log_program):
        self.survives(tmp_path, log_program, 200)
