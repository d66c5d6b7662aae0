"""A request for predictions in any protocol, and who answers it by one set of rules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from falaj.serving.deadlines import deadline_of

if TYPE_CHECKING:
    from falaj.serving.credentials import Credentials
    from falaj.serving.front import Request, Told
    from falaj.serving.model import Limits
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Parsed
    from falaj.serving.trails import Trail

ANYBODY = "anybody with a token"
"""What somebody asks for who asks for nothing in particular."""
INLINE_BYTES = 256 << 10
"""Larger bodies are decoded on a thread, so that other requests are not held up."""
Parse = Callable[["RequestPlan", str], "Parsed"]
"""Decodes a request for a plan and a caller's id; raises FalajError. It may run on a thread."""


@dataclass(slots=True)
class Question:
    """One request for predictions, before it is known who asks and which release answers."""

    endpoint: str
    credentials: Credentials
    """What it shows of who asks."""
    started: float
    """``time.perf_counter()`` when it arrived."""
    n_bytes: int
    """The size of its body."""
    parse: Parse
    until: float | None = None
    """``time.perf_counter()`` by which the client wants its answer, if it says so."""
    trail: Trail | None = None
    """Of a request that is tracked."""
    rested: float = 0.0
    """See ``requests.Request``."""

    @classmethod
    def of(cls, request: Request, endpoint: str, parse: Parse) -> Question:
        """What a request over HTTP asks of an endpoint; raises BadRequest."""
        return cls(
            endpoint,
            request.credentials,
            request.started,
            len(request.body),
            parse,
            deadline_of(request),
            request.trail,
            request.rested,
        )


class Predictions(Protocol):
    """Answers questions: admission, limits, lanes and the log are the same for every protocol."""

    def ask(self, question: Question) -> Awaitable[Told]:
        """The answer; FalajError is raised at once or from what is returned."""
        ...

    async def plan_for(self, name: str, credentials: Credentials) -> RequestPlan:
        """The active plan of an endpoint, for one who may ask it; raises as ``ask`` does."""
        ...

    async def known(self, credentials: Credentials) -> None:
        """Return if the caller holds a valid token; raises Unauthenticated."""
        ...

    def limits_of(self, name: str) -> Limits:
        """The limits of an endpoint; those of a new one if this worker does not serve it."""
        ...

    def problem_of(self, error: BaseException, *, endpoint: str, what: str) -> dict[str, Any]:
        """The problem document of an error, with its HTTP status, once it is counted and logged.

        Args:
            error: what was raised.
            endpoint: whose request it was; may be empty.
            what: was called, for the worker's log.
        """
        ...

    @property
    def why_not_ready(self) -> str | None:
        """Why the worker is not ready; None if it is."""
        ...
