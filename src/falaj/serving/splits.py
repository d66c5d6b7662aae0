"""The words of dividing an endpoint's units between a champion and its challengers.

An *assignment* is part of an immutable release: who could meet what, at most. A *split* is
how much of it is so at present; it changes while the release serves.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.serving.layers import Stretch

CHAMPION = "champion"
"""The name of the variant that serves whoever meets no challenger."""
Part = Annotated[float, Field(ge=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerPlace(_Frozen):
    """The stretch of a layer's units that a rollout owns; see ``layers.Layer``."""

    name: str = Field(min_length=1, max_length=63)
    low: Part = 0.0
    high: Part = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError("a stretch of a layer ends behind its beginning")
        return self

    @property
    def stretch(self) -> Stretch:
        """The same for reckoning."""
        return Stretch(self.low, self.high)


class Assignment(_Frozen):
    """Who may meet the challengers of a release; the champion meets all others."""

    salt: str = Field(min_length=1, max_length=200)
    """Of the rollout: units are divided independently of other rollouts."""
    final: dict[str, Part]
    """The largest share that each challenger will ever get, in the order of the variants."""
    layer: LayerPlace | None = None
    """Only units in this stretch of the layer take part."""
    holdout: Part = 0.0
    """Of all units, the share that meets the champion in every rollout of the endpoint."""
    segment: str | None = None
    """Interleaved: the request field whose values alternate as a whole."""
    period: timedelta | None = None
    """Interleaved: how long a segment meets one variant."""
    base: str | None = None
    """The release of the champion alone from which the rollout began."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if not self.final or CHAMPION in self.final:
            raise ValueError("an assignment is about challengers, and the champion is none")
        if (self.segment is None) != (self.period is None):
            raise ValueError("a segment and a period go together")
        if self.period is not None and self.period < timedelta(seconds=1):
            raise ValueError("a period is at least a second long")
        return self


class Split(_Frozen):
    """The present shares of the challengers of one release.

    A release with an assignment that has none serves everybody with its champion.
    """

    endpoint: str
    release: str
    shares: dict[str, Part] = {}
    """By challenger; one that is not named has none."""
    revision: int = Field(default=0, ge=0)
    """Rises with each change."""
