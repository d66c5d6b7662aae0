"""Inference workers as actors on Ray: Ray places them, starts them again and owns their cores.

An actor is a whole worker: it listens on a port of its own and serves clients itself. Ray's
HTTP proxy is not on the path; a load balancer before the workers reads their addresses from
the file that the pool keeps. Requests never pass through Ray.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falaj.kernel.errors import FalajError, Unavailable
from falaj.kernel.telemetry import logger
from falaj.serving.front import Application
from falaj.serving.running import run
from falaj.serving.workload import Observer, Reading

if TYPE_CHECKING:
    import ssl

    from falaj.serving.scaling import Observation

_START_SECONDS = 60.0
_ASK_SECONDS = 2.0


@dataclass
class Worker:
    """What one actor serves, made on the machine where Ray has placed it."""

    application: Application
    workload: Path
    """Where the application tells how much there is to do."""
    context: ssl.SSLContext | None = None
    close: Callable[[], None] = lambda: None
    linger_seconds: float = 5.0


class InferenceActor:
    """One inference worker; the class of the actor.

    Args:
        name: of the worker, unique among all.
        make: makes what is served; it must be importable where the actor runs.

    Raises:
        Unavailable: it is not ready in time. Ray then starts it again.
    """

    def __init__(self, name: str, make: Callable[[str], Worker]) -> None:
        ray: Any = import_module("ray")
        self._worker = make(name)
        host = ray.util.get_node_ip_address()
        bound = socket.create_server((host, 0), backlog=2048)
        self._address = f"{host}:{bound.getsockname()[1]}"
        self._drain: Callable[[], None] = lambda: None
        self._ended = threading.Event()
        ready = threading.Event()
        thread = threading.Thread(
            target=self._serve, args=(bound, ready), name="falaj-front", daemon=True
        )
        thread.start()
        if not ready.wait(_START_SECONDS):
            raise Unavailable(f"The worker {name} is not ready after {_START_SECONDS:g} s.")

    def _serve(self, bound: socket.socket, ready: threading.Event) -> None:
        try:
            run(
                self._worker.application,
                [bound],
                context=self._worker.context,
                ready=ready.set,
                drainable=lambda drain: setattr(self, "_drain", drain),
                linger_seconds=self._worker.linger_seconds,
            )
        finally:
            self._worker.close()
            self._ended.set()

    def told(self) -> tuple[str, int, tuple[int, ...] | None]:
        """Its address, its process, and its page (see ``falaj.serving.workload``)."""
        if self._ended.is_set():
            os._exit(1)  # it serves nothing any more, though nobody asked it to end
        reading = Reading.of(self._worker.workload)
        return self._address, os.getpid(), None if reading is None else reading.slots

    def leave(self, seconds: float) -> None:
        """Answer what is asked, take nothing more, and end; returns when that is done."""
        self._drain()
        self._ended.wait(seconds)
        ray: Any = import_module("ray")
        ray.actor.exit_actor()


class RayWorkers:
    """A pool of inference workers on Ray; fulfils ``pools.WorkerPool``.

    The program must be connected to Ray already, and the folder of the platform must be
    there, at the same path, on every machine that Ray may choose.

    Args:
        make: makes what a worker of that name serves.
        publish: is given the addresses (``host:port``) of the workers that serve, whenever
            they change; a worker that leaves is taken out of them before it is drained.
        cpus: cores of one worker.
        gpus: GPUs of one worker; a share of one is allowed.
        settle_seconds: so long may a load balancer take to follow ``publish``.
    """

    name = "ray"

    def __init__(
        self,
        make: Callable[[str], Worker],
        publish: Callable[[Sequence[str]], None],
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        settle_seconds: float = 5.0,
    ) -> None:
        import ray

        self._ray: Any = ray
        self._actor = self._ray.remote(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=0,
            max_concurrency=4,
        )(InferenceActor)
        self._make = make
        self._publish = publish
        self._settle = settle_seconds
        self._members: dict[str, Any] = {}
        self._leaving: dict[str, tuple[Any, float]] = {}
        self._addresses: dict[str, str] = {}
        self._published: list[str] = []
        self._seen: set[str] = set()
        self._observer = Observer()
        self._made = 0

    @property
    def addresses(self) -> list[str]:
        """Where the workers that serve are reached, in the order in which they were made."""
        return [self._addresses[name] for name in self._members if name in self._addresses]

    def resize(self, workers: int) -> None:
        """Have so many workers; see ``WorkerPool.resize``."""
        for _ in range(workers - len(self._members)):
            self._made += 1
            name = f"ray-{self._made}-{os.getpid()}"
            self._members[name] = self._actor.remote(name, self._make)
        for name in list(self._members)[workers:]:
            actor = self._members.pop(name)
            self._addresses.pop(name, None)
            self._seen.discard(name)
            self._leaving[name] = (actor, time.monotonic() + self._settle)
        self._tell()

    def observe(self, at: float) -> Observation | None:
        """What the workers did since the last call; see ``WorkerPool.observe``.

        A worker that does not answer is placed and started again by Ray; until then its
        share falls to the others, and its address is not published.
        """
        self._let_go()
        asked = {actor.told.remote(): name for name, actor in self._members.items()}
        done, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_ASK_SECONDS)
        readings: dict[str, Reading] = {}
        for reference in done:
            name = asked[reference]
            try:
                address, _pid, slots = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._lost(name, error)
                continue
            self._addresses[name] = address
            self._seen.add(name)
            if slots is not None:
                readings[name] = Reading(tuple(slots))
        for reference, name in asked.items():
            if reference not in done and name in self._seen:
                self._lost(name, None)
        self._tell()
        if self._members.keys() - self._seen or not readings:
            return None  # one is about to help
        return self._observer.observe(at, readings, workers=len(self._members))

    def _lost(self, name: str, error: Exception | None) -> None:
        if self._addresses.pop(name, None) is not None:
            logger(__name__).error(
                "worker lost; Ray starts it again", worker=name, error=str(error)
            )

    def _let_go(self) -> None:
        """Drain the workers whose addresses have been taken out for long enough."""
        now = time.monotonic()
        for name, (actor, due) in list(self._leaving.items()):
            if now >= due:
                actor.leave.remote(60.0)
                del self._leaving[name]

    def _tell(self) -> None:
        addresses = self.addresses
        if addresses != self._published:
            self._publish(addresses)
            self._published = addresses

    def close(self) -> None:
        """End all workers at once."""
        for actor in [*self._members.values(), *(actor for actor, _ in self._leaving.values())]:
            self._ray.kill(actor)
        self._members.clear()
        self._addresses.clear()
        self._tell()


def connect(address: str, **options: Any) -> None:
    """Connect this program to a Ray cluster that asks for a token.

    Args:
        address: of the cluster (``auto``, ``host:6379``), or ``local`` to start one here.
        options: further options of ``ray.init``.

    Raises:
        Unavailable: Ray is not installed, does not answer, or is to run without a token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise Unavailable(
            "Ray would run the programs of anybody who reaches it: no token is asked for.",
            hint="Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here and on every node of Ray.",
        )
    try:
        import ray
    except ImportError:
        raise Unavailable("Ray is not installed.", hint="Install `falaj[ray]`.") from None
    given: Mapping[str, Any] = options if address == "local" else {"address": address, **options}
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **given)
    except FalajError:
        raise
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise Unavailable(
            f"Ray at {address} does not answer: {str(error)[:300]}",
            hint="Check the address, and that the token is the cluster's.",
        ) from error
