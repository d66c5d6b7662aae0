"""``KmsWrapping``: wrapping keys in AWS KMS, asked over HTTPS with signed requests.

A version of the wrapping key is a symmetric key of KMS under an alias of ours,
``alias/<prefix>-wrapping-v3``. (KMS's own rotation keeps a key's id and re-encrypts
nothing; a version of ours is a key of its own, which can be destroyed.) The context is
authenticated as KMS's encryption context, as a hash: KMS writes it into its trail.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import os
import re
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from falaj.kernel.clock import Clock, monotonic
from falaj.kernel.errors import ComponentRefused, Corrupt, FalajError, InvalidInput, Unavailable
from falaj.trust.adapters.sigv4 import Credentials, signed_headers
from falaj.trust.keys import AES, still_active
from falaj.trust.ports import WRAPPING, KeyState, KeyVersion, UnknownKey, WrappedKey

_SERVICE = "kms"
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,39}")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-\d")
_SILENT_SECONDS = 1.0
_LISTED_SECONDS = 5.0
"""So long is it believed which version is the newest, so that a wrap is one question."""
_DESTROYED_AFTER_DAYS = 7
"""The least that KMS permits; until then a destroyed version can be called back there."""
_GONE = frozenset({"NotFoundException", "DisabledException", "KMSInvalidStateException"})
_WRONG = frozenset({"InvalidCiphertextException", "IncorrectKeyException", "ValidationException"})
_BUSY = frozenset(
    {"ThrottlingException", "KMSInternalException", "DependencyTimeoutException",
     "LimitExceededException", "ServiceUnavailable", "KeyUnavailableException"}
)  # fmt: skip


@dataclass(frozen=True)
class KmsPlace:
    """Which KMS, and who asks."""

    region: str
    prefix: str
    endpoint: str
    credentials: Credentials = field(repr=False)
    ca_file: Path | None = None
    timeout_seconds: float = 5.0

    @classmethod
    def of(cls, url: str, *, credentials: Credentials, **more: Any) -> KmsPlace:
        """The KMS that ``awskms://me-central-1?prefix=falaj&endpoint=https://…`` names.

        Raises:
            InvalidInput: it is no such URL, or there are no credentials.
        """
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        region, prefix = parts.netloc, options.get("prefix", "falaj")
        endpoint = options.get("endpoint", f"https://kms.{region}.amazonaws.com")
        if (
            parts.scheme != "awskms"
            or not _REGION.fullmatch(region)
            or parts.path not in ("", "/")
            or not options.keys() <= {"prefix", "endpoint"}
            or not _PREFIX.fullmatch(prefix)
            or not re.fullmatch(r"https://[A-Za-z0-9.-]+(:\d{1,5})?", endpoint)
        ):
            raise InvalidInput(
                f"The setting keys = {url!r} names no KMS.",
                hint="Use `awskms://region?prefix=falaj`; an endpoint is asked over https alone.",
            )
        if not credentials.access_key or not credentials.secret_key:
            raise InvalidInput(
                "KMS needs an access key and a secret key.",
                hint="Set FALAJ_KEY_SERVICE__ACCESS_KEY and FALAJ_KEY_SERVICE__SECRET_KEY.",
            )
        return cls(region, prefix, endpoint, credentials, **more)


class _Refused(Exception):
    """KMS says no, by the name of an exception."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class KmsWrapping:
    """The ``WrappingKeys`` of AWS KMS. Safe from many threads and after a fork.

    Args:
        place: which KMS, and who asks. Nothing is asked before the first use.
        lock_file: held while a version is made, so that two processes do not make one each.
        clock: stamps requests: KMS takes five minutes' difference.
    """

    def __init__(self, place: KmsPlace, *, lock_file: Path, clock: Clock) -> None:
        self._place = place
        self._lock_file = lock_file
        self._clock = clock
        self._lock = threading.RLock()
        self._client: httpx.Client | None = None
        self._pid = 0
        self._silent_until = 0.0
        self._newest: tuple[float, int] = (0.0, 0)

    def __repr__(self) -> str:
        return f"KmsWrapping({self._place.region}, {self._place.prefix})"

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``; the first one makes the key."""
        number = self._active()
        key_id = self._id(number)
        document = {
            "KeyId": self._alias(number),
            "Plaintext": _text(data_key),
            "EncryptionContext": _context(key_id, context),
        }
        return WrappedKey(key_id, _bytes(self._asked("Encrypt", document)["CiphertextBlob"]))

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        number = self._number(wrapped.key_id)
        if not wrapped.value:
            raise _changed(context)
        document = {
            "KeyId": self._alias(number),
            "CiphertextBlob": _text(wrapped.value),
            "EncryptionContext": _context(wrapped.key_id, context),
        }
        try:
            return _bytes(self._ask("Decrypt", document)["Plaintext"])
        except _Refused as refused:
            if refused.code in _GONE:
                raise _unknown(wrapped.key_id) from None
            if refused.code in _WRONG:
                raise _changed(context) from None
            raise self._told(refused) from None

    def rotate(self) -> KeyVersion:
        """See ``KeyService.rotate``, of the wrapping key."""
        self._active()
        return self._made()

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``, of the wrapping key."""
        held = self._held()
        return [
            KeyVersion(
                self._id(number),
                WRAPPING,
                number,
                AES,
                datetime.fromtimestamp(float(held[number].get("CreationDate") or 0), UTC),
                KeyState.ACTIVE if number == max(held) else KeyState.RETIRED,
            )
            for number in sorted(held)
        ]

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``: it opens nothing any more, and is gone in seven days."""
        number = self._number(key_id)
        held = self._held()
        if number not in held:
            raise _unknown(key_id)
        if number == max(held):
            raise still_active(key_id)
        target = {
            "KeyId": held[number]["TargetKeyId"],
            "PendingWindowInDays": _DESTROYED_AFTER_DAYS,
        }
        self._asked("ScheduleKeyDeletion", target)
        self._asked("DeleteAlias", {"AliasName": self._alias(number)})

    # The versions.

    def _id(self, number: int) -> str:
        return f"{self._place.prefix}-{WRAPPING}:v{number}"

    def _alias(self, number: int) -> str:
        return f"alias/{self._place.prefix}-{WRAPPING}-v{number}"

    def _number(self, key_id: str) -> int:
        found = re.fullmatch(rf"{self._place.prefix}-{WRAPPING}:v([1-9][0-9]{{0,8}})", key_id)
        if found is None:
            raise _unknown(key_id)
        return int(found[1])

    def _active(self) -> int:
        """The newest version; the first one is made."""
        until, number = self._newest
        if monotonic() < until:
            return number
        held = self._held()
        number = max(held) if held else self._made(first=True).version
        self._newest = monotonic() + _LISTED_SECONDS, number
        return number

    def _held(self) -> dict[int, Mapping[str, Any]]:
        """The aliases of versions, by number."""
        pattern = re.compile(rf"alias/{self._place.prefix}-{WRAPPING}-v([1-9][0-9]{{0,8}})")
        found: dict[int, Mapping[str, Any]] = {}
        document: dict[str, Any] = {"Limit": 100}
        while True:
            page = self._asked("ListAliases", document)
            for alias in page.get("Aliases", []):
                named = pattern.fullmatch(str(alias.get("AliasName")))
                if named is not None and alias.get("TargetKeyId"):
                    found[int(named[1])] = alias
            if not page.get("Truncated"):
                return found
            document["Marker"] = page["NextMarker"]

    def _made(self, *, first: bool = False) -> KeyVersion:
        with _alone(self._lock_file):
            number = max(self._held(), default=0) + 1
            if first and number > 1:  # another process was faster
                return self.versions()[-1]
            described = f"Falaj, version {number} of the wrapping key of {self._place.prefix}"
            made = self._asked(
                "CreateKey", {"Description": described, "KeySpec": "SYMMETRIC_DEFAULT"}
            )
            target = made["KeyMetadata"]["KeyId"]
            self._asked("CreateAlias", {"AliasName": self._alias(number), "TargetKeyId": target})
        self._newest = (0.0, 0)
        return self.versions()[-1]

    # The wire.

    def _asked(self, operation: str, document: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self._ask(operation, document)
        except _Refused as refused:
            raise self._told(refused) from None

    def _ask(self, operation: str, document: Mapping[str, Any]) -> dict[str, Any]:
        place = self._place
        body = json.dumps(document).encode()
        headers = signed_headers(
            {
                "host": urlsplit(place.endpoint).netloc,
                "content-type": "application/x-amz-json-1.1",
                "x-amz-target": f"TrentService.{operation}",
            },
            body,
            place.credentials,
            region=place.region,
            service=_SERVICE,
            at=self._clock.now(),
        )
        answer = self._sent(body, headers)
        try:
            found = answer.json() if answer.content else {}
        except ValueError:
            found = {}
        if answer.status_code == 200:
            return dict(found)
        code = str(found.get("__type", "")).rpartition("#")[2] or f"status {answer.status_code}"
        if code in _BUSY or answer.status_code >= 500:
            raise Unavailable(
                f"The key service {place.endpoint} answers {code}.",
                hint="It is busy or in trouble; the call may be repeated.",
            )
        raise _Refused(code, str(found.get("message") or found.get("Message") or ""))

    def _sent(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        if monotonic() < self._silent_until:
            raise self._silent("it did not a moment ago")
        try:
            return self._connected().post("/", content=body, headers=dict(headers))
        except httpx.HTTPError as error:
            self._silent_until = monotonic() + _SILENT_SECONDS
            raise self._silent(str(error) or type(error).__name__) from None

    def _silent(self, why: str) -> Unavailable:
        return Unavailable(
            f"The key service {self._place.endpoint} does not answer: {why[:200]}.",
            hint="Check the setting keys and the network; it is asked again.",
        )

    def _told(self, refused: _Refused) -> FalajError:
        return ComponentRefused(
            f"The key service {self._place.endpoint} refuses: {refused.code}.",
            hint="Check the access key, its policy (see docs/guide/keys.md) and this machine's "
            "clock.",
        )

    def _connected(self) -> httpx.Client:
        with self._lock:
            if self._client is None or self._pid != os.getpid():  # never across a fork
                context = ssl.create_default_context(cafile=self._place.ca_file)
                context.minimum_version = ssl.TLSVersion.TLSv1_3
                self._client = httpx.Client(
                    base_url=self._place.endpoint,
                    verify=context,
                    timeout=self._place.timeout_seconds,
                    trust_env=False,
                    follow_redirects=False,
                )
                self._pid = os.getpid()
            return self._client


def _context(key_id: str, context: str) -> dict[str, str]:
    return {"falaj": hashlib.sha256(f"{key_id}\0{context}".encode()).hexdigest()}


def _unknown(key_id: str) -> UnknownKey:
    return UnknownKey(
        f"KMS does not hold the key {key_id[:80]!r}, or not any more.",
        hint="Use the key service that this data was made with; a key that waits for its "
        "deletion can be called back in KMS.",
    )


def _changed(context: str) -> Corrupt:
    return Corrupt(
        f"A data key for {context[:200]!r} was changed, or belongs to something else.",
        hint="Restore what it opens from a backup; see `falaj audit search`.",
    )


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: object) -> bytes:
    try:
        return base64.b64decode(str(text), validate=True)
    except binascii.Error:
        raise Corrupt(
            "KMS gave an answer that is not of its form.", hint="Check the endpoint in keys."
        ) from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
