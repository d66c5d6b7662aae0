"""Standard changes: what may be done at once, because its template was approved beforehand.

A template is declared, proposed by an administrator and approved by another person, as a
policy is. It names the kind of change, the assets that it is for, and bounds on what was
measured and on what would be carried out. Inside them the change needs nobody; outside of
them it is asked for as any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from falaj.catalog.definitions import Definition
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import Conflict

_ABSENT = object()


class OutsideBounds(Conflict):
    """A standard change is not inside the bounds of its template: another person decides."""

    code = "outside-bounds"


class Bound(BaseModel):
    """What one fact of a change must be.

    ``fact`` is a path into the change: ``evidence.auc``, ``payload.rows``. A fact that is not
    there, or is of another type than the bound, is outside.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fact: str = Field(pattern=r"^(evidence|payload)(\.[A-Za-z0-9_-]+)+$")
    at_least: float | None = None
    at_most: float | None = None
    one_of: tuple[str | int | bool, ...] = ()

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.at_least is None and self.at_most is None and not self.one_of:
            raise ValueError("a bound says at_least, at_most or one_of")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is above at_most: nothing is inside")
        return self

    def broken(self, facts: Mapping[str, Any]) -> str:
        """In which way the facts are outside of this bound; empty if they are inside."""
        value = _at(facts, self.fact)
        if value is _ABSENT:
            return f"{self.fact} is not told"
        if self.one_of and not any(
            type(value) is type(one) and value == one for one in self.one_of
        ):
            return f"{self.fact} is {value!r}, none of {', '.join(map(repr, self.one_of))}"
        return "" if self.at_least is None and self.at_most is None else self._beyond(value)

    def _beyond(self, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return f"{self.fact} is {value!r}, no number"
        if self.at_least is not None and value < self.at_least:
            return f"{self.fact} is {value:g}, below {self.at_least:g}"
        if self.at_most is not None and value > self.at_most:
            return f"{self.fact} is {value:g}, above {self.at_most:g}"
        return ""


class ChangeTemplate(Definition):
    """A change that is approved in advance, as long as it stays inside bounds.

    It is proposed by an administrator and comes into force when another person approves.
    """

    kind: ClassVar[str] = "change_template"
    proposed: ClassVar[bool] = True

    change: str = Field(min_length=1, max_length=64)
    """The kind of change that it permits, such as ``model_promotion``."""
    subjects: tuple[str, ...] = Field(min_length=1)
    """The assets that it is for, as ``kind:key``, which may hold ``*``."""
    bounds: tuple[Bound, ...] = ()
    """All of them hold."""
    most_per_day: int | None = Field(None, ge=1)
    """As many changes by this template in any 24 hours; None for no limit."""
    ends_at: AwareDatetime | None = None
    """From when on it permits nothing any more; None for never."""
    enabled: bool = True

    def broken(
        self,
        kind: str,
        subject: AssetRef,
        facts: Mapping[str, Any],
        *,
        now: datetime,
        n_today: int,
    ) -> list[str]:
        """In which ways a change is outside of this template; empty if it is inside.

        Args:
            kind: of the change.
            subject: what it would change.
            facts: its ``evidence`` and ``payload``.
            now: the time.
            n_today: the changes by this template in the 24 hours before.
        """
        found = []
        if not self.enabled:
            found.append("it is not enabled")
        if self.ends_at is not None and now >= self.ends_at:
            found.append(f"it ended at {self.ends_at.isoformat()}")
        if kind != self.change:
            found.append(f"it permits changes of the kind {self.change!r}, not {kind!r}")
        if not any(fnmatchcase(str(subject), pattern) for pattern in self.subjects):
            found.append(f"it is not for {subject}")
        if self.most_per_day is not None and n_today >= self.most_per_day:
            found.append(f"it was used {n_today} times in 24 hours")
        return found + [told for bound in self.bounds if (told := bound.broken(facts))]


def _at(facts: Mapping[str, Any], path: str) -> Any:
    value: Any = facts
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return _ABSENT
        value = value[name]
    return value
