"""The processes of ``falaj up``: the control plane, an inference worker, the job worker.

Each runs one thing until it is told to stop (SIGTERM), or until its supervisor is gone.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from falaj.interfaces.early import imported
from falaj.interfaces.supervisor import GRACE_SECONDS, end_with_parent
from falaj.kernel.errors import FalajError
from falaj.kernel.settings import Settings
from falaj.kernel.telemetry import configure_logging, logger

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises


def main(arguments: list[str] | None = None) -> int:
    """Run one process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="falaj.interfaces.processes")
    parser.add_argument("role", choices=["control", "inference", "log", "worker", "pool"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--socket", type=int, action="append", default=[])
    parser.add_argument("--go", type=int, help="begin when a byte comes here; end if none does")
    given = parser.parse_args(arguments)
    imported(given.role)
    if given.go is not None and not os.read(given.go, 1):
        return 0  # the supervisor has told why it does not go on
    from falaj.wiring.assembly import assemble
    from falaj.wiring.traces import trace_calls

    settings = Settings.read(given.folder)
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    try:
        premises = assemble(settings, process=given.name)
    except FalajError as error:
        logger(__name__).error("cannot start", process=given.name, error=str(error))
        return 1
    sockets = [socket.socket(fileno=descriptor) for descriptor in given.socket]

    def ready() -> None:
        given.ready.write_text(str(os.getpid()), encoding="utf-8")

    try:
        if given.role != "inference":  # whose requests are traced by their trails
            premises.closing.append(trace_calls(settings, given.name))
        if given.role == "worker":
            _run_until_told(lambda stopped: _work(premises, ready, stopped), given.parent)
        elif given.role == "pool":
            from falaj.wiring.raypool import keep_ray_pool

            _run_until_told(
                lambda stopped: keep_ray_pool(premises, given.folder, stopped, ready), given.parent
            )
        elif given.role == "log":
            _run_until_told(lambda stopped: _write_log(premises, ready, stopped), given.parent)
        elif given.role == "control":
            app = control_app(premises, port=sockets[0].getsockname()[1])
            _serve(app, premises, sockets, ready, given.parent)
        else:
            _serve_front(premises, given.name, sockets, ready, given.parent)
    except FalajError as error:
        logger(__name__).error("ended", process=given.name, error=str(error))
        return 1
    finally:
        premises.close()
    return 0


def control_app(premises: Premises, *, port: int | None = None) -> Any:
    """The ASGI application of the control plane: actions, credential exchanges, pages.

    ``port`` is where it listens, if that is not the settings' ``http.port``.
    """
    from falaj.interfaces.auth import add_auth_routes
    from falaj.interfaces.certificateroutes import add_certificate_routes
    from falaj.interfaces.hiding import Hiding
    from falaj.interfaces.hosts import Addresses, HostCheck
    from falaj.interfaces.http import create_app
    from falaj.interfaces.people import add_people
    from falaj.interfaces.programs import add_programs
    from falaj.wiring.auditparts import refusals
    from falaj.wiring.certificateparts import nonces
    from falaj.wiring.policyparts import questions_kept

    questions_kept(premises)
    addresses = Addresses.of(premises.settings, port)
    app = create_app(
        premises.backend,
        premises.verifier,
        version=version("falaj"),
        max_body_bytes=premises.settings.http.max_body_bytes,
        hiding=Hiding.of(premises.settings),
        recorder=refusals(premises, via="http"),
        nonce=nonces(premises),
    )
    add_auth_routes(app, premises.authentication)
    add_certificate_routes(app, premises.certificates.login)
    add_people(app, premises, addresses, version=version("falaj"))
    add_programs(app, premises, addresses)
    app.add_middleware(HostCheck, addresses=addresses)
    return app


def _serve(
    app: Any,
    premises: Premises,
    sockets: list[socket.socket],
    ready: Callable[[], None],
    parent: int,
) -> None:
    import uvicorn

    from falaj.interfaces.bounded import BoundedHttp

    certificate, key = premises.server_certificate()
    served = premises.certificates.served()

    def context(_config: Any, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        return served.context

    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHttp.telling(app.state.recorder),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        ssl_context_factory=context,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
        timeout_graceful_shutdown=int(GRACE_SECONDS) - 1,
        backlog=2048,
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            ready()

    server = Server(config)

    def stop() -> None:
        server.should_exit = True

    end_with_parent(parent, stop)
    server.run(sockets=sockets)


def _serve_front(
    premises: Premises,
    name: str,
    sockets: list[socket.socket],
    ready: Callable[[], None],
    parent: int,
) -> None:
    """The data plane has a front of its own; see ``falaj.serving.front``."""
    from falaj.serving.running import run

    run(
        premises.serving.inference_app(name, ring=True),
        sockets,
        context=premises.certificates.served(
            required=premises.settings.inference.client_ca_file
        ).context,
        ready=ready,
        begun=lambda stop: end_with_parent(parent, stop),
        grace_seconds=GRACE_SECONDS - 1,
        linger_seconds=premises.settings.inference.drain_seconds,
    )


def _run_until_told(work: Callable[[threading.Event], None], parent: int) -> None:
    stopped = threading.Event()

    def asked(_number: int, _frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGTERM, asked)
    signal.signal(signal.SIGINT, asked)
    end_with_parent(parent, stopped.set)
    work(stopped)


def _work(premises: Premises, ready: Callable[[], None], stopped: threading.Event) -> None:
    ready()
    premises.work(stopped)


def _write_log(premises: Premises, ready: Callable[[], None], stopped: threading.Event) -> None:
    """The log writer ends behind the workers: it waits a while for their last rows."""
    writer = premises.serving.log_writer()
    ready()
    writer.run(stopped, grace_seconds=GRACE_SECONDS - 1)


if __name__ == "__main__":
    sys.exit(main())
