"""The documents in which SCIM describes itself (RFC 7643, sections 5 to 7), and its answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from falaj.trust.provisioning import EMAIL_PARTS, GROUP, NAME_PARTS, TEXTS, USER, invalid
from falaj.trust.provisioning_filters import attribute_path, found_in
from falaj.trust.provisioning_model import NotProvisionable
from falaj.trust.provisioning_service import MOST_PER_PAGE

_CORE = "urn:ietf:params:scim:schemas:core:2.0"
_API = "urn:ietf:params:scim:api:messages:2.0"
ERROR = f"{_API}:Error"
LIST = f"{_API}:ListResponse"
_ALWAYS = ("schemas", "id")
_MOST_NAMES = 50


def service_provider(base: str) -> dict[str, Any]:
    """What this provider can do."""
    return {
        "schemas": [f"{_CORE}:ServiceProviderConfig"],
        "patch": {"supported": True},
        "bulk": {"supported": False, "maxOperations": 0, "maxPayloadSize": 0},
        "filter": {"supported": True, "maxResults": MOST_PER_PAGE},
        "changePassword": {"supported": False},
        "sort": {"supported": False},
        "etag": {"supported": True},
        "authenticationSchemes": [
            {
                "type": "oauthbearertoken",
                "name": "Bearer token",
                "description": "The secret, or an access token, of a service account with the "
                "role provisioner.",
                "primary": True,
            }
        ],
        "meta": _meta("ServiceProviderConfig", f"{base}/ServiceProviderConfig"),
    }


def resource_types(base: str) -> list[dict[str, Any]]:
    """Which kinds of resource there are."""
    return [
        {
            "schemas": [f"{_CORE}:ResourceType"],
            "id": name,
            "name": name,
            "description": told,
            "endpoint": f"/{name}s",
            "schema": schema,
            "schemaExtensions": [],
            "meta": _meta("ResourceType", f"{base}/ResourceTypes/{name}"),
        }
        for name, told, schema in (
            ("User", "A person with an account.", USER),
            ("Group", "People who share roles.", GROUP),
        )
    ]


def schemas(base: str) -> list[dict[str, Any]]:
    """The attributes that are kept; others of the standard are taken and forgotten."""
    described = (
        (USER, "User", "A person with an account.", _user_attributes()),
        (GROUP, "Group", "People who share roles.", _group_attributes()),
    )
    return [
        {
            "schemas": [f"{_CORE}:Schema"],
            "id": schema,
            "name": name,
            "description": told,
            "attributes": attributes,
            "meta": _meta("Schema", f"{base}/Schemas/{schema}"),
        }
        for schema, name, told, attributes in described
    ]


def listed(resources: Sequence[Mapping[str, Any]], *, total: int, start: int = 1) -> dict[str, Any]:
    """A page of resources."""
    return {
        "schemas": [LIST],
        "totalResults": total,
        "itemsPerPage": len(resources),
        "startIndex": start,
        "Resources": list(resources),
    }


def error_document(status: int, detail: str, scim_type: str | None = None) -> dict[str, Any]:
    """An error (RFC 7644, section 3.12)."""
    document: dict[str, Any] = {"schemas": [ERROR], "status": str(status), "detail": detail}
    if scim_type:
        document["scimType"] = scim_type
    return document


class Shape:
    """Which attributes an answer holds (RFC 7644, section 3.9).

    Args:
        attributes: only these; empty: all.
        excluded: all but these.

    Raises:
        NotProvisionable: both are given, or one of them names no attribute.
    """

    def __init__(self, attributes: str = "", excluded: str = "") -> None:
        if attributes and excluded:
            raise invalid("Give attributes or excludedAttributes, not both.")
        self._only = _names(attributes)
        self._without = _names(excluded)

    @property
    def is_whole(self) -> bool:
        """True if nothing was asked for or left out by name."""
        return not self._only and not self._without

    def holds(self, attribute: str) -> bool:
        """True if an answer holds any of an attribute."""
        lowered = attribute.lower()
        if self._only:
            return any(name == lowered for name, _ in self._only)
        return (lowered, None) not in self._without

    def of(self, resource: Mapping[str, Any]) -> dict[str, Any]:
        """The resource with the attributes that were asked for."""
        if self._only:
            kept = {name: found_in(resource, name) for name in _ALWAYS}
            for name, value in resource.items():
                parts = {part for one, part in self._only if one == name.lower()}
                if parts:
                    kept[name] = value if None in parts else _parts(value, parts, keep=True)
            return {name: value for name, value in kept.items() if value not in (None, {}, [])}
        left: dict[str, Any] = {}
        for name, value in resource.items():
            parts = {part for one, part in self._without if one == name.lower()}
            if name in _ALWAYS or not parts:
                left[name] = value
            elif None not in parts:
                left[name] = _parts(value, parts, keep=False)
        return left


def _names(text: str) -> frozenset[tuple[str, str | None]]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if len(words) > _MOST_NAMES:
        raise invalid(f"At most {_MOST_NAMES} attributes are named.")
    try:
        paths = [attribute_path(word) for word in words]
    except NotProvisionable as error:
        raise invalid(error.message, scim_type="invalidPath") from error
    return frozenset((one.attribute.lower(), one.part.lower() if one.part else None)
                     for one in paths)  # fmt: skip


def _parts(value: Any, parts: Iterable[str | None], *, keep: bool) -> Any:
    if isinstance(value, list):
        return [_parts(one, parts, keep=keep) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {name: one for name, one in value.items() if (name.lower() in parts) is keep}


def _meta(kind: str, location: str) -> dict[str, str]:
    return {"resourceType": kind, "location": location}


def _attribute(name: str, told: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "string",
        "multiValued": False,
        "description": told,
        "required": False,
        "caseExact": False,
        "mutability": "readWrite",
        "returned": "default",
        "uniqueness": "none",
        **more,
    }


def _user_attributes() -> list[dict[str, Any]]:
    names = [_attribute(part, "A part of the name.") for part in NAME_PARTS]
    emails = [
        _attribute(part, "A part of an e-mail address.",
                   type="boolean" if part == "primary" else "string")
        for part in EMAIL_PARTS
    ]  # fmt: skip
    of_groups = [
        _attribute(part, "A group's id or name.", mutability="readOnly")
        for part in ("value", "display")
    ]
    return [
        _attribute("userName", "How the provider names this person.", required=True,
                   uniqueness="server"),
        _attribute("externalId", "The person's id at the provider.", caseExact=True),
        _attribute("active", "False: out within a second.", type="boolean"),
        *(_attribute(text, "Kept as it is sent.") for text in TEXTS),
        _attribute("name", "The person's name.", type="complex", subAttributes=names),
        _attribute("emails", "E-mail addresses; nobody signs in by them.", type="complex",
                   multiValued=True, subAttributes=emails),
        _attribute("groups", "The groups that this person is in.", type="complex",
                   multiValued=True, mutability="readOnly", subAttributes=of_groups),
    ]  # fmt: skip


def _group_attributes() -> list[dict[str, Any]]:
    parts = [
        _attribute(part, told, mutability="immutable")
        for part, told in (("value", "The id of a user."), ("display", "The userName."),
                           ("type", "Always User."))
    ]  # fmt: skip
    return [
        _attribute("displayName", "The group's name, by which the operator's map knows it.",
                   required=True, uniqueness="server"),
        _attribute("externalId", "The group's id at the provider.", caseExact=True),
        _attribute("members", "The people in it.", type="complex", multiValued=True,
                   subAttributes=parts),
    ]  # fmt: skip
