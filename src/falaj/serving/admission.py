"""Who may ask an endpoint: tokens and decisions, kept for a second.

Within a second of a revoked token, a changed policy or a withdrawn grant, every worker
asks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from falaj.kernel.actions import PLATFORM
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, Forbidden, NotFound, Unauthenticated
from falaj.kernel.ports import Policy, Resource

if TYPE_CHECKING:
    from falaj.serving.ports import Verifier

KEPT_SECONDS = 1.0
_MOST_KEPT = 20_000
_LONGEST_TOKEN = 8_192
PREDICT = "endpoints.predict"


class Admission:
    """Verifies tokens and decides, off the event loop; remembers both for a second.

    Args:
        verifier: tells who holds a token.
        policy: decides.
        aside: the threads on which both are asked.
    """

    def __init__(self, verifier: Verifier, policy: Policy, aside: ThreadPoolExecutor) -> None:
        self._verifier = verifier
        self._policy = policy
        self._aside = aside
        self._kept: dict[tuple[bytes, str], tuple[float, str | FalajError]] = {}

    def remembered(self, authorization: bytes, endpoint: str, now: float) -> str | None:
        """The caller's id, if it was admitted within the last second.

        Args:
            authorization: the header's value.
            endpoint: whom it asks.
            now: ``time.perf_counter()``.

        Raises:
            FalajError: it was refused within the last second.
        """
        kept = self._kept.get((authorization, endpoint))
        if kept is None or kept[0] < now:
            return None
        if isinstance(kept[1], FalajError):
            raise kept[1].with_traceback(None)
        return kept[1]

    async def admitted(
        self, authorization: bytes, endpoint: str, attributes: Mapping[str, str] | None
    ) -> str:
        """Verify and decide; the caller's id.

        Args:
            authorization: the header's value.
            endpoint: whom it asks; the empty text asks to list the endpoints.
            attributes: of the endpoint, as the policy sees them; None if nothing serves.

        Raises:
            Unauthenticated: no token, or one that is wrong, expired or revoked.
            Forbidden, NotFound: the policy says no, or there is no such endpoint.
        """
        loop = asyncio.get_running_loop()
        answer: str | FalajError
        try:
            answer = await loop.run_in_executor(
                self._aside, self._asked, authorization, endpoint, attributes
            )
        except (Unauthenticated, Forbidden, NotFound) as error:
            answer = error
        if attributes is not None or isinstance(answer, Unauthenticated):
            # That there is no such endpoint is not kept: it may be activated right now.
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            self._kept[authorization, endpoint] = (time.perf_counter() + KEPT_SECONDS, answer)
        if isinstance(answer, FalajError):
            raise answer
        return answer

    def _asked(
        self, authorization: bytes, endpoint: str, attributes: Mapping[str, str] | None
    ) -> str:
        caller = self._verifier.verify(token_of(authorization))
        if not endpoint:
            ref, action = AssetRef(PLATFORM, "*"), "endpoints.list"
        else:
            ref, action = AssetRef("endpoint", endpoint), PREDICT
        resource = Resource(ref, attributes or {}, exists=attributes is not None)
        decision = self._policy.decide(caller, action, resource, stepped_up=False)
        if decision.allowed and resource.exists:
            return caller.principal.id
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
