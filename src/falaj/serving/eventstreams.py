"""Predictions as server-sent events: an event for each part and row, and one at the end.

``part`` carries what a generating model makes of a row, piece by piece; ``prediction`` a
row's id and outputs; ``end`` names the request. ``error`` ends a stream that has begun.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec

from falaj.kernel.errors import FalajError
from falaj.serving.errors import BadRequest, ModelFailed, Overloaded
from falaj.serving.front import Response

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from falaj.serving.front import Told
    from falaj.serving.plan import RequestPlan
    from falaj.serving.ports import GeneratingModel
    from falaj.serving.predictions import Outcome, Parsed

EVENTS = b"text/event-stream"
_MORE = {b"cache-control": b"no-store", b"x-accel-buffering": b"no"}
_encode = msgspec.json.Encoder(enc_hook=str).encode
_END: Any = object()


class EventStreams:
    """Writes answers as events; what a model generates is made on threads.

    Args:
        aside: the threads.
        problem_of: takes an error and its endpoint to the document that is told.
    """

    def __init__(
        self, aside: ThreadPoolExecutor, problem_of: Callable[[FalajError, str], dict[str, Any]]
    ) -> None:
        self._aside = aside
        self._problem_of = problem_of
        self._open: Counter[str] = Counter()

    def answering(self, plan: RequestPlan, request: Parsed) -> Parsed:
        """The request, to be answered by events.

        Raises:
            BadRequest: it asks for an explanation too.
            Overloaded: as many streams of the endpoint are open as its concurrency allows.
        """
        if request.explain:
            raise BadRequest("Features are explained in JSON.", hint="Do not ask for events.")
        if self._open[plan.release.endpoint] >= plan.limits.concurrency:
            raise Overloaded(
                f"{plan.release.endpoint!r} has {plan.limits.concurrency} streams open, "
                "which is its limit.",
                hint="Repeat the request after the time that Retry-After names.",
            )
        request.render = self._render
        return request

    def _render(self, plan: RequestPlan, request: Parsed, outcome: Outcome) -> Told:
        return Response(b"", media=EVENTS, more=_MORE, chunks=self._told(plan, request, outcome))

    async def _told(
        self, plan: RequestPlan, request: Parsed, outcome: Outcome
    ) -> AsyncGenerator[bytes, None]:
        endpoint = plan.release.endpoint
        self._open[endpoint] += 1
        tags = None if outcome.judged is None else outcome.judged.told()
        try:
            for row, one in enumerate(outcome.ids):
                variant, inputs = outcome.scored(row)
                if variant.generating is not None:
                    async for part in self._parts(variant.generating, inputs, variant.label):
                        yield _event(b"part", {"row": row, "id": one, "part": part})
                scores = {
                    name: value if isfinite(value) else None
                    for name, value in zip(
                        plan.release.outputs, outcome.outputs[row].tolist(), strict=True
                    )
                }
                told = {"row": row, "id": one, **scores, "model": variant.label}
                if tags is not None:
                    told["anomaly"] = tags[row]
                yield _event(b"prediction", told)
            yield _event(
                b"end",
                {
                    "request_id": request.request_id,
                    "release": plan.release.id,
                    "predictions": outcome.ids,
                },
            )
        except FalajError as error:
            yield _event(b"error", self._problem_of(error, endpoint))
        finally:
            self._open[endpoint] -= 1

    async def _parts(
        self, model: GeneratingModel, inputs: NDArray[np.float32], label: str
    ) -> AsyncGenerator[str, None]:
        """What a model generates; each part is waited for on a thread."""
        iterator: Iterator[str] | None = None

        def step() -> str:
            nonlocal iterator
            if iterator is None:
                iterator = iter(model.generate(inputs))
            return next(iterator, _END)

        pending: Future[str] | None = None
        try:
            while True:
                pending = self._aside.submit(step)
                part = await asyncio.wrap_future(pending)
                if part is _END:
                    return
                yield part
        except FalajError:
            raise
        except Exception as error:
            raise ModelFailed(
                f"The model {label} failed: {type(error).__name__}: {str(error)[:200]}.",
                hint="Roll the endpoint back: `falaj endpoints rollback NAME`.",
            ) from error
        finally:
            if pending is not None:
                # A part may be in the making still: the model is told to stop behind it.
                pending.add_done_callback(lambda _: self._close(iterator))

    def _close(self, iterator: Iterator[str] | None) -> None:
        close = getattr(iterator, "close", None)
        if close is None:
            return
        try:
            self._aside.submit(close)
        except RuntimeError:  # the threads have ended with the worker
            close()


def _event(name: bytes, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _encode(data))
