"""Blobs that are named by their content and kept encrypted.

The name of a blob is the SHA-256 of what it says, so that one that is kept twice is kept
once, a wrong byte is noticed, and a name in a lineage record proves what was meant.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.lake.ports import BlobStore
from falaj.trust.ports import KeyService
from falaj.trust.sealing import open_bytes, resealed, rewrapped, seal_bytes, sealed_under

_KEY = re.compile(r"^[A-Za-z0-9._=-]+(/[A-Za-z0-9._=-]+)*$")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")
_LONGEST_KEY = 500
_LONGEST_PART = 200
_IN_MEMORY = 16 * 2**20


def blob_key(key: str) -> str:
    """The key itself, if a blob may have it.

    Raises:
        InvalidInput: an empty, absolute or climbing key, or another character.
    """
    parts = key.split("/")
    if (
        not _KEY.match(key)
        or key.endswith("\n")
        or len(key) > _LONGEST_KEY
        or any(part.startswith(".") or len(part) > _LONGEST_PART for part in parts)
    ):
        raise InvalidInput(
            f"{key[:100]!r} cannot be the key of a blob.",
            hint="Use parts of letters, digits and ._=- joined by '/', none beginning with a dot.",
        )
    return key


def digest_of(data: bytes) -> str:
    """``sha256:`` and the hex digest of the bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class SealedBlobs:
    """Content-addressed blobs, each encrypted under a data key of its own.

    Args:
        store: where the sealed bytes lie.
        keys: wraps the data keys.
        prefix: of the keys in the store.

    Fulfils ``Rewrappable``; the items are the digests.
    """

    name = "blobs"

    def __init__(self, store: BlobStore, keys: KeyService, *, prefix: str = "sealed") -> None:
        self._store = store
        self._keys = keys
        self._prefix = prefix

    def keep(self, data: bytes) -> str:
        """Keep bytes; returns their digest, ``sha256:…``. Kept twice is kept once.

        Raises:
            LimitExceeded: the disk is full. Unavailable: the store does not answer.
        """
        digest = digest_of(data)
        key = self._key(digest)
        if not self._store.exists(key):
            self._store.put(key, seal_bytes(data, self._keys, context=_context(digest)))
        return digest

    def fetch(self, digest: str) -> bytes:
        """The bytes of that digest, proven to be them.

        Raises:
            NotFound: they were never kept. InvalidInput: no digest.
            Corrupt: the stored bytes were changed, cut, or exchanged for others.
        """
        sealed = self._store.get(self._key(digest))
        data = open_bytes(sealed, self._keys, context=_context(digest))
        if digest_of(data) != digest:
            raise Corrupt(
                f"The blob {digest} does not hold what its name says.",
                hint="Restore it from a backup; do not use it.",
            )
        return data

    def has(self, digest: str) -> bool:
        """True if a blob of that digest is kept (it may still turn out to be corrupt)."""
        return self._store.exists(self._key(digest))

    def forget(self, digest: str) -> None:
        """Delete a blob; no error if there is none."""
        self._store.delete(self._key(digest))

    def digests(self) -> Iterator[str]:
        """The digests of all kept blobs, sorted."""
        for key in self._store.list(self._prefix + "/"):
            yield "sha256:" + key.rpartition("/")[2]

    # As something to be rewrapped.

    def items(self, *, after: str = "") -> Iterator[tuple[str, str]]:
        """See ``Rewrappable.items``."""
        for digest in self.digests():
            if digest > after:
                try:
                    with closing(self._store.open(self._key(digest))) as source:
                        key_id = sealed_under(source).key_id
                except NotFound:
                    continue  # it was forgotten meanwhile
                except Corrupt:
                    key_id = ""
                yield digest, key_id

    def rewrap(self, item: str) -> bool:
        """See ``Rewrappable.rewrap``."""
        return self._replaced(item, rewrapped)

    def reseal(self, item: str) -> bool:
        """See ``Rewrappable.reseal``."""
        return self._replaced(item, resealed)

    def _replaced(self, digest: str, copy: Callable[..., None]) -> bool:
        key = self._key(digest)
        # What lies in the temporary file is sealed: not a clear byte is written.
        with SpooledTemporaryFile(_IN_MEMORY) as target:
            try:
                with closing(self._store.open(key)) as source:
                    copy(source, target, self._keys, context=_context(digest))
            except NotFound:
                return False
            target.seek(0)
            if not self._store.exists(key):  # forgotten meanwhile: it must not come back
                return False
            self._store.put(key, cast("BinaryIO", cast("Any", target)))
        return True

    def _key(self, digest: str) -> str:
        if not _DIGEST.match(digest):
            raise InvalidInput(
                f"{digest[:80]!r} is no digest of a blob.", hint="It looks like sha256:<64 hex>."
            )
        value = digest.removeprefix("sha256:")
        return f"{self._prefix}/{value[:2]}/{value}"


def _context(digest: str) -> str:
    return f"blob {digest}"
