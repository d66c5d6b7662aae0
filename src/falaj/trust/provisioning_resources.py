"""People and groups as SCIM writes them (RFC 7643), without the addresses of a server."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from falaj.trust.provisioning import GROUP, USER
from falaj.trust.provisioning_model import ProvisionedGroup, ProvisionedUser


def user_resource(user: ProvisionedUser) -> dict[str, Any]:
    """A person as the standard writes one."""
    resource: dict[str, Any] = {"schemas": [USER], "id": user.id}
    if user.external_id is not None:
        resource["externalId"] = user.external_id
    resource["userName"] = user.user_name
    resource |= user.personal
    resource["active"] = user.active
    if user.groups:
        resource["groups"] = [{"value": one.id, "display": one.display_name} for one in user.groups]
    resource["meta"] = _meta("User", user.created_at, user.modified_at, user.version)
    return resource


def group_resource(group: ProvisionedGroup) -> dict[str, Any]:
    """A group as the standard writes one."""
    resource: dict[str, Any] = {"schemas": [GROUP], "id": group.id}
    if group.external_id is not None:
        resource["externalId"] = group.external_id
    resource["displayName"] = group.display_name
    resource["members"] = [
        {"value": one.id, "display": one.user_name, "type": "User"} for one in group.members
    ]
    resource["meta"] = _meta("Group", group.created_at, group.modified_at, group.version)
    return resource


def entity_tag(version: int) -> str:
    """The version of a resource as HTTP names it."""
    return f'W/"{version}"'


def _meta(kind: str, created: datetime, modified: datetime, version: int) -> dict[str, Any]:
    return {
        "resourceType": kind,
        "created": _written(created),
        "lastModified": _written(modified),
        "version": entity_tag(version),
    }


def _written(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
