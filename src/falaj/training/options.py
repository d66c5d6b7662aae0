"""How a model is trained beside its trainer's own parameters: the words of a request."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(gt=0, lt=1)]
Weight = Annotated[float, Field(gt=0, le=1e6)]
Column = Annotated[str, Field(min_length=1, max_length=100)]


class _Option(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassWeights(_Option):
    """What a row of each class counts in the loss that is learned from.

    ``balanced`` gives both classes the same sum: a row of class c counts n / (2 n_c), as in
    King and Zeng (2001). Only training rows are weighted: what is measured is not.
    """

    balanced: bool = False
    zero: Weight = 1.0
    one: Weight = 1.0

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.balanced and (self.zero, self.one) != (1.0, 1.0):
            raise ValueError("give either balanced or the weights of the classes, not both")
        return self


class CalibrationMethod(StrEnum):
    """How scores are turned into probabilities."""

    PLATT = "platt"
    ISOTONIC = "isotonic"


class Calibrating(_Option):
    """Fit a calibration on rows that nothing else is judged by.

    They are cut from the validation part: the latest rows of it, or, where the set is split
    by groups, whole groups. Early stopping and the validation metrics see the others.
    """

    method: CalibrationMethod = CalibrationMethod.PLATT
    share: Share = 0.5
    """Of the validation part."""


class CrossValidation(_Option):
    """Train and judge on several cuts of the training part, before the model itself is trained.

    ``expanding`` and ``rolling`` judge each fold on a stretch of time after all that it
    learned from; ``embargo`` leaves out the rows that lie within that time before the
    stretch. An expanding fold learns from everything earlier, a rolling one from as much time
    as one stretch times ``folds_back``. ``grouped`` keeps the rows of a group together, and
    ``stratified`` the share of label 1 the same; those two know nothing of time. With
    ``group`` given, rows of a group that is judged are never learned from, whatever the kind.
    """

    kind: Literal["expanding", "rolling", "grouped", "stratified"] = "expanding"
    folds: Annotated[int, Field(ge=2, le=20)] = 5
    embargo: timedelta = timedelta(0)
    folds_back: Annotated[int, Field(ge=1, le=20)] = 2
    group: Column | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "grouped" and self.group is None:
            raise ValueError("a grouped cross-validation needs the column `group`")
        if self.embargo < timedelta(0):
            raise ValueError("an embargo is a time before the judged rows, not after them")
        if self.embargo and self.kind in ("grouped", "stratified"):
            raise ValueError("an embargo has a meaning over time alone: expanding or rolling")
        return self


class Checkpointing(_Option):
    """How often the state of a fit is kept, so that a killed job goes on from there.

    A trainer offers its state at places that its own parameters name (``checkpoint_rounds``
    for trees, each epoch for networks); it is kept if ``seconds`` have passed since the last.
    """

    seconds: Annotated[float, Field(ge=0, le=86_400)] = 30.0
