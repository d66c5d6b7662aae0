"""Settings of provisioning: which groups of an identity provider stand for which roles."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GroupRule(BaseModel):
    """A group whose members are given roles."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group: str = Field(min_length=1, max_length=256)
    """The ``displayName`` of the group, to the letter."""
    roles: tuple[str, ...] = Field(min_length=1)
    provisioner: str = ""
    """Only the group of this service account; empty: of any."""
    external_id: str = ""
    """Only the group with this id at its provider; names can be taken by others there."""


class ProvisioningSettings(BaseModel):
    """How an identity provider keeps accounts here, by SCIM."""

    model_config = ConfigDict(extra="forbid")

    groups: tuple[GroupRule, ...] = ()
    """Groups that give roles; all others give none."""
    domain: str = Field("", pattern=r"^([a-z0-9-]+\.)*[a-z0-9-]*$")
    """User names of this domain lose it in the account's name."""
