"""Signature Version 4 of AWS, for requests that are a POST to ``/`` without a query.

Written after "AWS Signature Version 4 signing process" of the IAM user guide, and held to
the vectors of AWS's published test suite.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What AWS knows a caller by."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    """Of credentials for a limited time; empty for others."""


def signed_headers(
    headers: Mapping[str, str],
    body: bytes,
    credentials: Credentials,
    *,
    region: str,
    service: str,
    at: datetime,
    method: str = "POST",
) -> dict[str, str]:
    """The headers of a request to ``/``, with those that sign it.

    Args:
        headers: lower-case names; ``host`` is one of them. All of them are signed.
        body: is signed too.
        region, service: for which the signature is.
        at: the instant of the request; AWS takes five minutes' difference.
    """
    stamp = at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    all_headers = {**headers, "x-amz-date": stamp}
    if credentials.session_token:
        all_headers["x-amz-security-token"] = credentials.session_token
    names = sorted(all_headers)
    lines = [f"{name}:{' '.join(all_headers[name].split())}" for name in names]
    signed = ";".join(names)
    digest = hashlib.sha256(body).hexdigest()
    canonical = "\n".join([method, "/", "", *lines, "", signed, digest])
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join([_ALGORITHM, stamp, scope, hashed])
    key = signing_key(credentials.secret_key, stamp[:8], region, service)
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    all_headers["authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, "
        f"SignedHeaders={signed}, Signature={signature}"
    )
    return all_headers


def signing_key(secret_key: str, day: str, region: str, service: str) -> bytes:
    """The key that signs on one day (``20150830``) in one region for one service."""
    key = f"AWS4{secret_key}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
