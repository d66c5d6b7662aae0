"""From a provider's claims to an identity: who, with which roles, with how many factors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from falaj.trust.model import Role
from falaj.trust.oidc_model import Identity, Provider, Untrusted

_MOST_GROUPS = 1_000


def identity_of(claims: Mapping[str, Any], provider: Provider, *, now: datetime) -> Identity:
    """Who somebody is, from claims that were checked.

    Raises:
        Untrusted: there is no subject, a required claim is missing, or the groups are not
            all there (then roles would be taken away that the person has).
    """
    subject = claims.get(provider.subject_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise Untrusted("no-subject")
    for required, values in provider.required_claims.items():
        if claims.get(required) not in values:
            raise Untrusted(
                "required-claim-missing",
                f"{provider.label} does not say of you what this platform requires ({required}).",
                "Ask whoever runs the provider, or an administrator here.",
            )
    proven = provider.always_two_factors or proves_two_factors(claims, provider)
    at = _authenticated_at(claims, now) if proven else None
    name, sid = claims.get(provider.name_claim), claims.get("sid")
    external = claims.get(provider.external_claim)
    return Identity(
        issuer=provider.issuer,
        subject=subject,
        name=name if isinstance(name, str) else "",
        roles=_granted(claims, provider),
        two_factors=proven,
        mfa_at=at,
        sid=sid if isinstance(sid, str) and len(sid) <= 255 else "",
        external=external if isinstance(external, str) else "",
    )


def proves_two_factors(claims: Mapping[str, Any], provider: Provider) -> bool:
    """True if ``amr`` or the class of authentication is one that the settings name."""
    methods = _texts(claims.get("amr"))
    if provider.mfa_amr.intersection(methods):
        return True
    classes = claims.get(provider.acr_claim)
    told = [classes] if isinstance(classes, str) else _texts(classes)
    return any(item in provider.mfa_acr for item in told)


def _authenticated_at(claims: Mapping[str, Any], now: datetime) -> datetime | None:
    """When the person authenticated there; a provider that does not say proves no freshness."""
    at = claims.get("auth_time")
    if isinstance(at, bool) or not isinstance(at, (int, float)) or at <= 0:
        return None
    try:
        return min(datetime.fromtimestamp(at, UTC), now)
    except (OverflowError, ValueError, OSError):
        return None


def _granted(claims: Mapping[str, Any], provider: Provider) -> tuple[Role, ...]:
    found = set(provider.roles)
    if provider.groups:
        elsewhere = claims.get("_claim_names")
        if isinstance(elsewhere, dict) and provider.groups_claim in elsewhere:
            # Entra ID leaves groups out when there are many, and names a place to ask instead.
            raise Untrusted(
                "groups-left-out",
                "You are in so many groups that the provider does not name them.",
                "Have the provider send only the groups that are assigned to this application.",
            )
        told = claims.get(provider.groups_claim, [])
        groups = [told] if isinstance(told, str) else _texts(told)
        for group in groups[:_MOST_GROUPS]:
            found.update(provider.groups.get(group, ()))
    return tuple(sorted(found))


def account_name(told: str, salt: str, *, taken: bool = False) -> str:
    """A name for a new account, of what a provider calls somebody.

    Args:
        told: what stands before an ``@`` is taken, as far as its characters are.
        salt: tells people of one name apart: digits of a hash of issuer and subject.
        taken: there is an account of the plain name; it is never taken over.
    """
    plain = re.sub(r"[^a-z0-9._-]+", "-", told.partition("@")[0].lower()).strip("-._")
    plain = re.sub(r"^[^a-z]+", "", plain)[:50]
    if len(plain) < 2 or taken:
        return f"{plain or 'person'}-{salt[:8]}"
    return plain


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
