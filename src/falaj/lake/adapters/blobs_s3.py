"""Blobs in S3 and whatever speaks its protocol, through obstore."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any, BinaryIO, cast

from falaj.kernel.errors import FalajError, Forbidden, NotFound, Unavailable
from falaj.lake.blobs import blob_key

_ONE_PART = 5 * 2**20
_PIECE = 2**20
_PART = 8 * 2**20
"""10,000 parts are the most: so an object has up to 80 GB."""
_PARTS_AT_ONCE = 3


class S3Blobs:
    """A ``BlobStore`` in a bucket.

    Args:
        bucket: its name; it must exist.
        prefix: of all keys in the bucket.
        access_key, secret_key: the credentials.
        endpoint: the server's URL, where it is not Amazon's.
        region: of the bucket.
        timeout_seconds: of one request; a failing one is repeated within three times that.

    Raises:
        Unavailable: the package obstore is not installed.
    """

    def __init__(
        self,
        bucket: str,
        *,
        prefix: str = "",
        access_key: str,
        secret_key: str,
        endpoint: str | None = None,
        region: str = "us-east-1",
        timeout_seconds: float = 30.0,
    ) -> None:
        try:
            from obstore.store import S3Store
        except ModuleNotFoundError:
            raise Unavailable(
                "Blobs in S3 need the Python package obstore.",
                hint="Install it with `pip install 'falaj[s3]'`.",
            ) from None
        self._name = f"s3://{bucket}"
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        seconds = f"{timeout_seconds:g}s"
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        self._store = S3Store(
            bucket,
            region=region,
            access_key_id=access_key,
            secret_access_key=secret_key,
            client_options={
                "timeout": seconds,
                "connect_timeout": seconds,
                "allow_http": bool(endpoint and endpoint.startswith("http://")),
            },
            retry_config=cast(
                "Any", {"max_retries": 3, "retry_timeout": _duration(3 * timeout_seconds)}
            ),
            **options,
        )

    def put(self, key: str, data: bytes | BinaryIO) -> int:
        """See ``BlobStore.put``."""
        if isinstance(data, bytes):
            self._asked("put", key, data)
            return len(data)
        with tempfile.TemporaryFile() as copy:  # the protocol wants to know the size and to seek
            size = _copied(data, copy)
            if size <= _ONE_PART:
                self._asked("put", key, copy.read())
            else:
                self._asked("put", key, copy)
        return size

    def create(self, key: str) -> S3Writer:
        """See ``BlobStore.create``."""
        return S3Writer(self, self._prefix + blob_key(key), key)

    def get(self, key: str) -> bytes:
        """See ``BlobStore.get``."""
        return bytes(self._asked("get", key).bytes())

    def open(self, key: str, *, start: int = 0) -> BinaryIO:
        """See ``BlobStore.open``."""
        if start and start >= self._asked("head", key)["size"]:
            return io.BytesIO()  # the protocol refuses a range of nothing
        found = (
            self._asked("get", key, options={"range": {"offset": start}})
            if start
            else self._asked("get", key)
        )
        return io.BufferedReader(_Chunks(iter(found.stream(min_chunk_size=_PIECE))), _PIECE)

    def exists(self, key: str) -> bool:
        """See ``BlobStore.exists``."""
        try:
            self._asked("head", key)
        except NotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        """See ``BlobStore.delete``."""
        try:
            self._asked("delete", key)
        except NotFound:
            return

    def list(self, prefix: str = "") -> Iterator[str]:
        """See ``BlobStore.list``."""
        whole = self._prefix + prefix
        folder = whole.rpartition("/")[0]  # the store matches whole parts of a key only
        try:
            found = [entry["path"] for batch in self._store.list(folder or None) for entry in batch]
        except Exception as error:
            raise self.told(error, prefix) from error
        yield from sorted(
            path.removeprefix(self._prefix) for path in found if path.startswith(whole)
        )

    def sweep(self, before: datetime) -> int:
        """See ``BlobStore.sweep``: the bucket's own rule for unfinished uploads does it."""
        del before
        return 0

    def _asked(self, verb: str, key: str, *arguments: Any, **options: Any) -> Any:
        path = self._prefix + blob_key(key)
        try:
            return getattr(self._store, verb)(path, *arguments, **options)
        except Exception as error:
            raise self.told(error, key) from error

    def writer(self, path: str) -> Any:
        """What sends bytes in parts; ``path`` is a key with the prefix."""
        from obstore import open_writer

        return open_writer(self._store, path, buffer_size=_PART, max_concurrency=_PARTS_AT_ONCE)

    def told(self, error: Exception, key: str) -> FalajError:
        """An error of the store as one of ours."""
        from obstore import exceptions

        if isinstance(error, FileNotFoundError | exceptions.NotFoundError):
            return NotFound(f"There is no blob {key!r}.", hint="It was never kept, or was deleted.")
        if isinstance(
            error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
        ) or any(sign in str(error) for sign in ("AccessDenied", "InvalidAccessKeyId")):
            return Forbidden(
                f"{self._name} refuses these credentials.",
                hint="Check the settings s3_access_key and s3_secret_key and the bucket's policy.",
            )
        return Unavailable(
            f"{self._name} does not answer: {type(error).__name__}.",
            hint="See `falaj doctor`; the call may be repeated.",
        )


class S3Writer:
    """See ``BlobWriter``; the bytes are sent in parts of 8 MiB, of which few wait in memory.

    The object is there when the last part and the word that ends it were taken. Parts of an
    upload that was given up lie unseen in the bucket until its own rule removes them.
    """

    def __init__(self, store: S3Blobs, path: str, key: str) -> None:
        self._store = store
        self._key = key
        self._to: Any = store.writer(path)

    def write(self, data: bytes | memoryview, /) -> int:
        """See ``BlobWriter.write``."""
        try:
            self._to.write(bytes(data))  # it keeps no copy of its own until a part is sent
        except Exception as error:
            raise self._store.told(error, self._key) from error
        return len(data)

    def finish(self) -> None:
        """See ``BlobWriter.finish``."""
        try:
            self._to.close()
        except Exception as error:
            raise self._store.told(error, self._key) from error
        self._to = None

    def abandon(self) -> None:
        """See ``BlobWriter.abandon``."""
        self._to = None


def _copied(source: BinaryIO, target: IO[bytes]) -> int:
    shutil.copyfileobj(source, target, 1 << 20)
    size = target.tell()
    target.seek(0)
    return size


class _Chunks(io.RawIOBase):
    """A stream of pieces as a file."""

    def __init__(self, pieces: Iterator[Any]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = bytes(piece)
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def _duration(seconds: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=seconds)
