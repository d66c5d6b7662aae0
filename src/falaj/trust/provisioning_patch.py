"""PATCH of SCIM resources (RFC 7644, section 3.5.2), as identity providers really send it.

Pure: takes a canonical resource and operations, gives a new one that is still to be checked.
Odd cases of ``op``, attributes and schemas are taken, values of ``active`` as text, groups'
members with and without a path. What Falaj does not keep is passed over; what no standard
knows is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from falaj.trust.provisioning import (
    EMAIL_PARTS,
    ENTERPRISE,
    GROUP,
    KEPT,
    NAME_PARTS,
    NOT_KEPT,
    READ_ONLY,
    USER,
    invalid,
)
from falaj.trust.provisioning_filters import (
    AttributePath,
    Comparison,
    Filter,
    Joined,
    fits,
    found_in,
    parsed_path,
)

MOST_OPERATIONS = 1_000
_PARTS: Mapping[str, tuple[str, ...]] = {
    "name": NAME_PARTS,
    "emails": EMAIL_PARTS,
    "members": ("value", "display", "type", "$ref"),
}
_MANY = frozenset({"emails", "members"})
_OF_USERS = ("userName", "externalId", "active", *KEPT)
_OF_GROUPS = ("displayName", "externalId", "members")


def patched_user(
    resource: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A user after all of the operations; check it with ``checked_user``.

    Raises:
        NotProvisionable: an operation is none, or has no target.
    """
    return _Patch(resource, _OF_USERS, USER).after(operations)


