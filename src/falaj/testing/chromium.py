"""A real Chromium for tests, without a window, told over its pipe what to do.

Only where Debian's ``chromium`` (or Chrome) is at hand; nothing is downloaded for it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from falaj.testing.guarded import ServerUnavailable

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_PATIENCE_SECONDS = 30.0
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-extensions", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-pipe",
)  # fmt: skip


class Chromium:
    """One page of a browser (the DevTools protocol, as JSON that ends with a zero byte)."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to, self._from = to_it, from_it
        self._read = b""
        self._sent = 0
        self._page = ""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._page = attached["sessionId"]
        self._ask("Security.setIgnoreCertificateErrors", ignore=True)
        self._ask("Page.enable")

    def open(self, url: str) -> None:
        """Go to an address, as if it was typed."""
        self._ask("Page.navigate", url=url)

    def keep_cookie(self, url: str, name: str, value: str) -> None:
        """Have a cookie, as if the site at ``url`` had given it."""
        self._ask("Network.setCookie", url=url, name=name, value=value, secure=True, httpOnly=True,
                  path="/")  # fmt: skip

    def show_as(self, *, width: int, dark: bool, height: int = 900) -> None:
        """Show pages in a window of so many CSS pixels, as a light or a dark desk wants them."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """The whole page as it looks now, a PNG."""
        told = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["data"])

    def script(self, text: str) -> Any:
        """What a script in the page comes to."""
        told = self._ask("Runtime.evaluate", expression=text, returnByValue=True)
        return told["result"].get("value")

    def press(self, selector: str) -> None:
        """Press what a selector finds, once it is there."""
        self.until(f"!!document.querySelector({selector!r})")
        self.script(f"setTimeout(() => document.querySelector({selector!r}).click())")

    def until(self, text: str) -> Any:
        """Wait until a script in the page comes to something; pages may change meanwhile."""
        patience = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < patience:
            with suppress(RuntimeError):  # the page was left while it was asked
                if found := self.script(text):
                    return found
            time.sleep(0.05)
        page = self.script("location.href + ' ' + document.body.innerText")
        raise TimeoutError(f"not in time: {text}; the page is {page}")

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        message: dict[str, Any] = {"id": self._sent, "method": method, "params": parameters}
        if self._page:
            message["sessionId"] = self._page
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            piece = os.read(self._from, 1 << 16)
            if not piece:
                raise ConnectionError("the browser has ended")
            self._read += piece
        message, _, self._read = self._read.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def chromium(folder: Path) -> Iterator[Chromium]:
    """A browser that was never used, with its files in a folder; it ends at the end.

    Raises:
        ServerUnavailable: there is none on this machine.
    """
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise ServerUnavailable("Chromium is not installed (apt-get install chromium)")
    in_theirs, to_it = os.pipe()
    from_it, out_theirs = os.pipe()
    # The browser reads at descriptor 3 and writes at 4.
    shell = f'exec 3<&{in_theirs} 4>&{out_theirs}; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *_OPTIONS, f"--user-data-dir={folder}"],
        pass_fds=(in_theirs, out_theirs),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(in_theirs)
    os.close(out_theirs)
    try:
        yield Chromium(to_it, from_it)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_it)
        os.close(from_it)
