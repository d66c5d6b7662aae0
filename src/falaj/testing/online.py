"""What every ``OnlineStore`` must do; an adapter's test inherits ``OnlineStoreSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from falaj.features.order import order_of
from falaj.features.ports import Merge, OnlineStore, Write
from falaj.kernel.errors import LimitExceeded


def row(event_time: int, body: bytes = b"", *, recorded_at: int = 0) -> bytes:
    """A stored row of that order."""
    return order_of(event_time, recorded_at) + body


class OnlineStoreSuite:
    """Inherit it and give the fixture ``reopen``: opens the same, at first empty, store."""

    @pytest.fixture
    def reopen(self) -> Callable[[], OnlineStore]:
        """Closes what it opened before, and opens the store again."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, reopen: Callable[[], OnlineStore]) -> OnlineStore:
        """The empty store."""
        return reopen()

    def test_rows_come_back_in_the_order_asked_with_none_where_there_is_none(
        self, store: OnlineStore
    ) -> None:
        written = store.write(Write(newer=[(b"a", row(1, b"one")), (b"b", row(-5, b"\0" * 9))]))
        assert (written.applied, written.n_rows, written.n_older) == (True, 2, 0)
        assert store.read([b"b", b"x", b"a", b"b"]) == [
            row(-5, b"\0" * 9), None, row(1, b"one"), row(-5, b"\0" * 9),
        ]  # fmt: skip
        assert store.read([]) == []

    def test_a_late_event_never_overwrites_a_newer_value(self, store: OnlineStore) -> None:
        store.write(Write(newer=[(b"k", row(10, b"new"))]))
        written = store.write(Write(newer=[(b"k", row(9, b"late")), (b"k", row(-9, b"later"))]))
        assert (written.n_rows, written.n_older) == (0, 2)
        assert store.read([b"k"]) == [row(10, b"new")]

    def test_a_correction_at_the_same_event_time_replaces_by_recorded_at(
        self, store: OnlineStore
    ) -> None:
        store.write(Write(newer=[(b"k", row(10, b"first", recorded_at=11))]))
        store.write(Write(newer=[(b"k", row(10, b"second", recorded_at=12))]))
        store.write(Write(newer=[(b"k", row(10, b"stale", recorded_at=11))]))
        assert store.read([b"k"]) == [row(10, b"second", recorded_at=12)]

    def test_of_equal_orders_the_last_written_stays(self, store: OnlineStore) -> None:
        store.write(Write(newer=[(b"k", row(10, b"first")), (b"k", row(10, b"second"))]))
        assert store.read([b"k"]) == [row(10, b"second")]

    def test_a_merge_sees_what_is_stored_and_can_remove(self, store: OnlineStore) -> None:
        store.write(Write(newer=[(b"a", row(1, b"1")), (b"b", row(1, b"2"))]))
        seen: list[Sequence[bytes | None]] = []

        def change(stored: Sequence[bytes | None]) -> list[bytes | None]:
            seen.append(stored)
            return [None, row(2, b"3"), row(1, b"4")]

        store.write(Write(merges=[Merge([b"a", b"b", b"c"], change)]))
        assert list(seen[-1]) == [row(1, b"1"), row(1, b"2"), None]
        assert store.read([b"a", b"b", b"c"]) == [None, row(2, b"3"), row(1, b"4")]

    def test_what_a_merge_has_read_tells_step_by_step_which_further_rows_it_needs(
        self, store: OnlineStore
    ) -> None:
        chain = [(b"a", row(1, b"b")), (b"b", row(1, b"c")), (b"c", row(1, b"one"))]
        store.write(Write(newer=chain))

        def more(stored: Sequence[bytes | None]) -> list[bytes]:
            if len(stored) == 4:
                return []
            last = (stored[-1] or b"")[24:]
            return [last] if len(stored) == 1 else [last, b"new"]

        def change(stored: Sequence[bytes | None]) -> list[bytes | None]:
            first, second, third, new = stored
            assert (first, second, new) == (row(1, b"b"), row(1, b"c"), None)
            assert third is not None
            return [None, second, row(2, third[24:] + b"+"), row(2, b"made")]

        store.write(Write(merges=[Merge([b"a"], change, more)]))
        assert store.read([b"a", b"b", b"c", b"new"]) == [
            None, row(1, b"c"), row(2, b"one+"), row(2, b"made"),
        ]  # fmt: skip

    def test_many_rows_in_any_order_are_each_put_if_newer(self, store: OnlineStore) -> None:
        n = 3_000
        old = [(b"%05d" % i, row(10, b"old")) for i in range(0, n, 3)]
        store.write(Write(newer=old[::-1]))
        new = [(b"%05d" % (i * 7 % n), row(9 + i * 7 % n % 2 * 2, b"new")) for i in range(n)]
        written = store.write(Write(newer=[*new, (b"%05d" % 1, row(10, b"late"))]))
        rows = store.read([b"%05d" % i for i in range(n)])
        wanted = [
            row(10, b"old") if i % 3 == 0 and i % 2 == 0 else row(9 + i % 2 * 2, b"new")
            for i in range(n)
        ]
        assert rows == wanted
        assert written.n_older == n // 6 + 1
        assert written.n_rows == n - n // 6

    def test_a_write_that_was_applied_once_changes_nothing_again(
        self, reopen: Callable[[], OnlineStore]
    ) -> None:
        def grow(stored: Sequence[bytes | None]) -> list[bytes | None]:
            return [(stored[0] or row(0)) + b"+"]

        write = Write(merges=[Merge([b"k"], grow)], once=b"batch 1")
        assert reopen().write(write).applied
        assert not reopen().write(write).applied
        assert reopen().write(Write(merges=[Merge([b"k"], grow)], once=b"batch 2")).applied
        assert reopen().read([b"k"]) == [row(0, b"++")]

    def test_a_write_that_fails_leaves_nothing_behind(self, store: OnlineStore) -> None:
        def broken(_: Sequence[bytes | None]) -> list[bytes | None]:
            raise RuntimeError("broken")

        write = Write(newer=[(b"a", row(1))], merges=[Merge([b"b"], broken)], once=b"m")
        with pytest.raises(RuntimeError):
            store.write(write)
        with pytest.raises(LimitExceeded):
            store.write(Write(newer=[(b"a", row(1)), (b"k" * 512, row(1))], once=b"m"))
        with pytest.raises(LimitExceeded):
            store.write(Write(merges=[Merge([b"a", b""], lambda _: [row(1), row(1)])], once=b"m"))
        assert store.read([b"a", b"b"]) == [None, None]
        assert list(store.keys(b"")) == []
        assert store.write(Write(newer=[(b"a", row(1))], once=b"m")).applied

    def test_a_key_may_be_as_long_as_promised_and_a_row_longer(self, store: OnlineStore) -> None:
        key, long = b"k" * 511, row(1, b"x" * 300_000)
        store.write(Write(newer=[(key, long)]))
        assert store.read([key]) == [long]

    def test_keys_are_found_by_prefix_and_forgotten(self, store: OnlineStore) -> None:
        store.write(Write(newer=[(key, row(1)) for key in (b"a1", b"b", b"a", b"a\xff", b"a2")]))
        assert list(store.keys(b"a")) == [b"a", b"a1", b"a2", b"a\xff"]
        assert store.forget([b"a1", b"zz", b"a"]) == 2
        assert list(store.keys(b"")) == [b"a2", b"a\xff", b"b"]

    def test_what_was_written_is_there_after_reopening(
        self, reopen: Callable[[], OnlineStore]
    ) -> None:
        reopen().write(Write(newer=[(b"k", row(1, b"kept"))]))
        assert reopen().read([b"k"]) == [row(1, b"kept")]

    def test_readers_see_whole_writes_and_never_go_back(self, store: OnlineStore) -> None:
        keys = [b"a", b"b", b"c"]
        stop, wrong = threading.Event(), list[str]()

        def read() -> None:
            newest = row(0)
            while not stop.is_set():
                rows = store.read(keys)
                if len(set(rows)) != 1:
                    wrong.append(f"torn: {rows}")
                if rows[0] is not None:
                    if rows[0] < newest:
                        wrong.append("went back")
                    newest = rows[0]

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for number in range(1, 60):
                body = row(number, bytes([number]) * 5_000)
                store.write(Write(newer=[(key, body) for key in keys]))
                if store.read([b"b"]) != [body]:
                    wrong.append("did not read its own write")
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert not wrong

    def test_merges_of_many_writers_lose_nothing(self, store: OnlineStore) -> None:
        def count(stored: Sequence[bytes | None]) -> list[bytes | None]:
            n = int((stored[0] or row(0, b"0"))[24:])
            return [row(0, str(n + 1).encode())]

        def work() -> None:
            for _ in range(20):
                store.write(Write(merges=[Merge([b"n"], count)]))

        writers = [threading.Thread(target=work) for _ in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert store.read([b"n"]) == [row(0, b"60")]
