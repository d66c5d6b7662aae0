"""A stand-in for AWS KMS on 127.0.0.1, over TLS: the eight questions that Falaj asks of it.

It is ours, written after KMS's API reference, and no proof of what AWS does. It checks
signatures by itself, counts a wrong one as KMS does, and forgets everything when it ends.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from falaj.kernel.clock import SystemClock
from falaj.trust.certificates import CertificateAuthority

HOST = "127.0.0.1"
REGION = "me-central-1"
_PAGE = 2
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d{8})/([\w-]+)/kms/aws4_request, "
    r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})"
)


class _Refusal(Exception):
    """What KMS would answer instead."""


@dataclass
class _Key:
    id: str
    secret: bytes
    enabled: bool = True


@dataclass
class KmsStandIn:
    """The stand-in, running.

    Args:
        folder: where its authority and certificate are made.
    """

    folder: Path
    access_key: str = field(default_factory=lambda: f"AKIA{secrets.token_hex(8).upper()}")
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    failing: str = ""
    """Answer everything with this exception."""
    asked: list[str] = field(default_factory=list)
    contexts: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._aliases: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        authority = CertificateAuthority(self.folder, clock=SystemClock())
        certificate = authority.server_certificate((HOST,))
        self.ca_file = certificate.ca_path
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self._server.daemon_threads = True
        context = certificate.server_context()
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"https://{HOST}:{self._server.server_address[1]}"

    def url(self, prefix: str) -> str:
        """What the setting ``keys`` says."""
        return f"awskms://{REGION}?prefix={prefix}&endpoint={self.endpoint}"

    def disable(self, alias: str) -> None:
        """Disable the key of an alias, as an administrator of KMS may."""
        self._keys[self._aliases[alias]["TargetKeyId"]].enabled = False

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, operation: str, document: dict[str, Any]) -> dict[str, Any]:
        """Do what an operation asks; raises the name of KMS's exception."""
        with self._lock:
            self.asked.append(operation)
            if self.failing:
                raise _Refusal(self.failing)
            work = {
                "Encrypt": self._encrypt, "Decrypt": self._decrypt, "CreateKey": self._create_key,
                "CreateAlias": self._create_alias, "DeleteAlias": self._delete_alias,
                "ListAliases": self._list_aliases, "ScheduleKeyDeletion": self._schedule,
            }.get(operation)  # fmt: skip
            if work is None:
                raise _Refusal("UnknownOperationException")
            return work(document)

    def verified(self, headers: dict[str, str], body: bytes) -> None:
        """Check a request's signature, by our own reading of the guide."""
        found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if found is None:
            raise _Refusal("IncompleteSignatureException")
        access_key, day, region, names, signature = found.groups()
        if access_key != self.access_key:
            raise _Refusal("UnrecognizedClientException")
        at = headers.get("x-amz-date", "")
        if not {"host", "x-amz-date", "x-amz-target"} <= set(names.split(";")):
            raise _Refusal("IncompleteSignatureException")
        canonical = "POST\n/\n\n"
        for name in names.split(";"):
            canonical += f"{name}:{headers.get(name, '').strip()}\n"
        canonical += f"\n{names}\n{hashlib.sha256(body).hexdigest()}"
        scope = f"{day}/{region}/kms/aws4_request"
        wanted = "AWS4-HMAC-SHA256\n" + at + "\n" + scope + "\n"
        wanted += hashlib.sha256(canonical.encode()).hexdigest()
        key = b"AWS4" + self.secret_key.encode()
        for part in (day, region, "kms", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        right = hmac.new(key, wanted.encode(), hashlib.sha256).hexdigest()
        if region != REGION or not at.startswith(day) or not hmac.compare_digest(right, signature):
            raise _Refusal("InvalidSignatureException")

    def _key(self, alias: str) -> _Key:
        if alias not in self._aliases:
            raise _Refusal("NotFoundException")
        key = self._keys[self._aliases[alias]["TargetKeyId"]]
        if not key.enabled:
            raise _Refusal("DisabledException")
        return key

    def _encrypt(self, document: dict[str, Any]) -> dict[str, Any]:
        key = self._key(document["KeyId"])
        nonce = os.urandom(12)
        about = _about(document)
        self.contexts.append(document["EncryptionContext"])
        sealed = AESGCM(key.secret).encrypt(nonce, base64.b64decode(document["Plaintext"]), about)
        value = key.id.encode() + nonce + sealed
        return {"CiphertextBlob": base64.b64encode(value).decode(), "KeyId": key.id}

    def _decrypt(self, document: dict[str, Any]) -> dict[str, Any]:
        key = self._key(document["KeyId"])
        value = base64.b64decode(document["CiphertextBlob"])
        if value[:32] != key.id.encode():
            known = value[:32].decode(errors="replace") in self._keys
            raise _Refusal("IncorrectKeyException" if known else "InvalidCiphertextException")
        try:
            plain = AESGCM(key.secret).decrypt(value[32:44], value[44:], _about(document))
        except (InvalidTag, ValueError):
            raise _Refusal("InvalidCiphertextException") from None
        return {"Plaintext": base64.b64encode(plain).decode(), "KeyId": key.id}

    def _create_key(self, document: dict[str, Any]) -> dict[str, Any]:
        key = _Key(secrets.token_hex(16), os.urandom(32))
        self._keys[key.id] = key
        return {"KeyMetadata": {"KeyId": key.id}}

    def _create_alias(self, document: dict[str, Any]) -> dict[str, Any]:
        name = document["AliasName"]
        if name in self._aliases:
            raise _Refusal("AlreadyExistsException")
        self._aliases[name] = {
            "AliasName": name,
            "TargetKeyId": document["TargetKeyId"],
            "CreationDate": time.time(),
        }
        return {}

    def _delete_alias(self, document: dict[str, Any]) -> dict[str, Any]:
        self._aliases.pop(document["AliasName"])
        return {}

    def _list_aliases(self, document: dict[str, Any]) -> dict[str, Any]:
        names = sorted(self._aliases)
        begin = int(document.get("Marker", "0"))
        page = [self._aliases[name] for name in names[begin : begin + _PAGE]]
        more = begin + _PAGE < len(names)
        return {"Aliases": page, "Truncated": more, "NextMarker": str(begin + _PAGE)}

    def _schedule(self, document: dict[str, Any]) -> dict[str, Any]:
        if document["KeyId"] not in self._keys or document["PendingWindowInDays"] < 7:
            raise _Refusal("ValidationException")
        self._keys[document["KeyId"]].enabled = False
        return {"KeyId": document["KeyId"], "KeyState": "PendingDeletion"}


def _about(document: dict[str, Any]) -> bytes:
    return json.dumps(document["EncryptionContext"], sort_keys=True).encode()


def _handler(kms: KmsStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers one request as KMS does: JSON 1.1."""

        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Check the signature, do the operation, say what came of it."""
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                kms.verified(headers, body)
                operation = headers["x-amz-target"].removeprefix("TrentService.")
                status, found = 200, kms.answer(operation, json.loads(body))
            except _Refusal as refusal:
                status, found = 400, {"__type": f"com.amazonaws.kms#{refusal}", "message": "no"}
            text = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("content-type", "application/x-amz-json-1.1")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    return Handler
