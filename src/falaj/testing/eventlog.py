"""What every ``EventLog`` must do; an adapter's test inherits ``EventLogSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from falaj.ingest.ports import ARROW, JSON, EventLog, Record, Share
from falaj.kernel.errors import InvalidInput, LimitExceeded

PATIENCE_SECONDS = 20.0


def all_of(log: EventLog, topic: str, partition: int = 0, *, begin: int = 0) -> list[Record]:
    """Every record of a partition from an offset on, read in small pieces."""
    found: list[Record] = []
    while begin < log.end(topic, partition):
        more = log.read(topic, partition, begin, max_bytes=1000, wait_seconds=1.0)
        if not more:
            break
        found += more
        begin = more[-1].offset + 1
    return found


def settled(share: Share, wanted: int) -> set[tuple[str, int]]:
    """What a share holds once it is that much, or when patience ends."""
    until = time.monotonic() + PATIENCE_SECONDS
    while len(share.held()) != wanted and time.monotonic() < until:
        time.sleep(0.05)
    return set(share.held())


class EventLogSuite:
    """Inherit it and give the fixtures.

    ``reopen`` opens the same log, with no records at first, and closes what it opened
    before; ``topic`` is a topic that is not there yet.
    """

    longest_bytes = 16 << 20
    """A payload longer than this is refused."""

    @pytest.fixture
    def reopen(self) -> Callable[[], EventLog]:
        """Closes what it opened before, and opens the log again."""
        raise NotImplementedError

    @pytest.fixture
    def topic(self) -> str:
        """A topic that is not there yet."""
        return "payments"

    @pytest.fixture
    def log(self, reopen: Callable[[], EventLog]) -> EventLog:
        """The log, open."""
        return reopen()

    def test_records_come_back_in_order_with_what_was_said_of_them(
        self, log: EventLog, topic: str
    ) -> None:
        last = log.append(topic, [b"one", b""], media=ARROW)
        assert log.append(topic, [b"three"], media=JSON, mark="ü 3") > last
        found = all_of(log, topic)
        assert [record.payload for record in found] == [b"one", b"", b"three"]
        assert [record.media for record in found] == [ARROW, ARROW, JSON]
        assert [record.mark for record in found] == [None, None, "ü 3"]
        assert found[1].offset == last
        assert [record.offset for record in found] == sorted({r.offset for r in found})
        assert {record.partition for record in found} == {0}
        assert abs(found[0].appended_at / 1e6 - time.time()) < 3600

    def test_an_empty_topic_has_one_partition_and_nothing_to_read(
        self, log: EventLog, topic: str
    ) -> None:
        assert log.partitions(topic) == 1
        assert log.begin(topic, 0) == log.end(topic, 0)
        assert log.read(topic, 0, 0) == []

    def test_what_was_appended_is_there_after_reopening(
        self, reopen: Callable[[], EventLog], topic: str
    ) -> None:
        reopen().append(topic, [b"kept"], media=JSON)
        log = reopen()
        log.append(topic, [b"and more"], media=JSON)
        assert [record.payload for record in all_of(log, topic)] == [b"kept", b"and more"]
        kept = all_of(log, topic)
        assert all_of(reopen(), topic) == kept

    def test_a_read_begins_where_it_is_asked_to_and_ends_at_its_size(
        self, log: EventLog, topic: str
    ) -> None:
        log.append(topic, [b"%03d" % number * 100 for number in range(30)], media=JSON)
        every = all_of(log, topic)
        assert [record.payload[:3] for record in every] == [b"%03d" % n for n in range(30)]
        some = log.read(topic, 0, every[7].offset, max_bytes=700, wait_seconds=1.0)
        assert some[0] == every[7]
        assert 1 <= len(some) <= 3
        one = log.read(topic, 0, every[9].offset, max_bytes=1, wait_seconds=1.0)
        assert one == [every[9]]

    def test_a_read_waits_for_the_first_record(self, log: EventLog, topic: str) -> None:
        log.append(topic, [b"first"], media=JSON)
        end = log.end(topic, 0)
        assert log.read(topic, 0, end, wait_seconds=0.05) == []
        late = threading.Timer(0.1, lambda: log.append(topic, [b"late"], media=JSON))
        late.start()
        found = log.read(topic, 0, end, wait_seconds=PATIENCE_SECONDS)
        late.join()
        assert [record.payload for record in found] == [b"late"]

    def test_partitions_are_apart(self, log: EventLog, topic: str) -> None:
        log.ensure(topic, 3)
        log.ensure(topic, 5)  # it is there: nothing changes
        assert log.partitions(topic) == 3
        for number in range(3):
            log.append(topic, [b"%d" % number], media=JSON, partition=number)
        for number in range(3):
            (found,) = all_of(log, topic, number)
            assert (found.payload, found.partition) == (b"%d" % number, number)
        with pytest.raises(InvalidInput):
            log.append(topic, [b"x"], media=JSON, partition=3)

    def test_a_record_that_is_too_long_is_refused_and_nothing_is_added(
        self, log: EventLog, topic: str
    ) -> None:
        log.append(topic, [b"before"], media=JSON)
        with pytest.raises(LimitExceeded) as refused:
            log.append(topic, [b"x" * (self.longest_bytes + 1)], media=JSON)
        assert refused.value.hint
        log.append(topic, [b"after"], media=JSON)
        assert [record.payload for record in all_of(log, topic)] == [b"before", b"after"]

    def test_a_long_record_comes_back_whole(self, log: EventLog, topic: str) -> None:
        long = bytes(range(256)) * 3000
        log.append(topic, [b"a", long, b"b"], media=ARROW)
        assert [record.payload for record in all_of(log, topic)] == [b"a", long, b"b"]

    def test_many_appenders_lose_nothing_and_keep_their_own_order(
        self, log: EventLog, topic: str
    ) -> None:
        def work(name: int) -> None:
            for number in range(25):
                log.append(topic, [b"%d %d" % (name, number)], media=JSON)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = [record.payload.split() for record in all_of(log, topic)]
        assert len(found) == 100
        for name in range(4):
            mine = [int(number) for who, number in found if int(who) == name]
            assert mine == list(range(25))

    def test_what_was_released_may_be_gone_and_the_rest_stays(
        self, log: EventLog, topic: str
    ) -> None:
        log.append(topic, [b"%d" % number for number in range(10)], media=JSON)
        every = all_of(log, topic)
        log.release(topic, 0, every[5].offset)
        assert log.begin(topic, 0) <= every[5].offset
        kept = all_of(log, topic, begin=log.begin(topic, 0))
        assert kept[-5:] == every[5:]
        log.append(topic, [b"more"], media=JSON)
        assert all_of(log, topic, begin=every[9].offset)[-1].payload == b"more"

    def test_a_share_of_one_is_everything_and_two_halve_it(self, log: EventLog, topic: str) -> None:
        log.ensure(topic, 4)
        every = {(topic, number) for number in range(4)}
        first = log.share("workers", [topic])
        assert settled(first, 4) == every
        second = log.share("workers", [topic])
        until = time.monotonic() + PATIENCE_SECONDS
        while (len(first.held()), len(second.held())) != (2, 2) and time.monotonic() < until:
            time.sleep(0.05)
        assert set(first.held()) | set(second.held()) == every
        assert not set(first.held()) & set(second.held())
        first.close()
        assert settled(second, 4) == every
        second.close()

    def test_groups_are_apart(self, log: EventLog, topic: str) -> None:
        log.ensure(topic, 1)
        one, other = log.share("one", [topic]), log.share("other", [topic])
        assert settled(one, 1) == settled(other, 1) == {(topic, 0)}
        one.close()
        other.close()
