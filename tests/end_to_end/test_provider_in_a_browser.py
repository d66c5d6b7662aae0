"""Signing in through a real provider with a real browser, over TLS.

What no client of tests can show: which cookies a browser sends after the way back from another
site, and that the policies of our pages let it go there.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from falaj.testing.chromium import chromium
from falaj.testing.federated import FederatedSite
from falaj.testing.guarded import ServerUnavailable
from falaj.testing.installations import eventually

pytestmark = pytest.mark.nightly


@pytest.fixture
def site(tmp_path: Any, oidc_server: Any) -> Iterator[FederatedSite]:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    origin = f"https://localhost:{port}"
    made = FederatedSite(
        tmp_path, oidc_server, origin=origin, http={"port": port}, sign_in={"origins": (origin,)}
    )
    pem = str(oidc_server.certificate)
    config = uvicorn.Config(made.app, ssl_certfile=pem, ssl_keyfile=pem, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    eventually(lambda: server.started)
    yield made
    server.should_exit = True
    thread.join(20)
    listening.close()
    made.close()


def test_a_browser_signs_in_steps_up_and_is_signed_out_by_the_provider(
    site: FederatedSite, tmp_path: Any
) -> None:
    site.server.control(
        honest=True, sends=True, backchannel=f"{site.origin}/login/with/corp/logout"
    )
    try:
        with chromium(tmp_path / "browser") as browser:
            _tour(site, browser)
    except ServerUnavailable as error:
        pytest.skip(str(error))
    finally:
        site.server.control(sends=False, backchannel="")


def _tour(site: FederatedSite, browser: Any) -> None:
    browser.open(f"{site.origin}/account")
    browser.press("form[action='/login/with/corp'] button")
    browser.until("location.pathname == '/account' && !!document.querySelector('h1')")
    assert browser.script("document.querySelector('h1').innerText") == "amina"
    assert browser.script("document.cookie") == ""
    browser.open(f"{site.origin}/step-up?next=/device")
    time.sleep(1.1)  # the provider tells instants in whole seconds
    browser.press("form[action='/step-up/with/corp'] button")
    browser.until("location.pathname == '/device'")
    assert site.records("auth.provider_step_up")[-1]["outcome"] == "done"
    browser.open(f"{site.server.issuer}/idshub/logout")
    browser.press("button[value='yes']")
    eventually(lambda: site.records("auth.provider_logout"), seconds=20)
    assert site.records("auth.provider_logout")[-1]["outcome"] == "done"
    browser.open(f"{site.origin}/account")
    browser.until("location.pathname == '/login'")
