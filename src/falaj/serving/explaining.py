"""Who may be told the features that a prediction was made of: whoever may read them.

To ask for a prediction is not to read personal data; to ask for its explanation is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

from falaj.serving.explain import Explain, asked

if TYPE_CHECKING:
    from falaj.kernel.call import Caller
    from falaj.serving.admission import Admission
    from falaj.serving.front import Request
    from falaj.serving.model import Release

Explained = Callable[["Caller", "Release"], None]
"""Returns if a caller may be told the features of a release's predictions; raises Forbidden."""


class Explaining:
    """Admits those who ask for explanations, remembered as long as admission remembers.

    Args:
        admission: verifies tokens.
        release_of: the release that an endpoint serves, or None.
        explained: asks whether a caller may.
    """

    def __init__(
        self,
        admission: Admission,
        release_of: Callable[[str], Release | None],
        explained: Explained,
    ) -> None:
        self._admission = admission
        self._release_of = release_of
        self._explained = explained

    @staticmethod
    def wanted(request: Request) -> bool:
        """True if a request asks for features; raises BadRequest for an unknown word."""
        return b"explain" in request.query and bool(asked(request.query) & Explain.FEATURES)

    async def admit(self, name: str, request: Request) -> None:
        """Return if the caller may be told the features of an endpoint's predictions.

        Raises:
            Unauthenticated: no token, or one that is wrong, expired or revoked.
            StepUpRequired, Forbidden, NotFound: it may not.
        """
        release = self._release_of(name)
        if release is None:
            return  # then there is no prediction to explain, as the caller is told next
        purpose = purpose_of(request)

        def ask(caller: Caller) -> None:
            known = replace(caller, purpose=caller.purpose or purpose, via="http")
            self._explained(known, release)

        credentials = request.credentials
        about = ("explain", name, release.id, purpose)
        if self._admission.remembered(credentials, about, request.started) is None:
            await self._admission.asked(credentials, about, ask, keep=False)


def purpose_of(request: Request) -> str | None:
    """The purpose that a request states."""
    given = request.headers.get(b"falaj-purpose")
    return unquote(given.decode("latin-1"))[:64] if given else None


__all__ = ["Explained", "Explaining", "purpose_of"]
