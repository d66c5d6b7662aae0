"""Models that nobody asks for are put to sleep, and woken by the first request.

An endpoint that was asked nothing for ``idle_seconds`` lets go of its models in this
worker; its release stays active and counts as prepared. The first request that comes opens
and verifies the bundle again and waits for it, and those that come meanwhile wait with it,
each until its own deadline.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from falaj.kernel.errors import NotFound
from falaj.kernel.telemetry import logger
from falaj.serving.errors import DeadlineExceeded, Overloaded

if TYPE_CHECKING:
    from falaj.serving.plan import RequestPlan
    from falaj.serving.plans import Plans

MOST_WAKES = 2
"""Models that a worker wakes at once; the next ones wait, so that those awake go on."""


class Sleeping:
    """Puts the models of one worker to sleep, and wakes them.

    Args:
        plans: the worker's plans.
        idle_seconds: so long must nobody have asked; 0: no model is put to sleep.
    """

    def __init__(self, plans: Plans, *, idle_seconds: float = 0.0) -> None:
        self._plans = plans
        self._idle = idle_seconds
        self._seen: dict[str, tuple[RequestPlan, int, float]] = {}
        self._waking: dict[str, asyncio.Future[RequestPlan]] = {}
        self._waiters: dict[str, int] = {}
        self._threads = ThreadPoolExecutor(MOST_WAKES, thread_name_prefix="falaj-wake")

    def look(self) -> None:
        """Put to sleep what was idle for long enough; call it about every second."""
        if not self._idle:
            return
        now = time.monotonic()
        asleep = []
        before, self._seen = self._seen, {}
        plan: RequestPlan | None
        known: RequestPlan | None
        for endpoint, plan in self._plans.active.items():
            asked = plan.n_asked
            known, count, since = before.get(endpoint, (plan, asked, now))
            if known is not plan or count != asked:
                since = now
            if now - since >= self._idle and self._plans.sleep(endpoint):
                asleep.append(endpoint)
            else:
                self._seen[endpoint] = (plan, asked, since)
        if asleep:
            before.clear()
            plan = known = None  # nobody holds what sleeps
            _give_back()
            for endpoint in asleep:
                logger(__name__).info("model asleep", endpoint=endpoint)

    async def woken(self, endpoint: str, started: float) -> RequestPlan:
        """The plan of an endpoint, once it is awake.

        Args:
            endpoint: whose model sleeps.
            started: ``time.perf_counter()`` when the request arrived.

        Raises:
            DeadlineExceeded: it did not wake within the endpoint's deadline.
            Overloaded: as many requests as the endpoint allows wait for it.
            FalajError: why it cannot be loaded any more.
        """
        release = self._plans.release(endpoint)
        if release is None:
            raise NotFound(f"There is no endpoint {endpoint!r} that serves.")
        waiters = self._waiters.get(endpoint, 0)
        if waiters >= release.limits.concurrency:
            raise Overloaded(
                f"{waiters} requests wait until {endpoint!r} is awake, which is its limit.",
                hint="Repeat the request after the time that Retry-After names.",
            )
        left = started + release.limits.deadline_seconds - time.perf_counter()
        self._waiters[endpoint] = waiters + 1
        try:
            return await asyncio.wait_for(asyncio.shield(self._wake(endpoint)), max(0.0, left))
        except TimeoutError:
            raise DeadlineExceeded(
                f"{endpoint!r} did not wake within the {release.limits.deadline_seconds:g} s that "
                "it allows.",
                hint="Repeat the request; the model goes on loading.",
            ) from None
        finally:
            self._waiters[endpoint] -= 1

    def stop(self) -> None:
        """Wake nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _wake(self, endpoint: str) -> asyncio.Future[RequestPlan]:
        waking = self._waking.get(endpoint)
        if waking is None:
            loop = asyncio.get_running_loop()
            began = time.perf_counter()
            waking = loop.run_in_executor(self._threads, self._plans.wake, endpoint)
            self._waking[endpoint] = waking

            def done(woken: asyncio.Future[RequestPlan]) -> None:
                del self._waking[endpoint]
                if woken.cancelled():
                    return
                error, took = woken.exception(), round(time.perf_counter() - began, 3)
                if error is None:
                    logger(__name__).info("model awake", endpoint=endpoint, seconds=took)
                else:
                    logger(__name__).error(
                        "model does not wake", endpoint=endpoint, error=str(error)
                    )

            waking.add_done_callback(done)
        return waking


def _give_back() -> None:
    """Have the C library return to the system what was freed, where it can (glibc)."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
