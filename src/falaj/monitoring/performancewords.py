"""What a monitor declares of performance: which figures keep which limits, and in which slices."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.training.targets import Task

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}$")]
Figure = Literal[
    "accuracy",
    "precision",
    "recall",
    "f1",
    "auc",
    "average_precision",
    "log_loss",
    "brier",
    "positive_rate",
    "mae",
    "rmse",
    "macro_f1",
]
FIGURES_OF: dict[Task, frozenset[Figure]] = {
    "binary": frozenset(
        ("accuracy", "precision", "recall", "f1", "auc", "average_precision", "log_loss", "brier",
         "positive_rate")
    ),
    "regression": frozenset(("mae", "rmse")),
    "classes": frozenset(("accuracy", "macro_f1", "log_loss")),
}  # fmt: skip
"""What is realised of each kind of labels, and may be limited."""
Gap = Literal[
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "equalised_odds_difference",
    "calibration_difference",
]
SliceOf = Literal["field", "input", "log", "label"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Slice(_Frozen):
    """By what rows are told apart: a value of the request, of the model's inputs, of the log or
    of the label table."""

    by: Name
    of: SliceOf = "field"
    """``field``: of the request; ``input``: of the model that serves now, as it was served;
    ``log``: variant, version, model or release; ``label``: a column of the label table."""
    edges: tuple[float, ...] = Field(default=(), max_length=50)
    """Of numbers, growing: below the first, between them, and from the last on. Without them
    numbers of more than 12 values are cut into quarters of the rows."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if any(not low < high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("the edges of a slice must grow")
        if self.of == "log" and self.by not in LOG_COLUMNS:
            raise ValueError(f"a slice of the log is by one of {', '.join(LOG_COLUMNS)}")
        return self


LOG_COLUMNS = ("variant", "version", "model", "release")


class FigureLimit(_Frozen):
    """What a figure must keep. It is crossed when the whole confidence band lies beyond."""

    figure: Figure
    at_least: Share | None = None
    at_most: Annotated[float, Field(ge=0)] | None = None
    worse_by: Annotated[float, Field(gt=0)] | None = None
    """Of an estimate: how much worse than on the labelled rows that it is estimated from."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.at_least is None and self.at_most is None and self.worse_by is None:
            raise ValueError("give at_least, at_most or worse_by")
        if self.worse_by is not None and self.figure == "positive_rate":
            raise ValueError("a rate of positives is neither better nor worse")
        return self


class CalibrationLimits(_Frozen):
    """When scores come true too seldom or too often: it is surely so, and it matters."""

    error_at_most: Share = 0.05
    """Of the expected calibration error, by the low end of its band."""
    p_value: Share = 0.01
    """Of the test that scores come true as often as they say."""


class FairnessLimits(_Frozen):
    """How far apart groups may be treated. A limit is crossed by the whole band of a gap."""

    groups: Slice
    demographic_parity_difference_at_most: Share | None = None
    demographic_parity_ratio_at_least: Share | None = None
    """The four-fifths rule is 0.8."""
    equal_opportunity_difference_at_most: Share | None = None
    equalised_odds_difference_at_most: Share | None = None
    calibration_difference_at_most: Share | None = None

    @property
    def limits(self) -> dict[Gap, float]:
        """Those that are set, by gap."""
        named: dict[Gap, float | None] = {
            "demographic_parity_difference": self.demographic_parity_difference_at_most,
            "demographic_parity_ratio": self.demographic_parity_ratio_at_least,
            "equal_opportunity_difference": self.equal_opportunity_difference_at_most,
            "equalised_odds_difference": self.equalised_odds_difference_at_most,
            "calibration_difference": self.calibration_difference_at_most,
        }
        return {name: limit for name, limit in named.items() if limit is not None}

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.limits:
            raise ValueError("give at least one limit")
        return self


class Quality(_Frozen):
    """What of a model's performance raises an alert.

    Estimates need no labels; all else is told from labels as they arrive. A limit raises an
    alert when it is crossed in the last ``periods_in_a_row`` periods that have rows enough.
    """

    threshold: Share = 0.5
    """A score from here on predicts label 1."""
    by: Literal["day", "week", "month"] = "day"
    periods_in_a_row: Annotated[int, Field(ge=1, le=30)] = 1
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    least_rows: Annotated[int, Field(ge=20)] = 100
    """Periods with fewer rows (or labels, for what needs labels) raise nothing."""
    estimated: tuple[FigureLimit, ...] = ()
    realised: tuple[FigureLimit, ...] = ()
    slices: Annotated[tuple[Slice, ...], Field(max_length=10)] = ()
    """The realised limits hold in each slice too."""
    calibration: CalibrationLimits | None = None
    fairness: Annotated[tuple[FairnessLimits, ...], Field(max_length=10)] = ()

    @property
    def needs_labels(self) -> bool:
        """True if something of it cannot be told without labels."""
        gaps = {name for one in self.fairness for name in one.limits}
        with_labels = {name for name in gaps if not name.startswith("demographic_parity")}
        return bool(self.realised or self.calibration or with_labels)

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if any(one.worse_by is not None for one in self.realised):
            raise ValueError("worse_by is of estimates; give realised figures at_least or at_most")
        if self.slices and not self.realised:
            raise ValueError("slices are of realised figures; give limits for those")
        if not (self.estimated or self.realised or self.calibration or self.fairness):
            raise ValueError(
                "nothing is watched; give estimated, realised, calibration or fairness"
            )
        return self
