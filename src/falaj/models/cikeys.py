"""Deploy keys: service accounts that may do what chosen steps of a CI job need, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

from falaj.trust.duties import DUTIES
from falaj.trust.model import AccountName, OneTimeSecret, Role


class CiStep(StrEnum):
    """What a CI job may be for."""

    PLAN = "plan"  # show what applying the definitions would change
    APPLY = "apply"  # apply them
    GATE = "gate"  # run the gates of a version and read what they found
    PROPOSE = "propose"  # ask for a version's promotion, which a person then decides on
    DEPLOY = "deploy"  # let the version that was approved for production serve


ROLES: Mapping[CiStep, Role] = {
    CiStep.PLAN: Role.CI_PLAN,
    CiStep.APPLY: Role.CI_APPLY,
    CiStep.GATE: Role.CI_GATE,
    CiStep.PROPOSE: Role.CI_PROPOSE,
    CiStep.DEPLOY: Role.CI_DEPLOY,
}


class DeployKey(BaseModel):
    """A service account for a CI job; its secret is shown once, and a job with a token of its own
    (`ci.rules`) needs none."""

    model_config = ConfigDict(frozen=True)

    account: AccountName
    secret: OneTimeSecret
    steps: tuple[CiStep, ...]
    rights: tuple[str, ...]
    """The actions that it may call, and no others."""


def rights_of(steps: tuple[CiStep, ...]) -> tuple[str, ...]:
    """The actions that some steps need."""
    found = {"accounts.me"}
    for step in steps:
        found |= set(DUTIES[ROLES[step].value])
    return tuple(sorted(found))
