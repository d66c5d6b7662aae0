"""The words of provisioning: people and groups as an identity provider hands them in."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from falaj.kernel.errors import Conflict, InvalidInput
from falaj.trust.model import AccountName, AccountState


class NotProvisionable(InvalidInput):
    """What an identity provider asks for cannot be provisioned as it is.

    Its detail ``scim_type`` is the word of RFC 7644, section 3.12, for what is wrong.
    """

    code = "not-provisionable"

    @property
    def scim_type(self) -> str:
        """``invalidValue``, ``invalidFilter``, ``invalidPath``, ``noTarget``, ``mutability``."""
        return str(self.details.get("scim_type", "invalidValue"))


class VersionMoved(Conflict):
    """Somebody else has changed it since the version that was named."""

    code = "version-moved"


class GroupRef(BaseModel):
    """A group that a provisioned person is in."""

    model_config = ConfigDict(frozen=True)

    id: str
    display_name: str


class ProvisionedUser(BaseModel):
    """A person whose account an identity provider keeps."""

    model_config = ConfigDict(frozen=True)

    id: str
    account: AccountName
    """The name under which the platform knows this person."""
    provisioner: str
    """Who made the account, or was handed it: ``service:entra``."""
    user_name: str
    external_id: str | None
    active: bool
    state: AccountState
    roles: tuple[str, ...]
    """What the groups of this person give, by the operator's map."""
    groups: tuple[GroupRef, ...]
    personal: dict[str, Any]
    """Attributes of RFC 7643 that were sent and are kept: names, e-mail addresses, language."""
    version: int
    created_at: datetime
    modified_at: datetime


class Member(BaseModel):
    """A person in a group."""

    model_config = ConfigDict(frozen=True)

    id: str
    user_name: str


class ProvisionedGroup(BaseModel):
    """A group of people, which may stand for roles."""

    model_config = ConfigDict(frozen=True)

    id: str
    provisioner: str
    display_name: str
    external_id: str | None
    roles: tuple[str, ...]
    """What its members are given, by the operator's map; none if the map does not name it."""
    members: tuple[Member, ...]
    version: int
    created_at: datetime
    modified_at: datetime


class UserPage(BaseModel):
    """Some of the provisioned people."""

    model_config = ConfigDict(frozen=True)

    total: int
    start: int
    """The place of the first of them among all that fit, from 1."""
    items: tuple[ProvisionedUser, ...]


class GroupPage(BaseModel):
    """Some of the provisioned groups."""

    model_config = ConfigDict(frozen=True)

    total: int
    start: int
    items: tuple[ProvisionedGroup, ...]


class Settled(BaseModel):
    """What giving everybody the roles of the present map has changed."""

    model_config = ConfigDict(frozen=True)

    n_accounts: int
    changed: dict[str, tuple[str, ...]]
    """The new roles of each account whose roles were others."""
