"""Single-row predictions over TLS 1.3 against the same over clear text.

The same worker twice, with TLS 1.3 and without, each alone on one pinned core under the
same load on keep-alive connections from the other core, in turn; the other is stopped
meanwhile.
"""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from measuring import Row, arguments, report
from stand import ours
from stand.classifier import make_classifier
from stand.load import Load, client_name
from stand.processes import cores
from stand.turns import RATE, UNITS, Contestant, agreed, errors, measured, our_score

CONNECTIONS = (1, 16, 64)
LEAST_SHARE = 0.8


def measure(folder: Path, *, rounds: int, seconds: float) -> list[Row]:
    """Both in turn; the rows of the table."""
    server_core, client_core = cores()
    classifier = make_classifier(folder)
    # Each its own platform: a platform has one log writer.
    with (
        ours.opened(folder / "clear") as open_platform,
        ours.opened(folder / "secure") as secure_platform,
    ):
        asked = []
        for platform in (open_platform, secure_platform):
            ours.in_the_body(platform, classifier)
            asked.append(ours.body_requests(classifier.rows, platform))
        plainly, secretly = asked
        with (
            ours.worker(open_platform, plainly.now()[0], core=server_core, name="clear") as clear,
            ours.worker(
                secure_platform, secretly.now()[0], core=server_core, name="tls", tls=True
            ) as secure,
        ):
            protocol = spoken(secure.port)
            contestants = [
                Contestant("clear text", clear, Load(clear.port, plainly, core=client_core)),
                Contestant("TLS", secure, Load(secure.port, secretly, core=client_core, tls=True)),
            ]
            for one in contestants:
                agreed(one.name, one.load, our_score, classifier.scores)
            measured(contestants, CONNECTIONS, rounds=rounds, seconds=seconds)
    plain, tls = contestants
    told = {"client": client_name(), "openssl": ssl.OPENSSL_VERSION, "protocol": protocol}
    told |= {name: version(name) for name in ("uvloop", "httptools")}
    rows = []
    for n in CONNECTIONS:
        for unit, better in UNITS:
            row = Row(
                f"one row, JSON, over {protocol}", f"{n} connections", unit, tls.of(n, unit),
                plain.of(n, unit), "ours, clear text", better=better, versions=told,
            )  # fmt: skip
            if (n, unit) == (16, RATE):
                row.goal = f"≥ {LEAST_SHARE} times"
                row.met = row.ours >= LEAST_SHARE * plain.of(n, unit)
            rows.append(row)
    rows += [errors("one row, JSON", one, told) for one in contestants]
    return rows


def spoken(port: int) -> str:
    """The version of TLS that the server speaks with a client that knows several."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain) as secure,
    ):
        found = secure.version() or "nothing"
    if found != "TLSv1.3":
        raise RuntimeError(f"the server speaks {found}")
    return found


def main() -> None:
    """Measure and report."""
    given = arguments(__doc__ or "")
    rounds, seconds = (2, 2.0) if given.size == "small" else (5, 4.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), rounds=rounds, seconds=seconds)
    report("serving", "Single-row predictions over TLS 1.3, one server core", rows, given)


if __name__ == "__main__":
    main()
