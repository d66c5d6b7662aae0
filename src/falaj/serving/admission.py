"""Who may do what in a worker: tokens and decisions, kept for half a second.

Within a second of a revoked token, a changed policy or a withdrawn grant, every worker
asks again. Requests that ask the same while it is being decided wait for that one decision:
else a worker that is busy would have all of them decided, and each of them late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import TYPE_CHECKING

from falaj.kernel.actions import PLATFORM
from falaj.kernel.call import AssetRef, Caller
from falaj.kernel.errors import FalajError, Forbidden, NotFound, Unauthenticated
from falaj.kernel.ports import Policy, Resource
from falaj.serving.yielding import yielding
from falaj.trust.bindings import Presented

if TYPE_CHECKING:
    from falaj.serving.credentials import Credentials
    from falaj.serving.ports import Verifier

KEPT_SECONDS = 0.5
"""What is revoked may be told 0.3 s late (``trust.epochs``) on top of it."""
_MOST_KEPT = 20_000
_LONGEST_TOKEN = 8_192
PREDICT = "endpoints.predict"
_Key = tuple["Credentials", Hashable]


class Admission:
    """Verifies tokens and decides, off the event loop; remembers both for half a second.

    Args:
        verifier: tells who holds a token.
        policy: decides.
        aside: the threads on which both are asked.
    """

    def __init__(self, verifier: Verifier, policy: Policy, aside: ThreadPoolExecutor) -> None:
        self._verifier = verifier
        self._policy = policy
        self._aside = aside
        self._kept: dict[_Key, tuple[float, str | FalajError]] = {}
        self._deciding: dict[_Key, tuple[float, asyncio.Task[str | FalajError]]] = {}
        """What is being decided now, and since when."""

    def remembered(self, credentials: Credentials, about: Hashable, now: float) -> str | None:
        """The caller's id, if it was admitted a moment ago.

        Args:
            credentials: what the request shows of who asks.
            about: what it asks for.
            now: ``time.perf_counter()``.

        Raises:
            FalajError: it was refused a moment ago.
        """
        kept = self.remembered_until(credentials, about, now)
        return None if kept is None else kept[1]

    def remembered_until(
        self, credentials: Credentials, about: Hashable, now: float
    ) -> tuple[float, str] | None:
        """As ``remembered``, with the instant (``time.perf_counter()``) until which it holds."""
        kept = self._kept.get((credentials, about))
        if kept is None or kept[0] < now:
            return None
        until, answer = kept
        if isinstance(answer, FalajError):
            raise copy(answer)  # what is raised holds the frames that it went through
        return until, answer

    async def admitted(
        self, credentials: Credentials, endpoint: str, attributes: Mapping[str, str] | None
    ) -> str:
        """Verify and decide on predictions of an endpoint; the caller's id.

        Args:
            credentials: what the request shows of who asks.
            endpoint: whom it asks; the empty text asks to list the endpoints.
            attributes: of the endpoint, as the policy sees them; None if nothing serves.

        Raises:
            Unauthenticated: no token, or one that is wrong, expired, revoked, or bound to a
                certificate that the connection has not shown.
            Forbidden, NotFound: the policy says no, or there is no such endpoint.
        """

        def ask(caller: Caller) -> None:
            self._may_predict(caller, endpoint, attributes)

        # That there is no such endpoint is not kept: it may be activated right now.
        return await self.asked(credentials, endpoint, ask, keep=attributes is not None)

    async def asked(
        self,
        credentials: Credentials,
        about: Hashable,
        ask: Callable[[Caller], None],
        *,
        keep: bool = True,
    ) -> str:
        """Verify a token and ask, on a thread, whether its holder may; the caller's id.

        Args:
            credentials: what the request shows of who asks.
            about: what it asks for; the answer is remembered under it.
            ask: raises if the caller may not.
            keep: False if a refusal may be outdated in a moment.

        Raises:
            Unauthenticated: no token, or one that is wrong, expired, revoked, or bound to a
                certificate that the connection has not shown.
            FalajError: what ``ask`` raised.
        """

        # Not remembered if it is none: that costs nothing, and may be long.
        token = token_of(credentials.authorization)
        key = credentials, about
        now = time.perf_counter()
        running = self._deciding.get(key) if keep else None
        # What was begun so long ago may be older than anything that is remembered.
        if running is None or now - running[0] >= KEPT_SECONDS:
            presented = Presented(certificate=credentials.certificate)
            task = asyncio.ensure_future(
                self._decided(key, token, presented, ask, begun=now, keep=keep)
            )
            running = now, task
            if keep:
                self._deciding[key] = running
        answer = await asyncio.shield(running[1])  # who goes away takes nobody's answer along
        if isinstance(answer, FalajError):
            raise copy(answer)
        return answer

    async def _decided(
        self,
        key: _Key,
        token: str,
        presented: Presented,
        ask: Callable[[Caller], None],
        *,
        begun: float,
        keep: bool,
    ) -> str | FalajError:
        """The caller's id, or why it may not, remembered from when it was begun."""

        def decide() -> str:
            with yielding():
                caller = self._verifier.verify(token, presented)
                ask(caller)
                return caller.principal.id

        answer: str | FalajError
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._aside, decide)
        except (Unauthenticated, Forbidden, NotFound) as error:
            answer = error
        finally:
            known = self._deciding.get(key)
            if known is not None and known[0] == begun:
                del self._deciding[key]
        if keep or isinstance(answer, (str, Unauthenticated)):
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            # A copy: what is raised holds the frames that it went through, and so the request.
            self._kept[key] = begun + KEPT_SECONDS, copy(answer)
        return answer

    def _may_predict(
        self, caller: Caller, endpoint: str, attributes: Mapping[str, str] | None
    ) -> None:
        if not endpoint:
            ref, action = AssetRef(PLATFORM, "*"), "endpoints.list"
        else:
            ref, action = AssetRef("endpoint", endpoint), PREDICT
        resource = Resource(ref, attributes or {}, exists=attributes is not None)
        decision = self._policy.decide(caller, action, resource, stepped_up=False)
        if decision.allowed and resource.exists:
            return
        see = self._policy.decide(caller, "assets.get", resource, stepped_up=False)
        if resource.exists and see.allowed:
            raise Forbidden(
                f"You may not ask {endpoint or 'for metrics'}.",
                hint="Ask an administrator for a role that permits it.",
                permission=action,
            )
        raise NotFound(
            f"There is no endpoint {endpoint!r} that you may see.",
            hint="Check the name, or ask its owner for access.",
        )


def token_of(authorization: bytes) -> str:
    """The bearer token in a header's value; raises Unauthenticated."""
    scheme, _, token = authorization.partition(b" ")
    token = token.strip()
    if scheme.lower() == b"dpop":
        raise Unauthenticated(
            "Workers take no signed requests (DPoP).",
            hint="Use a token that is bound to a client certificate, or to nothing.",
        )
    if scheme.lower() != b"bearer" or not token or len(token) > _LONGEST_TOKEN:
        raise Unauthenticated(
            "The request has no bearer token.",
            hint="Log in (`falaj login`) and send `Authorization: Bearer <token>`.",
        )
    try:
        return token.decode("ascii")
    except UnicodeDecodeError:
        raise Unauthenticated(
            "The bearer token has characters that no token has.", hint="Send it as it was issued."
        ) from None
