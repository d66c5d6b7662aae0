"""What every ``BlobStore`` must do; an adapter's test inherits ``BlobStoreSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from falaj.kernel.errors import InvalidInput, NotFound
from falaj.lake.ports import BlobStore


class BlobStoreSuite:
    """Inherit it and give the fixture ``store``: an empty blob store."""

    @pytest.fixture
    def store(self) -> BlobStore:
        """An empty store."""
        raise NotImplementedError

    @pytest.mark.parametrize("size", [0, 1, 5_000_001])
    def test_bytes_come_back_as_they_were_put(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        assert store.put("a/b.bin", data) == size
        assert store.get("a/b.bin") == data
        with store.open("a/b.bin") as file:
            assert file.read(3) == data[:3]
            assert file.read() == data[3:]

    def test_a_stream_is_kept_whole(self, store: BlobStore) -> None:
        data = os.urandom(6_000_000)
        assert store.put("stream", io.BytesIO(data)) == len(data)
        assert store.get("stream") == data

    @pytest.mark.parametrize("size", [0, 1, 20_000_001])
    def test_what_is_written_in_pieces_is_there_at_the_end_and_not_before(
        self, store: BlobStore, size: int
    ) -> None:
        data = os.urandom(size)
        writer = store.create("a/piecewise")
        piece = bytearray(1_000_003)
        for first in range(0, size, len(piece)):
            n = min(len(piece), size - first)
            piece[:n] = data[first : first + n]
            writer.write(memoryview(piece)[:n])  # the buffer is used again
        assert not store.exists("a/piecewise")
        writer.finish()
        writer.abandon()
        assert store.get("a/piecewise") == data

    def test_what_is_abandoned_leaves_nothing_and_keeps_what_was_there(
        self, store: BlobStore
    ) -> None:
        store.put("k", b"old")
        for key in ("k", "new"):
            writer = store.create(key)
            writer.write(b"x" * 9_000_000)
            writer.abandon()
        assert store.get("k") == b"old"
        assert list(store.list()) == ["k"]

    @pytest.mark.parametrize("start", [0, 1, 1_500_000, 2_999_999, 3_000_000])
    def test_a_blob_is_read_from_one_of_its_bytes_on(self, store: BlobStore, start: int) -> None:
        data = os.urandom(3_000_000)
        store.put("k", data)
        with store.open("k", start=start) as file:
            assert file.read() == data[start:]

    def test_a_second_put_replaces_the_first(self, store: BlobStore) -> None:
        store.put("k", b"long old value")
        store.put("k", b"new")
        assert store.get("k") == b"new"

    def test_a_missing_blob_is_named(self, store: BlobStore) -> None:
        assert not store.exists("no/such")
        for ask in (store.get, store.open):
            with pytest.raises(NotFound, match="no/such"):
                ask("no/such")

    def test_a_deleted_blob_is_gone_and_deleting_again_is_no_error(self, store: BlobStore) -> None:
        store.put("x/y", b"1")
        assert store.exists("x/y")
        store.delete("x/y")
        store.delete("x/y")
        assert not store.exists("x/y")
        assert list(store.list()) == []

    def test_keys_are_listed_by_prefix_in_order(self, store: BlobStore) -> None:
        for key in ("b/2", "a/10", "a/1", "ab", "a/1.x/z"):
            store.put(key, b"-")
        assert list(store.list()) == ["a/1", "a/1.x/z", "a/10", "ab", "b/2"]
        assert list(store.list("a/1")) == ["a/1", "a/1.x/z", "a/10"]
        assert list(store.list("a")) == ["a/1", "a/1.x/z", "a/10", "ab"]
        assert list(store.list("zz")) == []

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/etc/passwd",
            "../up",
            "a/../../b",
            "a//b",
            "a/",
            ".hidden",
            "a\\b",
            "a\0b",
            "ü",
            "k\n",
        ],
    )
    def test_a_key_that_climbs_or_is_malformed_is_refused(self, store: BlobStore, key: str) -> None:
        for ask in (store.get, store.open, store.exists, store.delete):
            with pytest.raises(InvalidInput):
                ask(key)
        with pytest.raises(InvalidInput):
            store.put(key, b"")

    def test_a_reader_sees_the_old_bytes_or_the_new_never_a_mixture(self, store: BlobStore) -> None:
        values = [bytes([letter]) * 200_000 for letter in (65, 66)]
        store.put("shared", values[0])

        def write(number: int) -> None:
            store.put("shared", values[number % 2])

        with ThreadPoolExecutor(4) as pool:
            writing = [pool.submit(write, number) for number in range(12)]
            reading = [pool.submit(store.get, "shared") for _ in range(12)]
            assert {read.result() for read in reading} <= set(values)
            for written in writing:
                written.result()
