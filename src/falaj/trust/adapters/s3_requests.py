"""Requests to S3 signed with AWS Signature Version 4, with whatever headers they need.

The library of the blob store signs no object-lock headers; this is the little that a witness
needs of the protocol.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

import httpx

from falaj.kernel.clock import Clock
from falaj.kernel.errors import Unavailable

_SERVICE = "s3"


@dataclass(frozen=True)
class S3Place:
    """A bucket, with the keys that open it."""

    bucket: str
    endpoint: str
    """``https://host[:port]``; the bucket stands in the path."""
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


class S3Requests:
    """Sends signed requests about one bucket.

    Args:
        place: which.
        clock: dates the signatures.
    """

    def __init__(self, place: S3Place, clock: Clock) -> None:
        self._place = place
        self._clock = clock
        # Neither proxies nor credentials of the surroundings, and no redirect: it goes where
        # the operator said, or nowhere.
        self._client = httpx.Client(timeout=10, trust_env=False, follow_redirects=False)

    def send(
        self,
        method: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> httpx.Response:
        """The answer to one request, whatever its status below 500.

        Args:
            key: of an object; empty for the bucket itself.
            query, headers: as the operation needs them; all of them are signed.

        Raises:
            Unavailable: the server does not answer, or answers that it cannot.
        """
        place = self._place
        path = quote(f"/{place.bucket}/{key}" if key else f"/{place.bucket}", safe="/~")
        asked = urlencode(sorted((query or {}).items()), quote_via=quote, safe="~")
        url = f"{place.endpoint.rstrip('/')}{path}" + (f"?{asked}" if asked else "")
        try:
            answer = self._client.request(
                method, url, content=body, headers=self._signed(method, path, asked, headers, body)
            )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"The S3 server of the bucket {place.bucket} does not answer: "
                f"{type(error).__name__}.",
                hint="See its address and the network.",
            ) from error
        if answer.status_code >= 500:
            raise Unavailable(
                f"The S3 server of the bucket {place.bucket} answered {answer.status_code}.",
                hint="It may be tried again.",
            )
        return answer

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _signed(
        self, method: str, path: str, query: str, more: Mapping[str, str] | None, body: bytes
    ) -> dict[str, str]:
        place = self._place
        at = self._clock.now().strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        headers = {
            **{name.lower(): value for name, value in (more or {}).items()},
            "host": urlsplit(place.endpoint).netloc,
            "x-amz-content-sha256": digest,
            "x-amz-date": at,
        }
        if body:  # object lock demands a checksum beside the signature
            headers["content-md5"] = base64.b64encode(
                hashlib.md5(body, usedforsecurity=False).digest()
            ).decode()
        names = ";".join(sorted(headers))
        listed = "".join(f"{name}:{headers[name].strip()}\n" for name in sorted(headers))
        canonical = "\n".join([method, path, query, listed, names, digest])
        scope = f"{at[:8]}/{place.region}/{_SERVICE}/aws4_request"
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        signing = f"AWS4{place.secret_key}".encode()
        for part in scope.split("/"):
            signing = hmac.digest(signing, part.encode(), "sha256")
        to_sign = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashed])
        signature = hmac.digest(signing, to_sign.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={place.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers
