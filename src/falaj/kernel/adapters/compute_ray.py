"""Compute on Ray: tasks by name on a cluster, or on a Ray that is started on this machine.

Ray pickles what it is given; it is given the name of a task and bytes, and one function of
this package, which it sends by its name. So every machine of the cluster needs the same
version of Falaj, and what tasks open (lake, blobs, keys) must be reachable from there.
"""

from __future__ import annotations

import importlib
import os
import secrets
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from falaj.kernel.clock import monotonic
from falaj.kernel.compute import (
    ATTEMPTS,
    Plain,
    Task,
    TaskLost,
    name_of,
    packed,
    packed_answer,
    result_of,
    unpacked_result,
)
from falaj.kernel.errors import Unavailable
from falaj.kernel.limits import Asked, Check, FarRun, Heard, no_answers
from falaj.kernel.resources import HardwareMissing, Resources, Used

AHEAD = 1
_CHECK_SECONDS = 0.25
_STOP_SECONDS = 2.0
_STARTS = 3
HOST = "127.0.0.1"
_LOOPBACK = ("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
"""Read when Ray is imported: a single machine, so that it listens on loopback alone."""
OBJECT_STORE_BYTES = 256 * 2**20
"""Of a Ray on this machine: what waits between a task and its taker."""


class RayCompute:
    """A ``Compute`` on Ray. One process may hold one of them at a time.

    Args:
        address: ``ray://host:port`` of a cluster; None starts a Ray here, which listens on
            127.0.0.1 alone and asks for a token that only this process and its workers know.
        slots: how many tasks run at a time; by default as many as there are cores.
        memory_bytes: what a task asks Ray for; None asks for nothing.

    Raises:
        Unavailable: Ray is not installed, does not answer, or refuses the token.

    A cluster is only spoken to with its token (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH).
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        slots: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        self._ray = _imported(here=address is None)
        self._memory = memory_bytes
        self._here = address is None
        cores = slots or len(os.sched_getaffinity(0))
        with _signals_kept():
            self._begin(address, cores)
        self.n_slots = slots or max(1, int(self._ray.cluster_resources().get("CPU", 1)))
        wanted: dict[str, Any] = {"num_cpus": 1, "max_retries": ATTEMPTS - 1}
        if memory_bytes is not None:
            wanted["memory"] = memory_bytes
        self._answer = self._ray.remote(**wanted)(packed_answer)

    def ordered(self, task: Task, items: Iterable[Plain]) -> Iterator[Plain]:
        """See ``Compute.ordered``."""
        name = name_of(task)
        begun: deque[Any] = deque()
        try:
            for item in items:
                begun.append(self._answer.remote(name, packed(item)))
                if len(begun) > self.n_slots + AHEAD:
                    yield self._result(name, begun.popleft())
            while begun:
                yield self._result(name, begun.popleft())
        finally:
            for one in begun:
                self._ray.cancel(one, force=True)

    def limited(
        self,
        task: Task,
        item: Plain,
        resources: Resources,
        *,
        heard: Heard,
        check: Check,
        measured: Callable[[Used], None],
        asked: Asked = no_answers,
    ) -> Plain:
        """See ``LimitedCompute.limited``.

        Ray finds a machine with the cores, memory and GPUs; a process of its worker runs the
        task under the same limits as here.
        """
        name, data = name_of(task), packed(item)
        self._must_fit(resources)
        began, used = monotonic(), Used()
        kind_of_actor = self._ray.remote(**_asked_of_ray(resources))(FarRun)
        actor = kind_of_actor.remote(name, data, resources.model_dump_json())
        try:
            for kind, told in self._heard(name, actor, check):
                if kind == "told":
                    heard(told)
                elif kind == "asked":
                    actor.reply.remote(packed(asked(told)))
                elif kind == "used":
                    used = Used.model_validate_json(told)
                else:
                    return result_of(told)
            raise TaskLost(f"{name} ended without an answer.", hint="Ray's log tells why.")
        finally:
            # Ray ends an actor's children, and what those have begun would be left.
            self._ray.wait([actor.stop.remote()], timeout=_STOP_SECONDS)
            self._ray.kill(actor)
            if not used.wall_seconds:  # its process was ended, or lost with its machine
                used = Used(wall_seconds=monotonic() - began)
            measured(used)

    def _must_fit(self, resources: Resources) -> None:
        """Raise HardwareMissing for what a Ray that grows by nothing can never give."""
        if not self._here:
            return  # a cluster may add machines
        there = self._ray.cluster_resources()
        asked = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": resources.memory_bytes}
        for what, wanted in asked.items():
            if wanted > there.get(what, 0):
                raise HardwareMissing(
                    f"The run asks for {wanted:g} of {what}, and this Ray has"
                    f" {there.get(what, 0):g}.",
                    hint="Ask for fewer, or use a cluster (compute = ray://host:10001).",
                )

    def _heard(self, name: str, actor: Any, check: Check) -> Iterator[tuple[str, Plain]]:
        """What the far side says, asking ``check`` meanwhile."""
        broken = self._ray.exceptions
        said = actor.heard.remote(_CHECK_SECONDS)
        while True:
            ready, _ = self._ray.wait([said], timeout=_CHECK_SECONDS)
            check()
            if not ready:
                continue
            try:
                messages = msgspec.msgpack.decode(self._ray.get(said))
            except (broken.RayActorError, broken.OutOfMemoryError,
                    broken.ObjectLostError) as error:  # fmt: skip
                raise TaskLost(
                    f"The worker of {name} was lost ({type(error).__name__}).",
                    hint="Ray's log tells why; it may need more memory than there is.",
                ) from None
            if not messages or messages[-1][0] != "answer":
                said = actor.heard.remote(_CHECK_SECONDS)
            yield from messages
            if messages and messages[-1][0] == "answer":
                return

    def close(self) -> None:
        """See ``Compute.close``."""
        self._ray.shutdown()

    def _begin(self, address: str | None, cores: int) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if address is None:
            quiet |= {
                "address": "local",
                "num_cpus": cores,
                "num_gpus": 0,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
            }
            if self._memory is not None:
                quiet["_memory"] = cores * self._memory
        else:
            quiet["address"] = address
        try:
            self._init(quiet)
            self._must_be_closed(here=address is None)
        except Unavailable:
            self._ray.shutdown()
            raise
        except Exception as error:  # Ray raises whatever its parts do
            where = address or "this machine"
            raise Unavailable(
                f"No Ray answers on {where}: {str(error).strip()[:300]}.",
                hint="Check its address, its version and its token (RAY_AUTH_TOKEN_PATH).",
            ) from error

    def _init(self, given: dict[str, Any]) -> None:
        """Start or join Ray. It gives its own parts 30 s, which a busy machine may exceed."""
        for attempt in range(_STARTS):
            try:
                self._ray.init(**given)
                return
            except Exception as error:
                self._ray.shutdown()
                if attempt == _STARTS - 1 or "timed out during startup" not in str(error):
                    raise

    def _must_be_closed(self, *, here: bool) -> None:
        """Raise Unavailable if this Ray would take tasks from anybody."""
        raylet = importlib.import_module("ray._raylet")
        if raylet.get_authentication_mode() != raylet.AuthenticationMode.TOKEN:
            raise Unavailable(
                "This Ray takes tasks from anybody who reaches its port.",
                hint="Set RAY_AUTH_MODE=token before Ray is imported, and give it a token.",
            )
        if here and self._ray.util.get_node_ip_address() != HOST:
            raise Unavailable(
                "This Ray would listen to other machines.",
                hint=f"Set {_LOOPBACK[0]}={_LOOPBACK[1]} before Ray is imported.",
            )

    def _result(self, name: str, reference: Any) -> Plain:
        broken = self._ray.exceptions
        try:
            answered = self._ray.get(reference)
        except (broken.WorkerCrashedError, broken.NodeDiedError, broken.OutOfMemoryError,
                broken.ObjectLostError) as error:  # fmt: skip
            raise TaskLost(
                f"The process of the task {name} was lost {ATTEMPTS} times"
                f" ({type(error).__name__}).",
                hint="Ray's log tells why; it may need more memory than there is.",
            ) from None
        except broken.RaySystemError as error:
            raise Unavailable(
                f"Ray does not answer: {str(error)[:200]}.", hint="Try it again."
            ) from None
        return unpacked_result(answered)


def _asked_of_ray(resources: Resources) -> dict[str, Any]:
    """The options of a Ray actor that asks for these resources."""
    # KubeRay labels its machines so. What has no label may take any run.
    machines = {} if resources.spot else {"label_selector": {"ray.io/market-type": "!spot"}}
    return machines | {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "memory": resources.memory_bytes,
        "max_restarts": 0,
        "max_concurrency": 4,
    }


def _imported(*, here: bool) -> Any:
    """Ray, told before it is imported what it reads then: to use tokens, to report nothing."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if "ray" not in sys.modules:  # else it has read this already, and is asked below
        os.environ["RAY_AUTH_MODE"] = "token"
    if here:
        os.environ.update([_LOOPBACK])
    if here and not os.environ.get("RAY_AUTH_TOKEN_PATH"):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise Unavailable(
            "Ray is not installed.", hint="Install it with the extra: pip install 'falaj[ray]'."
        ) from None
    return ray


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; the process that uses it keeps its own way to end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for which, handler in kept.items():
            if handler is not None:
                signal.signal(which, handler)
