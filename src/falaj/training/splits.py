"""Splits by groups and by strata: the words; ``partition`` does the cutting.

A part is chosen by a hash, never by a row's place, so that the same data gives the same
parts in whatever order it comes.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Column = Annotated[str, Field(min_length=1, max_length=100)]


class _Shares(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    validation: Share = 0.15
    test: Share = 0.15
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 7

    @model_validator(mode="after")
    def _leaves_rows(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("the shares of validation and test must leave rows to train on")
        return self


class GroupSplit(_Shares):
    """All rows of a group (a customer, a machine) go to the same part.

    The group's value and the seed alone decide, so that a group stays in its part when the
    data grows. The shares hold for groups, not for rows: unequal groups give other shares.
    A row without a value is left out, as outside.
    """

    group: Column


class StratifiedSplit(_Shares):
    """Each part has the same share of each label, and of each value of the columns in ``by``.

    Within a stratum the shares are met to within a row. A split by strata knows nothing of
    time: use it where rows do not tell of each other.
    """

    by: tuple[Column, ...] = ()
