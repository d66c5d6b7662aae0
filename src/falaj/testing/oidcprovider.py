"""A real OpenID provider for tests: npm's ``oidc-provider``, on loopback, over TLS.

``make oidc-provider`` installs it into ``tests/oidc-provider``. Who sits at its keyboard and
what goes wrong with it is told by ``control``.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import ssl
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx

import falaj
from falaj.kernel.clock import SystemClock
from falaj.testing.guarded import Account, GuardedServer, ServerUnavailable, Started, free_ports
from falaj.trust.certificates import CertificateAuthority

_HOME = Path(falaj.__file__).parents[2] / "tests" / "oidc-provider"
CLIENT_ID = "falaj"
ROUTES = {
    "authorization": "/idshub/authorize",
    "token": "/idshub/token",
    "userinfo": "/idshub/userinfo",
    "end_session": "/idshub/logout",
}
"""As UAE PASS names them, so that one server stands for both kinds of providers."""
_MOST_STEPS = 10


class OidcServer:
    """One provider, for the tests of one module: what is told to it is told to all.

    Args:
        folder: of its own.

    Raises:
        ServerUnavailable: Node or the package is not installed here.
    """

    def __init__(self, folder: Path) -> None:
        self._guarded = GuardedServer(folder, "oidc-provider", _start, _ready)
        self._facts = self._guarded.acquire()
        self.issuer = f"https://localhost:{self._facts['port']}"
        self.ca_file = Path(self._facts["ca"])
        self.certificate = Path(self._facts["certificate"])
        """Of localhost and 127.0.0.1, with its key; a platform may use it too."""
        self.client_secret = str(self._facts["client_secret"])
        self._context = _context(self._facts["ca"])
        self._web = self.client()

    def control(self, **asked: Any) -> dict[str, Any]:
        """Change what it does; its private keys, and the requests that it wanted to send."""
        answer = self._web.post(f"{self.issuer}/control", json=asked)
        return dict(answer.raise_for_status().json())

    def client(self) -> httpx.Client:
        """A browser without scripts, with cookies of its own."""
        return httpx.Client(verify=self._context, trust_env=False, timeout=20)

    def close(self) -> None:
        """End it."""
        self._web.close()
        self._guarded.release()


class AtProvider:
    """Somebody's browser, as it stands before the provider.

    Args:
        server: the provider.
    """

    def __init__(self, server: OidcServer) -> None:
        self._server = server
        self._web = server.client()

    def visit(self, url: str) -> str:
        """Go where a page leads, until the way leads back to another site; that address."""
        for _ in range(_MOST_STEPS):
            answer = self._web.get(url)
            if not answer.is_redirect:
                raise AssertionError(f"{answer.status_code} at {url}: {answer.text[:500]}")
            url = urljoin(url, answer.headers["location"])
            if not url.startswith(self._server.issuer):
                return url
        raise AssertionError(f"the provider leads on and on: {url}")

    def sign_out(self) -> None:
        """Sign out at the provider, which then tells all where this browser was signed in."""
        page = self._web.get(f"{self._server.issuer}{ROUTES['end_session']}").text
        xsrf = page.partition('name="xsrf" value="')[2].partition('"')[0]
        confirm = f"{self._server.issuer}{ROUTES['end_session']}/confirm"
        self._web.post(confirm, data={"xsrf": xsrf, "logout": "yes"})

    def close(self) -> None:
        """Close it."""
        self._web.close()


def led_to(page: httpx.Response) -> str:
    """Where a page that leads on by itself leads."""
    told = page.text.partition('http-equiv="refresh" content="0; url=')[2].partition('"')[0]
    if not told:
        raise AssertionError(f"{page.status_code}, leads nowhere: {page.text[:1000]}")
    return unescape(told)


def _start(folder: Path) -> Started:
    node = shutil.which("node")
    if node is None:
        raise ServerUnavailable("Node is not installed")
    if not (_HOME / "node_modules" / "oidc-provider").is_dir():
        raise ServerUnavailable("its package is not installed (make oidc-provider)")
    authority = CertificateAuthority(folder / "tls", clock=SystemClock())
    certificate = authority.server_certificate(("localhost", "127.0.0.1"))
    (port,) = free_ports(1)
    config = {
        "port": port,
        "certificate": str(certificate.path),
        "client_secret": secrets.token_urlsafe(24),
        "cookie_key": secrets.token_urlsafe(24),
        "routes": ROUTES,
    }
    file = folder / "config.json"
    file.write_text(json.dumps(config), encoding="utf-8")
    facts = {
        "port": port,
        "ca": str(authority.ca_path),
        "certificate": str(certificate.path),
        "client_secret": config["client_secret"],
    }
    command = ["env", f"NODE_EXTRA_CA_CERTS={authority.ca_path}", node, str(_HOME / "server.mjs")]
    return Started([*command, str(file)], facts, Account("", os.geteuid(), os.getegid()))


def _ready(facts: Mapping[str, Any]) -> bool:
    try:
        with httpx.Client(verify=_context(facts["ca"]), trust_env=False) as web:
            answer = web.get(f"https://localhost:{facts['port']}/.well-known/openid-configuration")
            return answer.status_code == 200
    except (OSError, httpx.HTTPError):
        return False


def _context(ca: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca)
