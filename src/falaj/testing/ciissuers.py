"""An issuer of CI tokens for tests: signs real JWTs, publishes its keys over real HTTPS."""

from __future__ import annotations

import hmac
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from falaj.kernel.clock import SystemClock
from falaj.trust.certificates import CertificateAuthority

AUDIENCE = "https://falaj.corp.ae"
NAMES = ("localhost", "127.0.0.1", "other.localhost")


class Issuer:
    """What GitHub Actions or GitLab CI is to a platform.

    ``url`` is the issuer, ``ca`` the authority of its certificate.
    """

    def __init__(self, folder: Path) -> None:
        self.ca = folder / "ca.pem"
        self.keys: dict[str, Any] = {"k1": RSAKey.generate_key(2048, {"kid": "k1"})}
        self.asked: list[str] = []
        """The paths that were asked for."""
        self.discovery: dict[str, Any] = {}
        """Replaces parts of the discovery document."""
        self.status = 200
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                body = json.dumps(issuer.document(self.path)).encode()
                self.send_response(issuer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_told: Any) -> None: ...

        authority = CertificateAuthority(folder, clock=SystemClock())
        made = authority.server_certificate(NAMES)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = made.server_context().wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_address[1]}"

    def document(self, path: str) -> dict[str, Any]:
        """What is published at a path."""
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **self.discovery}
        return {"keys": [key.as_dict(private=False) for key in self.keys.values()]}

    def rotate(self, key_id: str) -> None:
        """Sign with a new key from now on; the old ones are published no more."""
        self.keys = {key_id: ECKey.generate_key("P-256", {"kid": key_id})}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """What GitHub Actions says of a job on the main branch; None takes a claim out."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "repo:corp/models:ref:refs/heads/main",
            "repository": "corp/models",
            "repository_owner": "corp",
            "ref": "refs/heads/main",
            "event_name": "push",
            "run_id": "1234567890",
            "jti": str(uuid4()),
            "iat": now - 5,
            "nbf": now - 5,
            "exp": now + 300,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, *, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A token of a job, signed with the present key."""
        (key_id, key), *_ = self.keys.items()
        algorithm = "ES256" if isinstance(key, ECKey) else "RS256"
        said = {"alg": algorithm, "kid": key_id, **(header or {})}
        return jwt.encode(said, self.claims(**changes), key, algorithms=[said["alg"]])

    def confused(self, **changes: Any) -> str:
        """A token whose keyed hash takes the published key for a secret (key confusion)."""
        (key_id, key), *_ = self.keys.items()
        said = {"alg": "HS256", "kid": key_id, "typ": "JWT"}
        message = f"{_text(said)}.{_text(self.claims(**changes))}"
        signed = hmac.digest(key.as_pem(private=False), message.encode(), "sha256")
        return f"{message}.{urlsafe_b64encode(signed).rstrip(b'=').decode()}"

    def rule(self, **changes: Any) -> dict[str, Any]:
        """A rule that lets its jobs of ``corp/models`` on the main branch in as ``deployer``."""
        return {
            "name": "models-main",
            "issuer": self.url,
            "audience": AUDIENCE,
            "account": "deployer",
            "claims": {"repository": "corp/models", "ref": "refs/heads/main"},
            "roles": ["ml_engineer"],
            **changes,
        }


def _text(value: Any) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


@contextmanager
def issuing(folder: Path) -> Iterator[Issuer]:
    """An issuer that answers until the end of the block."""
    issuer = Issuer(folder)
    thread = threading.Thread(target=issuer.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield issuer
    finally:
        issuer.server.shutdown()
        issuer.server.server_close()
        thread.join()
