"""A challenger whose model fails: who is answered by the champion in its place, and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from falaj.kernel.telemetry import logger
from falaj.serving.errors import ModelFailed

if TYPE_CHECKING:
    from falaj.serving.predictions import Failed, Parsed, Scored

_MOST_FAILURES = 4
"""So many requests of one run are tried alone and fail; the rest is not tried any more."""
_TELL_SECONDS = 10.0
_told: dict[str, float] = {}
"""By model version, when its failure was last told in the log (``time.monotonic()``)."""


_Ran = TypeVar("_Ran")


class StandInFailed(Exception):
    """Some had failed, and what was to be answered in their place met another error.

    Theirs must be counted whatever comes of it; the client is told of the ``cause``.
    """

    def __init__(self, cause: Exception, failed: Failed) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.failed = failed


def in_the_place_of(failed: Failed, run: Callable[[], _Ran]) -> _Ran:
    """What is run after some have failed, as far as any have: others, and the champion for them.

    Raises:
        ModelFailed: the champion's model failed too; the error tells of those that had before.
        StandInFailed: some had failed, and it met another error.
    """
    try:
        return run()
    except ModelFailed as error:
        error.failed = failed or None
        raise
    except Exception as error:
        if not failed:
            raise
        raise StandInFailed(error, failed) from error


class Trial:
    """A challenger's rows of one run, scored as far as its model does not fail on them.

    One request may have spoilt the run for all: then each is scored alone. Only a request that
    failed alone counts as a failure.

    Args:
        run: scores some rows, by their places; raises ModelFailed.
        owners: the request of each row of the whole run.
        mine: the places of the challenger's rows, ascending.
    """

    def __init__(
        self,
        run: Callable[[list[int]], Scored],
        owners: Sequence[Parsed],
        mine: list[int],
    ) -> None:
        self.runs: list[tuple[list[int], Scored]] = []
        """The rows that it scored, by their places, in one run or in several."""
        self.left: list[int] = []
        """The places of the rows that the champion is to score."""
        self.failed: list[int] = []
        """Of each request on which the model failed, the place of its first row."""
        try:
            self.runs.append((mine, run(mine)))
        except ModelFailed as error:
            _tell(error)
            by_owner: dict[int, list[int]] = {}
            for place in mine:
                by_owner.setdefault(id(owners[place]), []).append(place)
            if len(by_owner) == 1:
                self.failed, self.left = mine[:1], mine
                return
            for places in by_owner.values():
                self._alone(run, places)

    def _alone(self, run: Callable[[list[int]], Scored], places: list[int]) -> None:
        if len(self.failed) >= _MOST_FAILURES:
            self.left += places
            return
        try:
            self.runs.append((places, run(places)))
        except ModelFailed:
            self.failed.append(places[0])
            self.left += places


def _tell(error: ModelFailed) -> None:
    """Tell the worker's log, not more often than now and then: nobody else is told why."""
    now = time.monotonic()
    if now - _told.get(error.variant, -_TELL_SECONDS) >= _TELL_SECONDS:
        _told[error.variant] = now
        logger(__name__).error("challenger failed", variant=error.variant, error=str(error))
