"""A search space that is declared: what a tuning job may try, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from optuna import Trial

Scalar = bool | int | float | str | None
ParameterName = Annotated[str, Field(min_length=1, max_length=200)]


class _Parameter(BaseModel):
    """What all parameters may say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: dict[ParameterName, tuple[Scalar, ...]] = {}
    """Only asked for where each of these earlier parameters has one of the given values."""


class Floats(_Parameter):
    """Numbers from ``low`` to ``high``, both included; on a ``log`` scale, or in steps."""

    kind: Literal["float"] = "float"
    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False
    step: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step is not None)
        return self


class Integers(_Parameter):
    """Whole numbers from ``low`` to ``high``, both included; on a ``log`` scale, or in steps."""

    kind: Literal["int"] = "int"
    low: int
    high: int
    log: bool = False
    step: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        _check_range(self.low, self.high, self.log, self.step != 1)
        return self


class Choices(_Parameter):
    """One of some values, in no order."""

    kind: Literal["choice"] = "choice"
    choices: tuple[Scalar, ...] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len({(type(one), one) for one in self.choices}) != len(self.choices):
            raise ValueError("the choices are not all different")
        if any(isinstance(one, float) and not math.isfinite(one) for one in self.choices):
            raise ValueError("a choice is not finite")
        return self


Parameter = Annotated[Floats | Integers | Choices, Field(discriminator="kind")]
Space = Annotated[dict[ParameterName, Parameter], Field(min_length=1, max_length=200)]


def check_conditions(space: Mapping[str, Floats | Integers | Choices]) -> None:
    """Raise ValueError unless each condition is about a parameter that stands before it."""
    before: set[str] = set()
    for name, parameter in space.items():
        unknown = sorted(set(parameter.when) - before)
        if unknown:
            raise ValueError(f"{name!r} depends on {unknown[0]!r}, which does not stand before it")
        before.add(name)


def suggested(space: Mapping[str, Floats | Integers | Choices], trial: Trial) -> dict[str, Any]:
    """What a trial suggests for each parameter whose conditions hold."""
    found: dict[str, Any] = {}
    for name, parameter in space.items():
        if not all(
            other in found and _among(found[other], values)
            for other, values in parameter.when.items()
        ):
            continue
        if isinstance(parameter, Floats):
            low, high = parameter.low, parameter.high
            found[name] = trial.suggest_float(
                name, low, high, log=parameter.log, step=parameter.step
            )
        elif isinstance(parameter, Integers):
            found[name] = trial.suggest_int(
                name, parameter.low, parameter.high, log=parameter.log, step=parameter.step
            )
        else:
            choices: Any = parameter.choices
            found[name] = trial.suggest_categorical(name, choices)
    return found


def _among(value: Any, values: tuple[Scalar, ...]) -> bool:
    return any(type(value) is type(one) and value == one for one in values)


def _check_range(low: float, high: float, log: bool, stepped: bool) -> None:
    if low > high:
        raise ValueError(f"low ({low}) is greater than high ({high})")
    if log and low <= 0:
        raise ValueError("a log scale begins above 0")
    if log and stepped:
        raise ValueError("a log scale has no steps")
