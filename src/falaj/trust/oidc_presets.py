"""What known providers do in their own way, as their public documentation says (2026-11).

A preset fills in settings that the operator has not set; nothing of it is believed without
the checks of ``trust.oidc``. None was tried against the real service.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings_federation import ProviderSettings
from falaj.trust.model import Role
from falaj.trust.oidc_model import Metadata, Provider

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    # No `amr` in its ID tokens (v2.0): two factors are proven by an authentication context of
    # Conditional Access (`acrs`), which the operator names in `mfa_acr`.
    "entra": {
        "label": "Microsoft Entra ID",
        "scopes": ("openid", "profile"),
        "mfa_amr": (),
    },
    # `acr` is what the realm's map of levels (ACR to LoA) says; `amr` needs a mapper.
    "keycloak": {
        "label": "Keycloak",
        "scopes": ("openid", "profile"),
        "mfa_amr": ("mfa",),
    },
    "okta": {
        "label": "Okta",
        "scopes": ("openid", "profile", "groups"),
        "mfa_amr": ("mfa",),
        "mfa_acr": ("urn:okta:loa:2fa:any", "phr", "phrh"),
    },
    # SOP1 is an account whose Emirates ID nobody has verified.
    "uaepass": {
        "label": "UAE PASS",
        "scopes": ("urn:uae:digitalid:profile:general",),
        "name_claim": "email",
        "mfa_amr": (),
        "required_claims": {"userType": ("SOP2", "SOP3")},
        "userinfo": True,
    },
}
_UAE_PASS_CLASS = "urn:safelayer:tws:policies:authentication:level:low"  # noqa: S105 - no password
_FOR_PEOPLE = frozenset(Role) - {Role.SERVICE}


def provider_of(name: str, given: ProviderSettings) -> Provider:
    """A provider as the settings and its preset make it.

    Raises:
        InvalidInput: it maps a group to what is no role of people, or asks for too little.
    """
    set_here = {field: getattr(given, field) for field in given.model_fields_set}
    made = given.model_copy(update={**PRESETS[given.preset], **set_here})
    uae_pass, entra = given.preset == "uaepass", given.preset == "entra"
    if not uae_pass and "openid" not in made.scopes:
        raise InvalidInput(
            f"identity.providers.{name}.scopes lacks `openid`: without it there is no ID token.",
            hint="Add it.",
        )
    if made.provision and made.provisioned_by:
        raise InvalidInput(
            f"identity.providers.{name} has both `provision` and `provisioned_by`: whom SCIM has "
            "put out would get another account.",
            hint="Leave one of them out.",
        )
    return Provider(
        name=name,
        label=made.label or name,
        issuer=made.issuer,
        client_id=made.client_id,
        client_secret=_secret(name, made),
        scopes=made.scopes,
        name_claim=made.name_claim,
        subject_claim="uuid" if uae_pass else "sub",
        groups_claim=made.groups_claim,
        groups={group: _roles(name, roles) for group, roles in made.groups.items()},
        roles=_roles(name, made.roles),
        required_claims=made.required_claims,
        mfa_amr=frozenset(made.mfa_amr),
        mfa_acr=made.mfa_acr,
        acr_claim="acrs" if entra else "acr",
        acr_always=(_UAE_PASS_CLASS,) if uae_pass else (),
        always_two_factors=made.always_two_factors,
        own_factor=made.without_proof == "own_factor",
        provision=made.provision,
        provisioned_by=made.provisioned_by,
        external_claim="oid" if entra else "uuid" if uae_pass else "sub",
        userinfo=made.userinfo,
        sign_out_there=made.sign_out_there,
        logout_parameter="redirect_uri" if uae_pass else "post_logout_redirect_uri",
        signs=not uae_pass,
        fixed=_uae_pass(made.issuer) if uae_pass else None,
    )


def _uae_pass(issuer: str) -> Metadata:
    """Its documentation names four endpoints, and neither discovery nor keys."""
    hub = f"{issuer.rstrip('/')}/idshub"
    return Metadata(
        issuer=issuer,
        authorization_endpoint=f"{hub}/authorize",
        token_endpoint=f"{hub}/token",
        userinfo_endpoint=f"{hub}/userinfo",
        end_session_endpoint=f"{hub}/logout",
    )


def _roles(name: str, told: tuple[str, ...]) -> tuple[Role, ...]:
    known = {role.value: role for role in _FOR_PEOPLE}
    strange = [word for word in told if word not in known]
    if strange:
        raise InvalidInput(
            f"identity.providers.{name} gives the role {strange[0]!r}, which people cannot have.",
            hint=f"Roles of people are {', '.join(sorted(known))}.",
        )
    return tuple(known[word] for word in told)


def _secret(name: str, made: ProviderSettings) -> SecretStr | None:
    if made.client_secret is not None or made.client_secret_file is None:
        return made.client_secret
    try:
        return SecretStr(made.client_secret_file.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise InvalidInput(
            f"The file {made.client_secret_file} of identity.providers.{name} cannot be read: "
            f"{error.strerror}.",
            hint="Mend its path or its permissions.",
        ) from None
