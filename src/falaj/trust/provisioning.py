"""What SCIM resources mean here (RFC 7643): which attributes are kept, and what they may be.

Pure: no database, no HTTP. A resource is a mapping in the words of the standard
(``userName``, ``name``, ``emails``); what comes in is put into one canonical shape, whatever
the case of its letters, and what Falaj has no use for is not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from falaj.kernel.actions import is_writable
from falaj.trust.provisioning_filters import found_in
from falaj.trust.provisioning_model import NotProvisionable

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"

NAME_PARTS = ("formatted", "familyName", "givenName", "middleName")
EMAIL_PARTS = ("value", "type", "display", "primary")
TEXTS = ("displayName", "title", "preferredLanguage", "locale", "timezone")
KEPT = (*TEXTS, "name", "emails")
"""What is kept of a person beside ``userName``, ``externalId`` and ``active``."""
NOT_KEPT = frozenset(
    {
        "nickname", "profileurl", "usertype", "password", "phonenumbers", "ims", "photos",
        "addresses", "entitlements", "roles", "x509certificates",
    }
)  # fmt: skip
"""The other attributes of the standard's user: taken without an error, and forgotten."""
READ_ONLY = frozenset({"id", "meta", "schemas", "groups"})
_LONGEST = 256
_MOST_EMAILS = 20
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")


def checked_user(resource: Mapping[str, Any]) -> dict[str, Any]:
    """A user in its canonical shape: known attributes alone, in the standard's spelling.

    ``active`` is absent if nothing is said of it.

    Raises:
        NotProvisionable: ``userName`` is missing, or a value is not what the standard says.
    """
    user_name = checked_text("userName", found_in(resource, "userName"))
    if not user_name:
        raise invalid("A user needs a userName.")
    kept: dict[str, Any] = {"userName": user_name}
    external = checked_text("externalId", found_in(resource, "externalId"))
    if external:
        kept["externalId"] = external
    active = found_in(resource, "active")
    if active is not None:
        kept["active"] = checked_boolean("active", active)
    for attribute in TEXTS:
        text = checked_text(attribute, found_in(resource, attribute))
        if text:
            kept[attribute] = text
    name = _checked_name(found_in(resource, "name"))
    if name:
        kept["name"] = name
    emails = _checked_emails(found_in(resource, "emails"))
    if emails:
        kept["emails"] = emails
    return kept


def checked_group(resource: Mapping[str, Any]) -> dict[str, Any]:
    """A group in its canonical shape: ``displayName``, ``externalId``, ids of ``members``.

    Raises:
        NotProvisionable: ``displayName`` is missing, or a member is no user.
    """
    display_name = checked_text("displayName", found_in(resource, "displayName"))
    if not display_name:
        raise invalid("A group needs a displayName.")
    kept: dict[str, Any] = {"displayName": display_name}
    external = checked_text("externalId", found_in(resource, "externalId"))
    if external:
        kept["externalId"] = external
    kept["members"] = [{"value": one} for one in member_ids(found_in(resource, "members"))]
    return kept


def member_ids(members: Any) -> list[str]:
    """The ids of members as a group lists them, each once.

    Raises:
        NotProvisionable: something in the list is no user.
    """
    if members is None:
        return []
    listed = members if isinstance(members, list | tuple) else [members]
    found: dict[str, None] = {}
    for one in listed:
        value = found_in(one, "value") if isinstance(one, Mapping) else one
        kind = found_in(one, "type") if isinstance(one, Mapping) else None
        if not isinstance(value, str) or not value:
            raise invalid("A member of a group is named by its id, in `value`.")
        if isinstance(kind, str) and kind.lower() == "group":
            raise invalid("A group has people as members; groups in groups are not taken.")
        found[checked_text("members", value) or ""] = None
    return list(found)


def personal(resource: Mapping[str, Any]) -> dict[str, Any]:
    """What of a canonical user is about the person alone."""
    return {name: resource[name] for name in KEPT if name in resource}


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes that were given in several mappings, as one."""
    found: dict[str, Any] = {}
    for part in parts:
        found.update(part)
    return found


def account_name(user_name: str, *, domain: str = "") -> str:
    """The account's name for a ``userName``.

    Args:
        domain: user names of this domain lose it (``amina@corp.ae`` becomes ``amina``);
            in others ``@`` becomes ``-at-``, so that no two domains share a name.

    Raises:
        NotProvisionable: no name is left.
    """
    lowered = user_name.strip().lower()
    local, at, of = lowered.rpartition("@")
    if at and domain and of == domain.lower():
        lowered = local
    name = _NOT_IN_NAMES.sub("-", lowered.replace("@", "-at-")).strip("-._")
    if not name[:1].isalpha():
        name = f"u-{name}" if name else ""
    if not 2 <= len(name) <= 60:
        raise invalid(
            f"No account can be named for the userName {user_name[:60]!r}.",
            hint="A name has 2 to 60 letters, digits, dots, dashes and underscores.",
        )
    return name


def checked_boolean(attribute: str, value: Any) -> bool:
    """True or false, also where it is written as a text (Entra ID sends ``"False"``).

    Raises:
        NotProvisionable: it is neither.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise invalid(f"{attribute} is true or false.")


def checked_text(attribute: str, value: Any) -> str | None:
    """A short plain text without blanks around it, or None if nothing is said.

    Raises:
        NotProvisionable: it is no text, is too long, or holds what cannot be printed.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise invalid(f"{attribute} is a text.")
    text = value.strip()
    if len(text) > _LONGEST:
        raise invalid(f"{attribute} has at most {_LONGEST} letters.")
    if not text.isprintable() or not is_writable(text):
        raise invalid(f"{attribute} holds letters that cannot be printed.")
    return text or None


def invalid(message: str, *, hint: str = "", scim_type: str = "invalidValue") -> NotProvisionable:
    """The error for a value that cannot be taken."""
    return NotProvisionable(message, hint=hint, scim_type=scim_type)


def _checked_name(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise invalid("name has parts: givenName, familyName, formatted.")
    parts = {one: checked_text(f"name.{one}", found_in(value, one)) for one in NAME_PARTS}
    return {one: text for one, text in parts.items() if text}


def _checked_emails(value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    listed: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if len(listed) > _MOST_EMAILS:
        raise invalid(f"A user has at most {_MOST_EMAILS} e-mail addresses.")
    found = []
    for one in listed:
        parts = one if isinstance(one, Mapping) else {"value": one}
        email: dict[str, Any] = {}
        for part in ("value", "type", "display"):
            text = checked_text(f"emails.{part}", found_in(parts, part))
            if text:
                email[part] = text
        primary = found_in(parts, "primary")
        if primary is not None and checked_boolean("emails.primary", primary):
            email["primary"] = True
        if "value" in email:
            found.append(email)
    if sum(one.get("primary", False) for one in found) > 1:
        raise invalid("One e-mail address at most is the primary one.")
    return found
