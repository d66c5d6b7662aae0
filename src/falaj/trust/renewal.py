"""Certificates of servers that are renewed while they serve.

A connection keeps the certificate of its handshake; handshakes that come later get the new
one. Nothing is restarted and no connection is closed. The whole context is exchanged at once,
so that no handshake sees the certificate of one file with the key of another.
"""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from falaj.kernel.errors import FalajError
from falaj.kernel.telemetry import logger

Files = Callable[[], tuple[Path, Path]]
"""Tells the files of the certificate and of its key, renewed if they have to be."""


class ServedCertificate:
    """A TLS context for a server, kept in step with its files by a thread of its own.

    Args:
        files: tells the files.
        made: makes a context of them (``certificates.server_context``).
        every_seconds: how often the thread looks.

    Raises:
        FalajError, OSError: the files cannot be used; later such errors are logged, and the
            certificate that is there stays.
    """

    def __init__(
        self,
        files: Files,
        made: Callable[[Path, Path], ssl.SSLContext],
        *,
        every_seconds: float,
    ) -> None:
        self._files = files
        self._made = made
        self._every_seconds = every_seconds
        self._present: ssl.SSLContext | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        certificate, key = files()
        self._digest = _digest(certificate, key)
        self.generation = 0
        """How often the certificate was replaced."""
        self.context = made(certificate, key)
        """What the server is given; it stays the same object."""
        # `sni_callback` is asked in each handshake, whether the client names a server or not.
        self.context.sni_callback = self._chosen

    def _chosen(
        self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _of: ssl.SSLContext
    ) -> None:
        if self._present is not None:
            handshake.context = self._present

    def look(self) -> bool:
        """Take the files as they are now; True if they have changed."""
        certificate, key = self._files()
        digest = _digest(certificate, key)
        if digest == self._digest:
            return False
        self._present = self._made(certificate, key)
        self._digest = digest
        self.generation += 1
        logger(__name__).info("the server's certificate was replaced", file=str(certificate))
        return True

    def pair(self) -> tuple[bytes, bytes]:
        """Key and certificate chain (PEM), for a server that takes no context."""
        certificate, key = self._files()
        return key.read_bytes(), certificate.read_bytes()

    def start(self) -> None:
        """Begin to look from time to time."""
        self._thread = threading.Thread(target=self._run, name="falaj-certificate", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(5)

    def _run(self) -> None:
        while not self._stopped.wait(self._every_seconds):
            try:
                self.look()
            except (FalajError, OSError, ValueError) as error:  # ssl.SSLError is an OSError
                logger(__name__).error("the server's certificate is not renewed", error=str(error))


def _digest(certificate: Path, key: Path) -> bytes:
    """Of both files; of the certificate alone where one file holds both."""
    found = hashlib.sha256(certificate.read_bytes())
    if key != certificate:
        found.update(key.read_bytes())
    return found.digest()
