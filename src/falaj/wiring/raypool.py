"""The inference workers on Ray: what an actor serves, and what keeps their number right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.kernel.clock import monotonic
from falaj.kernel.settings import Settings, private_folder
from falaj.kernel.telemetry import configure_logging
from falaj.serving.adapters.workers_ray import RayWorkers, Worker, connect
from falaj.serving.balancing import haproxy, written
from falaj.serving.pools import Autoscaler
from falaj.serving.scaling import ScalingSettings
from falaj.serving.scalingrecords import ScalingRecords
from falaj.wiring.assembly import assemble

if TYPE_CHECKING:
    from falaj.wiring.assembly import Premises

_TICK_SECONDS = 1.0


def ray_worker(folder: str, name: str) -> Worker:
    """What an actor serves: the inference application of the platform in a folder.

    Args:
        folder: the project's folder, as it is called on the actor's machine.
        name: of the worker.
    """
    settings = Settings.read(folder)
    configure_logging(level=settings.log_level, as_json=settings.log_format == "json")
    premises = assemble(settings, process=name)
    return Worker(
        premises.serving.inference_app(name),
        settings.home / "workload" / name,
        context=premises.certificates.served(required=settings.inference.client_ca_file).context,
        close=premises.close,
        linger_seconds=settings.inference.drain_seconds,
    )


def keep_ray_pool(
    made: Premises, folder: Path, stopped: threading.Event, ready: Callable[[], None]
) -> None:
    """Have the right number of workers on Ray until ``stopped`` is set.

    Their addresses stand in ``run/inference.addresses`` of the home, one each line, and in
    ``run/inference.haproxy.cfg``.

    Raises:
        Unavailable: Ray does not answer, or would run without a token.
    """
    inference, home = made.settings.inference, made.settings.home
    connect(inference.ray)
    run_folder = private_folder(home / "run")

    def publish(addresses: Sequence[str]) -> None:
        written(run_folder / "inference.addresses", "".join(f"{one}\n" for one in addresses))
        authority = str(home / "tls" / "ca.pem")
        text = haproxy(addresses, port=inference.port, ca_file=authority, certificate=str(probe))
        written(run_folder / "inference.haproxy.cfg", text)

    probe = made.certificates.process_certificate("balancer", "ray")
    pool = RayWorkers(
        partial(ray_worker, str(folder.resolve())),
        publish,
        cpus=inference.ray_cpus,
        gpus=inference.ray_gpus,
    )
    records = ScalingRecords(home / "scaling")
    scaler = Autoscaler(pool, ScalingSettings.of(inference), records.keep)
    try:
        pool.resize(inference.least_workers)
        ready()
        while not stopped.wait(_TICK_SECONDS):
            scaler.tick(monotonic())
    finally:
        pool.close()
