"""Questions of every protocol, answered by one set of rules; fulfils ``question.Predictions``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from falaj.serving.errors import BodyTooLarge
from falaj.serving.model import Limits
from falaj.serving.question import ANYBODY, INLINE_BYTES, Question

if TYPE_CHECKING:
    from falaj.serving.admission import Admission
    from falaj.serving.credentials import Credentials
    from falaj.serving.front import Told
    from falaj.serving.lanes import Lane
    from falaj.serving.plan import RequestPlan
    from falaj.serving.plans import Plans
    from falaj.serving.predictions import Parsed

_UNKNOWN = Limits()
"""Of an endpoint whose plan this worker may have to build yet."""


class Asking:
    """Admits, bounds and decodes a question, and hands it to its endpoint's lane.

    Args:
        plans: the worker's plans.
        admission: remembers who may.
        admitted: asks who may, and brings the plans up to date.
        woken: wakes the model of an endpoint that sleeps.
        lane: the lane of an endpoint.
        aside: threads for large bodies.
        problem_of: see ``question.Predictions.problem_of``.
        unready: why no request should come here.
    """

    def __init__(
        self,
        *,
        plans: Plans,
        admission: Admission,
        admitted: Callable[[str, Credentials], Awaitable[str]],
        woken: Callable[[str, float], Awaitable[RequestPlan]],
        lane: Callable[[str], Lane],
        aside: ThreadPoolExecutor,
        problem_of: Callable[..., dict[str, Any]],
        unready: Callable[[], dict[str, str]],
    ) -> None:
        self._plans = plans
        self._admission = admission
        self._admitted = admitted
        self._woken = woken
        self._lane = lane
        self._aside = aside
        self.problem_of = problem_of
        self._unready = unready

    def ask(self, question: Question) -> Awaitable[Told]:
        """The answer to a question of any protocol; see ``question.Predictions``."""
        if question.trail is not None:
            question.trail.endpoint = question.endpoint
        caller = self._admission.remembered(
            question.credentials, question.endpoint, question.started
        )
        if (
            caller is None
            or self._plans.behind
            or question.n_bytes > INLINE_BYTES
            or question.endpoint in self._plans.asleep
        ):
            return self._ask_later(question, caller)
        plan = self._plan_of(question)
        lane = self._lane(question.endpoint)
        if lane.full(plan, question.rested):  # told before the body is looked at
            raise lane.overloaded()
        return self._scored(question, plan, question.parse(plan, caller))

    async def _ask_later(self, question: Question, caller: str | None) -> Told:
        if caller is None or self._plans.behind:
            caller = await self._admitted(question.endpoint, question.credentials)
        if question.endpoint in self._plans.asleep:
            await self._woken(question.endpoint, question.started)
        plan = self._plan_of(question)
        if question.n_bytes > INLINE_BYTES:
            loop = asyncio.get_running_loop()
            parsed = await loop.run_in_executor(self._aside, question.parse, plan, caller)
        else:
            parsed = question.parse(plan, caller)
        return await self._scored(question, plan, parsed)

    def _plan_of(self, question: Question) -> RequestPlan:
        plan = self._plans.named(question.endpoint)
        if question.n_bytes > plan.limits.body_bytes:
            raise BodyTooLarge(
                f"The body has {question.n_bytes} bytes; {question.endpoint!r} takes "
                f"{plan.limits.body_bytes}.",
                hint="Send the rows in several requests.",
            )
        return plan

    def _scored(
        self, question: Question, plan: RequestPlan, parsed: Parsed
    ) -> asyncio.Future[Told]:
        if question.until is not None:
            parsed.deadline = min(parsed.deadline, question.until)
        if question.trail is not None:
            question.trail.caller = parsed.caller
            question.trail.understood(parsed)
        return self._lane(question.endpoint).scored(plan, parsed)

    async def plan_for(self, name: str, credentials: Credentials) -> RequestPlan:
        """The active plan of an endpoint, for one who may ask it; raises as ``ask`` does."""
        now = time.perf_counter()
        if self._admission.remembered(credentials, name, now) is None or self._plans.behind:
            await self._admitted(name, credentials)
        if name in self._plans.asleep:
            await self._woken(name, now)
        return self._plans.named(name)

    async def known(self, credentials: Credentials) -> None:
        """Return if the caller holds a valid token; raises Unauthenticated."""
        if self._admission.remembered(credentials, ANYBODY, time.perf_counter()) is None:
            await self._admission.asked(credentials, ANYBODY, lambda _: None)

    def limits_of(self, name: str) -> Limits:
        """The limits of an endpoint; those of a new one if this worker does not serve it."""
        release = self._plans.release(name)
        return _UNKNOWN if release is None else release.limits

    @property
    def why_not_ready(self) -> str | None:
        """Why the worker is not ready; None if it is."""
        return ", ".join(self._unready().values()) or None