def patched_group(
    resource: Mapping[str, Any], operations: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A group after all of the operations; check it with ``checked_group``."""
    return _Patch(resource, _OF_GROUPS, GROUP).after(operations)


class _Patch:
    """One resource that is being changed."""

    def __init__(self, resource: Mapping[str, Any], attributes: Sequence[str], schema: str) -> None:
        self._resource: dict[str, Any] = deepcopy(dict(resource))
        self._schema = schema.lower()
        self._spelled = {name.lower(): name for name in attributes}
        self._required = "userName" if schema == USER else "displayName"

    def after(self, operations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The resource after all of them, one after the other."""
        if not operations or len(operations) > MOST_OPERATIONS:
            raise invalid(f"A PATCH has 1 to {MOST_OPERATIONS} operations.")
        for operation in operations:
            self._apply(operation)
        return self._resource

    def _apply(self, operation: Mapping[str, Any]) -> None:
        word = found_in(operation, "op")
        verb = word.lower() if isinstance(word, str) else ""
        if verb not in ("add", "replace", "remove"):
            raise invalid("op is add, replace or remove.", scim_type="invalidSyntax")
        path, value = found_in(operation, "path"), found_in(operation, "value")
        if path is not None and not isinstance(path, str):
            raise invalid("path is a text.", scim_type="invalidPath")
        if path and path.strip():
            self._at(verb, path.strip(), value)
        elif verb == "remove":
            raise invalid("To remove something, name its path.", scim_type="noTarget")
        elif not isinstance(value, Mapping):
            raise invalid("Without a path, value holds attributes.", scim_type="invalidSyntax")
        else:
            self._whole(verb, value)

    def _whole(self, verb: str, value: Mapping[str, Any]) -> None:
        """Attributes that are given as a mapping; a key may itself be a path."""
        for key, given in value.items():
            if key.lower() == self._schema and isinstance(given, Mapping):
                self._whole(verb, given)
            elif key.lower() != ENTERPRISE.lower():
                self._at(verb, key, given, in_mapping=True)

    def _at(self, verb: str, text: str, value: Any, *, in_mapping: bool = False) -> None:
        path, which = parsed_path(text)
        name = self._kept(path, in_mapping=in_mapping)
        if name is None:
            return
        part = self._part(name, path.part)
        if which is not None or (part is not None and name in _MANY):
            self._within(verb, name, part, which, value)
        elif part is not None:
            self._in_parts(verb, name, part, value)
        elif verb == "remove":
            self._remove(name, value)
        elif name in _MANY:
            self._list(verb, name, value)
        elif isinstance(value, Mapping) and name in _PARTS:
            for key, given in value.items():
                self._in_parts(verb, name, self._part(name, key), given)
        else:
            self._resource[name] = value

    def _kept(self, path: AttributePath, *, in_mapping: bool) -> str | None:
        """The spelling of an attribute that is kept; None for one that is passed over."""
        schema, lowered = (path.schema or "").lower(), path.attribute.lower()
        if schema == ENTERPRISE.lower():
            return None
        if schema and schema != self._schema:
            raise invalid("The path names a schema that is not known.", scim_type="invalidPath")
        if lowered in READ_ONLY:
            if in_mapping:
                return None  # Okta repeats the id inside of the value
            raise invalid(f"{path.attribute} is not for you to write.", scim_type="mutability")
        if lowered in self._spelled:
            return self._spelled[lowered]
        if in_mapping or (lowered in NOT_KEPT and self._schema == USER.lower()):
            return None
        raise invalid(f"There is no attribute {path.attribute!r}.", scim_type="invalidPath")

    def _part(self, name: str, part: str | None) -> str | None:
        if part is None:
            return None
        spelled = {one.lower(): one for one in _PARTS.get(name, ())}
        if part.lower() not in spelled:
            if name == "name":
                return ""  # honorificPrefix and honorificSuffix, which are not kept
            raise invalid(f"{name} has no part {part!r}.", scim_type="invalidPath")
        return spelled[part.lower()]

    def _in_parts(self, verb: str, name: str, part: str | None, value: Any) -> None:
        if not part:
            return
        if name not in _PARTS:
            raise invalid(f"{name} has no parts.", scim_type="invalidPath")
        held = dict(self._resource.get(name) or {})
        if verb == "remove":
            held.pop(part, None)
        else:
            held[part] = value
        self._resource[name] = held

    def _remove(self, name: str, value: Any) -> None:
        if name == self._required:
            raise invalid(f"{name} is required.", scim_type="mutability")
        if name in _MANY and value is not None:
            # Entra ID names the members to remove in the value, not in the path.
            gone = {_value_of(one) for one in _listed(value)}
            held = self._resource.get(name) or []
            self._resource[name] = [one for one in held if _value_of(one) not in gone]
            return
        self._resource.pop(name, None)

    def _list(self, verb: str, name: str, value: Any) -> None:
        given = _listed(value)
        if verb == "replace":
            self._resource[name] = given
            return
        held = list(self._resource.get(name) or [])
        known = {_value_of(one): place for place, one in enumerate(held)}
        for one in given:
            place = known.get(_value_of(one))
            if place is None:
                known[_value_of(one)] = len(held)
                held.append(one)
            elif isinstance(one, Mapping):
                held[place] = {**_mapping(held[place]), **one}
        first = [_value_of(one) for one in given if _is_primary(one)]
        if first:
            held = [one if _value_of(one) == first[-1] else _secondary(one) for one in held]
        self._resource[name] = held

    def _within(
        self, verb: str, name: str, part: str | None, which: Filter | None, value: Any
    ) -> None:
        """Change those of many values that fit, or one part of them."""
        if name not in _MANY:
            raise invalid(f"{name} has one value; no filter chooses it.", scim_type="invalidPath")
        held = [dict(_mapping(one)) for one in self._resource.get(name) or []]
        chosen = [which is None or fits(one, which) for one in held]
        if verb == "remove":
            self._resource[name] = _without(held, chosen, part)
            return
        if not any(chosen):
            if verb == "replace" and which is not None:
                raise invalid(f"No value of {name} fits the filter.", scim_type="noTarget")
            held.append(_described(which))
            chosen.append(True)
        for one, is_chosen in zip(held, chosen, strict=True):
            if not is_chosen:
                continue
            if part is not None:
                one[part] = value
            elif isinstance(value, Mapping):
                one.update(value)
            else:
                raise invalid(f"A value of {name} has parts.")
        self._resource[name] = held


def _without(
    held: list[dict[str, Any]], chosen: list[bool], part: str | None
) -> list[dict[str, Any]]:
    if part is None or part == "value":
        return [one for one, is_chosen in zip(held, chosen, strict=True) if not is_chosen]
    for one, is_chosen in zip(held, chosen, strict=True):
        if is_chosen:
            one.pop(part, None)
    return held


def _described(which: Filter | None) -> dict[str, Any]:
    """A new value that fits ``type eq "work"``: Entra ID adds to what is not there yet."""
    if which is None:
        return {}
    items = which.items if isinstance(which, Joined) and which.word == "and" else (which,)
    found: dict[str, Any] = {}
    for item in items:
        if not isinstance(item, Comparison) or item.operator != "eq" or item.path.part:
            raise invalid("No value fits the filter, and none can be made.", scim_type="noTarget")
        found[item.path.attribute] = item.value
    return found


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"value": value}


def _value_of(value: Any) -> str:
    found = found_in(_mapping(value), "value")
    if not isinstance(found, str):
        raise invalid("Each value is named by its part `value`.")
    return found


def _is_primary(value: Any) -> bool:
    return str(found_in(_mapping(value), "primary")).lower() == "true"


def _secondary(value: Any) -> Any:
    return {**value, "primary": False} if isinstance(value, Mapping) else value
