from __future__ import annotations

import pytest

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.lake.adapters.blobs_local import LocalBlobs
from falaj.lake.blobs import SealedBlobs, digest_of


@pytest.fixture
def store(tmp_path):
    return LocalBlobs(tmp_path / "blobs")


@pytest.fixture
def sealed(store, keys):
    return SealedBlobs(store, keys)


@pytest.mark.parametrize("data", [b"", b"x", b"water" * 400_000])
def test_a_kept_blob_is_fetched_by_its_digest(sealed, data):
    digest = sealed.keep(data)
    assert digest == digest_of(data)
    assert sealed.fetch(digest) == data
    assert sealed.has(digest)


def test_the_store_holds_nothing_in_clear(sealed, store):
    sealed.keep(b"Amina bint Saif " * 100)
    (key,) = store.list()
    assert b"Amina" not in store.get(key)


def test_a_blob_that_is_kept_twice_is_kept_once(sealed, store):
    digest = sealed.keep(b"model")
    (key,) = store.list()
    first = store.get(key)
    assert sealed.keep(b"model") == digest
    assert store.get(key) == first
    assert list(sealed.digests()) == [digest]


def test_every_tampered_byte_is_noticed(sealed, store):
    digest = sealed.keep(b"model")
    (key,) = store.list()
    good = store.get(key)
    for place in range(0, len(good), 7):
        bad = bytearray(good)
        bad[place] ^= 1
        store.put(key, bytes(bad))
        with pytest.raises(Corrupt):
            sealed.fetch(digest)
    store.put(key, good[:-1])
    with pytest.raises(Corrupt):
        sealed.fetch(digest)


def test_a_blob_put_under_the_name_of_another_is_noticed(sealed, store):
    one, two = sealed.keep(b"one"), sealed.keep(b"two")
    keys = {key.rpartition("/")[2]: key for key in store.list()}
    store.put(keys[one[7:]], store.get(keys[two[7:]]))
    with pytest.raises(Corrupt):
        sealed.fetch(one)


def test_a_forgotten_blob_is_gone(sealed):
    digest = sealed.keep(b"x")
    sealed.forget(digest)
    assert not sealed.has(digest)
    with pytest.raises(NotFound):
        sealed.fetch(digest)


@pytest.mark.parametrize("digest", ["", "sha256:../..", "md5:" + "0" * 64, "sha256:" + "G" * 64])
def test_what_is_no_digest_is_refused(sealed, digest):
    with pytest.raises(InvalidInput):
        sealed.fetch(digest)
