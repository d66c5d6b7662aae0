"""``falaj certify``: a program's certificate in a folder, for programs that are not in Python."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from falaj.interfaces.certificatesource import CertificateSource, Held
from falaj.kernel.errors import InvalidInput
from falaj.kernel.telemetry import configure_logging

if TYPE_CHECKING:
    from falaj.interfaces.session import Session


def certify_program(
    session: Session, service: str, into: Path, *, secret: str | None, keep: bool
) -> None:
    """Have a good certificate of a service account in a folder; with ``keep`` from now on.

    Raises:
        InvalidInput: no server is named.
        Unauthenticated: the folder has no good certificate, and there is no secret.
    """
    from falaj.interfaces.platform import trusted

    if session.url is None:
        raise InvalidInput(
            "Certificates of programs are got from a server.",
            hint="Name it: `falaj --url https://… certify NAME FOLDER`.",
        )
    url = session.url
    source = CertificateSource(
        url, into, trusted=lambda: trusted(url, session.ca), service=service, secret=secret
    )
    source.renew_if_due()
    _tell(session, source.held())
    if not keep:
        return
    configure_logging(level="info", as_json=False)
    stopped = threading.Event()

    def asked(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    source.start()
    stopped.wait()
    source.stop()


def _tell(session: Session, held: Held) -> None:
    told = {
        "file": str(held.path),
        "serial": held.serial,
        "expires_at": held.expires_at.isoformat(),
    }
    session.show(told)
