"""Everybody can use the pages: axe-core finds nothing, in a real browser, over TLS.

With the setting FALAJ_PICTURES of a folder, a picture of each page is left there.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from tests.interfaces.watched import Watched

import falaj
from falaj.interfaces.cookies import SESSION
from falaj.kernel.clock import SystemClock
from falaj.testing.chromium import Chromium, chromium
from falaj.testing.guarded import ServerUnavailable
from falaj.testing.installations import eventually
from falaj.trust.certificates import CertificateAuthority
from falaj.trust.model import Role

pytestmark = pytest.mark.nightly

AXE = Path(falaj.__file__).parents[2] / "tests/axe/node_modules/axe-core/axe.min.js"
PAGES = (
    "/monitors", "/monitors/watch", "/monitors/quiet", "/monitors/watch/performance", "/endpoints",
    "/endpoints/late", "/sources", "/sources/orders", "/contracts/orders-contract", "/rollouts",
    "/rollouts/try-two", "/alerts", "/alerts/{alert}", "/incidents", "/incidents/{incident}",
    "/changes", "/service-levels", "/account", "/monitors/none",
)  # fmt: skip
WINDOWS = ((1280, False), (1280, True), (390, False), (390, True))
_RUN = """
axe.run({resultTypes: ["violations"]}).then(told => {
  window.found = JSON.stringify(told.violations.map(one => [one.id, one.nodes.map(n => n.html)]));
}, error => { window.found = JSON.stringify([["axe failed", [String(error)]]]); });
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, str]]:
    if not AXE.exists():
        pytest.skip("axe-core is not installed (make axe)")
    folder = tmp_path_factory.mktemp("site")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        origin = f"https://localhost:{port}"
        made = Watched(folder, http={"port": port}, sign_in={"origins": (origin,)})
        authority = CertificateAuthority(folder / "tls", clock=SystemClock())
        pem = str(authority.server_certificate(("localhost", "127.0.0.1")).path)
        server = uvicorn.Server(
            uvicorn.Config(made.app, ssl_certfile=pem, ssl_keyfile=pem, log_config=None)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        eventually(lambda: server.started)
        yield made, origin
        server.should_exit = True
        thread.join(20)
        made.premises.close()


@pytest.fixture(scope="module")
def browser(
    site: tuple[Watched, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Chromium]:
    try:
        with chromium(tmp_path_factory.mktemp("browser")) as found:
            yield found
    except ServerUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def amina(site: tuple[Watched, str], browser: Chromium) -> Chromium:
    """The browser, in which amina has signed in."""
    watched, origin = site
    web = watched.browser("amina", Role.ML_ENGINEER, origin=origin).web
    browser.keep_cookie(origin, SESSION, web.cookies[SESSION])
    return browser


def looked_at(browser: Chromium, url: str, width: int, dark: bool) -> list[Any]:
    """What axe-core finds on a page, and whether the page is wider than its window."""
    browser.show_as(width=width, dark=dark)
    browser.open(url)
    browser.until("document.readyState == 'complete' && !!document.querySelector('h1')")
    assert browser.script("location.href") == url
    browser.script(AXE.read_text(encoding="utf-8") + _RUN)
    found: list[Any] = json.loads(browser.until("window.found"))
    if folder := os.environ.get("FALAJ_PICTURES"):
        path = url.split("/", 3)[3].split("_", maxsplit=1)[0].replace("/", "-") or "home"
        name = f"{path}-{width}-{'dark' if dark else 'light'}.png"
        (Path(folder) / name).write_bytes(browser.picture())
    if browser.script("document.documentElement.scrollWidth > window.innerWidth"):
        found.append(["wider than its window", [f"{width} px"]])
    return found


@pytest.mark.parametrize(("width", "dark"), WINDOWS)
@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_on_a_page(
    site: tuple[Watched, str], amina: Chromium, path: str, width: int, dark: bool
) -> None:
    watched, origin = site
    page = path.format(alert=watched.alert, incident=watched.incident)
    assert looked_at(amina, f"{origin}{page}", width, dark) == []
