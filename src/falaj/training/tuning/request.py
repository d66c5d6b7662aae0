"""What a tuning job of the platform's trainers is asked to do."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falaj.training.model import Name, TrainingRequest
from falaj.training.tuning.model import Direction, Metric, Pruner, StudySpec
from falaj.training.tuning.space import ParameterName, Space, check_conditions

PARITY = "parity/"
"""Before a column: the greatest difference of the rates at which its groups are told 1."""


class Budget(BaseModel):
    """A parameter that says how long a fit is, raised in rungs so that trials can be pruned.

    A rung fits with ``first``, ``first * factor``, ``first * factor ** 2`` … up to ``most``;
    after each the pruner is asked. Its settings count in the same unit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameter: ParameterName = "n_trees"
    first: int = Field(ge=1)
    most: int = Field(ge=1)
    factor: int = Field(3, ge=2)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.first > self.most:
            raise ValueError("the first rung is greater than the most")
        return self

    @property
    def rungs(self) -> tuple[int, ...]:
        """The budgets, growing; the last one is ``most``."""
        found = [self.first]
        while found[-1] < self.most:
            found.append(min(found[-1] * self.factor, self.most))
        return tuple(found)


class TuningRequest(BaseModel):
    """Which training is tuned, over what, for what.

    Metrics are those of the validation rows (``auc``, ``log_loss``, ``brier``, …), of the
    fit (``size_bytes``, ``microseconds_per_row``, ``best_iteration``), and
    ``parity/COLUMN``: the greatest difference, between the groups of a column of the spine
    with at least 30 rows each, of the rates at which they score 0.5 or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: Name
    training: TrainingRequest
    """What every trial has in common; its ``params`` are overridden by those that are tried."""
    space: Space
    n_trials: int = Field(ge=1, le=100_000)
    metrics: tuple[Metric, ...] = Field(("log_loss",), min_length=1)
    directions: tuple[Direction, ...] = ("minimize",)
    at_most: dict[Metric, Annotated[float, Field(allow_inf_nan=False)]] = {}
    """Constraints: a trial counts as good only where each of these metrics is not above."""
    sampler: Literal["tpe", "random", "nsga2"] = "tpe"
    pruner: Pruner = Pruner()
    budget: Budget | None = None
    """Needed by a pruner."""
    seed: int = Field(7, ge=0, le=2**31 - 1)
    workers: int | None = Field(None, ge=1, le=1000)
    """How many trials run side by side, and are claimed of the queue; as many as the platform's
    machine has cores if None. With 1 the same request gives the same trials."""
    train_best: bool = True
    """Train a version of the model with the parameters of the best trial at the end."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_conditions(self.space)
        if self.pruner.kind != "none" and self.budget is None:
            raise ValueError("a pruner needs a budget, whose rungs it judges")
        if self.budget is not None and self.budget.parameter in self.space:
            raise ValueError(f"{self.budget.parameter!r} is both tried and the budget")
        if self.train_best and len(self.metrics) > 1:
            raise ValueError("of several metrics there is no best trial: set train_best to false")
        self.spec()
        return self

    def spec(self) -> StudySpec:
        """The study."""
        return StudySpec(
            name=self.study,
            experiment=self.training.experiment or self.training.model,
            n_trials=self.n_trials,
            metrics=self.metrics,
            directions=self.directions,
            sampler=self.sampler,
            pruner=self.pruner,
            seed=self.seed,
        )

    def best(self, params: dict[str, Any], training_set: str) -> TrainingRequest:
        """The training with the parameters of the best trial, on the set that was tuned on."""
        given = {**self.training.params, **params}
        if self.budget is not None:
            given[self.budget.parameter] = self.budget.most
        return self.training.model_copy(
            update={"params": given, "training_set": training_set, "spec": None}
        )
