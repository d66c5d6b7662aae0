"""Cases of policies as files: who, what, and whether it shall be permitted.

A file is TOML with one table for each case::

    [[case]]
    who = "user:amina"
    roles = ["ml_engineer"]
    action = "models.promote"
    what = "model:late"
    attributes = { stage = "staging" }
    factor_seconds = 20
    expect = "permit"
    because = ["ml-engineer-builds"]
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from falaj.kernel.actions import Action
from falaj.kernel.call import AssetRef, Caller, Principal, PrincipalKind
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import InvalidInput
from falaj.kernel.ports import Resource
from falaj.trust.policy import CedarPolicy


class Expected(StrEnum):
    """What a case wants to come of its question."""

    PERMIT = "permit"
    FORBID = "forbid"


class Case(BaseModel):
    """One question, and the answer that it must get."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    who: str = Field(pattern=r"^(user|service|system):.+$")
    roles: tuple[str, ...] = ()
    action: str
    """``service.verb``."""
    what: str = "platform:*"
    """``kind:key``."""
    attributes: dict[str, str] = Field(default_factory=dict)
    """Of the asset: owner, classification, region, stage, requested_by, environment."""
    purpose: str | None = None
    factor_seconds: int | None = Field(None, ge=0)
    """How long ago a second factor was presented; none was, if it is not given."""
    via: str = "http"
    environment: str = ""
    expect: Expected
    because: tuple[str, ...] | None = None
    """The ids of the policies that must decide; any, if it is not given."""
    title: str = ""

    @field_validator("what")
    @classmethod
    def _an_asset(cls, value: str) -> str:
        AssetRef.parse(value)
        return value


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    case: list[Case] = Field(min_length=1)


class Judged(BaseModel):
    """What became of one case."""

    file: str
    number: int
    """Counts from 1 in its file."""
    title: str
    passed: bool
    answer: str
    reasons: tuple[str, ...]


def read_cases(path: Path) -> list[Case]:
    """The cases of a file; raises InvalidInput, which names what is wrong with which case."""
    try:
        return _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).case
    except OSError as error:
        raise InvalidInput(
            f"The file {path} cannot be read: {error.strerror}.",
            hint="Name files of cases that are there and may be read.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"The file {path} is not TOML: {error}.") from None
    except ValidationError as error:
        told = "; ".join(f"{_place(one['loc'])}: {one['msg']}" for one in error.errors()[:5])
        raise InvalidInput(f"The cases of {path} are malformed: {told}.") from None


def _place(location: tuple[Any, ...]) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in location)


class Cases:
    """Judges cases by the built-in policies and those given.

    Args:
        actions: all actions of the platform.
        added: the operator's policies, Cedar text by name.

    Raises:
        InvalidInput: a policy does not parse or validate.
    """

    def __init__(self, actions: Iterable[Action], added: Mapping[str, str]) -> None:
        self._actions = list(actions)
        self._known = {action.name for action in self._actions}
        self._added = dict(added)
        self._clock = SystemClock()
        self._policies = {"": self._policy("")}

    def judged(self, file: str, cases: Iterable[Case]) -> list[Judged]:
        """Each case with its answer; raises InvalidInput for an action that does not exist."""
        found = []
        for number, case in enumerate(cases, 1):
            if case.action not in self._known:
                raise InvalidInput(
                    f"Case {number} of {file} asks for {case.action!r}, which is no action.",
                    hint="Name it as service.verb: models.promote.",
                )
            policy = self._policies.get(case.environment)
            if policy is None:
                policy = self._policies[case.environment] = self._policy(case.environment)
            decision = policy.decide(
                caller := self._caller(case),
                case.action,
                Resource(AssetRef.parse(case.what), case.attributes),
                stepped_up=caller.stepped_up(self._clock.now()),
            )
            right = decision.allowed is (case.expect is Expected.PERMIT)
            because = case.because is None or set(case.because) == set(decision.reasons)
            found.append(
                Judged(
                    file=file,
                    number=number,
                    title=case.title or f"{case.who} {case.action} {case.what}",
                    passed=right and because,
                    answer=str(Expected.PERMIT if decision.allowed else Expected.FORBID),
                    reasons=decision.reasons,
                )
            )
        return found

    def _policy(self, environment: str) -> CedarPolicy:
        return CedarPolicy(self._actions, added=self._added, environment=environment)

    def _caller(self, case: Case) -> Caller:
        kind = PrincipalKind(case.who.partition(":")[0])
        at = None
        if case.factor_seconds is not None:
            at = self._clock.now() - timedelta(seconds=case.factor_seconds)
        return Caller(
            Principal(case.who, kind, case.roles), mfa_at=at, purpose=case.purpose, via=case.via
        )
