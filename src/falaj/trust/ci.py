"""Tokens of CI jobs (OpenID Connect): who issued them, for whom, and which rule lets them in.

Pure but for the one question for an issuer's keys. A token is believed in this order: its
issuer is one that a rule names, its signature is the issuer's, its times fit, its audience and
claims are those of a rule. What it says of itself before is used to choose keys, for nothing
else.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings_ci import CiRule
from falaj.trust.model import Role

LEEWAY = timedelta(seconds=30)
"""How far the clocks of an issuer and of ours may disagree."""
LONGEST_LIFE = timedelta(hours=24)
"""A token that is good for longer is none of a job."""
ALGORITHMS: Mapping[str, str] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("Ed25519", "EdDSA"), "OKP"),
}
"""Signatures with a public key alone, and the kind of key of each: ``none`` and keyed hashes are
not among them."""
TOLD = (
    "sub", "repository", "ref", "environment", "event_name", "workflow_ref", "run_id",
    "project_path", "ref_path", "pipeline_id", "job_id", "user_login", "actor",
)  # fmt: skip
"""Claims of a believed token that the audit record shows."""
_NAMES_A_KEY = frozenset({"jwk", "jku", "x5u", "x5c", "crit", "zip", "b64"})
_LONGEST = 12_000
_LONGEST_TOLD = 200


class TokenRefused(Exception):
    """A token is not believed. Never leaves this room; ``reason`` stands in the audit record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class IssuerKeys(Protocol):
    """Knows the public keys of issuers that rules name.

    Asks nobody else than the issuer and where its discovery document leads, over HTTPS.
    """

    def keys(self, issuer: str, key_id: str) -> Sequence[Mapping[str, Any]]:
        """The issuer's keys (JWK); asked for anew if none has this id, at most once a minute.

        Raises:
            Unavailable, OutgoingRefused: the issuer does not answer, or leads inside.
        """
        ...


@dataclass(frozen=True)
class Rule:
    """One rule, ready to be asked."""

    name: str
    issuer: str
    audience: str
    account: str
    claims: tuple[tuple[str, re.Pattern[str]], ...]
    roles: tuple[Role, ...]
    purpose: str
    lasts: timedelta

    def fits(self, claims: Mapping[str, Any]) -> bool:
        """True if every claim that the rule names is as it says."""
        for name, pattern in self.claims:
            text = _as_text(claims.get(name))
            if text is None or pattern.fullmatch(text) is None:
                return False
        return True


def rules_of(settings: Iterable[CiRule]) -> tuple[Rule, ...]:
    """The rules of the settings; raises InvalidInput for a role that does not exist."""
    return tuple(_rule(one) for one in settings)


def pattern_of(text: str) -> re.Pattern[str]:
    """What a value must be, from its first letter to its last.

    ``*`` stands for letters but ``/`` and ``:``, so that it stays within one part of a name;
    ``**`` for any.
    """
    wild = {"**": ".*", "*": "[^/:]*"}
    parts = re.split(r"(\*\*|\*)", text)
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts), re.DOTALL)


def issuer_of(token: str) -> tuple[str, str]:
    """The issuer and the key that a token names, before anything of it is believed.

    Raises:
        TokenRefused: it is no token, is unsigned, or brings a key of its own.
    """
    parts = token.split(".")
    if len(token) > _LONGEST or len(parts) != 3 or not all(parts):
        raise TokenRefused("malformed")
    header, claims = _object(parts[0]), _object(parts[1])
    if str(header.get("alg")) not in ALGORITHMS:
        raise TokenRefused("algorithm")
    if _NAMES_A_KEY & set(header):
        raise TokenRefused("header")
    issuer, key_id = claims.get("iss"), header.get("kid")
    if not isinstance(issuer, str) or not isinstance(key_id, str) or not key_id:
        raise TokenRefused("malformed")
    return issuer, key_id


def believed(
    token: str, keys: Sequence[Mapping[str, Any]], *, issuer: str, now: datetime
) -> dict[str, Any]:
    """The claims of a token that an issuer has signed and that is good now.

    Args:
        keys: the issuer's, as JWK.

    Raises:
        TokenRefused: the signature is not the issuer's, or the times do not fit.
    """
    claims = _signed(token, keys)
    if claims.get("iss") != issuer:
        raise TokenRefused("unknown-issuer")
    issued_at, expires_at = _instant(claims, "iat"), _instant(claims, "exp")
    not_before = _instant(claims, "nbf") if "nbf" in claims else issued_at
    if max(issued_at, not_before) > now + LEEWAY:
        raise TokenRefused("not-yet-valid")
    if now >= expires_at + LEEWAY:
        raise TokenRefused("expired")
    if not timedelta(0) < expires_at - issued_at <= LONGEST_LIFE:
        raise TokenRefused("lifetime")
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        raise TokenRefused("no-token-id")
    return claims


def rule_for(
    claims: Mapping[str, Any], rules: Iterable[Rule], *, account: str | None = None
) -> Rule:
    """The first rule that lets a token in.

    Args:
        claims: believed.
        account: only rules for this account, if one is asked for.

    Raises:
        TokenRefused: none does.
    """
    of_issuer = [rule for rule in rules if rule.issuer == claims["iss"]]
    for_us = [rule for rule in of_issuer if rule.audience == _audience(claims)]
    if not for_us:
        raise TokenRefused("audience")
    for rule in for_us:
        if rule.fits(claims) and account in (None, rule.account):
            return rule
    raise TokenRefused("no-rule")


def expiry_of(claims: Mapping[str, Any]) -> datetime:
    """When a believed token ends."""
    return _instant(claims, "exp")


def told(claims: Mapping[str, Any]) -> dict[str, str]:
    """What the audit record shows of believed claims."""
    found = {name: _as_text(claims.get(name)) for name in TOLD}
    return {name: text[:_LONGEST_TOLD] for name, text in found.items() if text}


def _rule(setting: CiRule) -> Rule:
    try:
        roles = tuple(Role(name) for name in setting.roles)
    except ValueError:
        raise InvalidInput(
            f"The rule {setting.name!r} of ci.rules gives a role that does not exist.",
            hint=f"There are: {', '.join(role.value for role in Role)}.",
        ) from None
    return Rule(
        name=setting.name,
        issuer=setting.issuer,
        audience=setting.audience,
        account=setting.account,
        claims=tuple((name, pattern_of(value)) for name, value in setting.claims.items()),
        roles=roles,
        purpose=setting.purpose,
        lasts=timedelta(minutes=setting.minutes),
    )


def _signed(token: str, keys: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    from joserfc import jwt
    from joserfc.errors import JoseError
    from joserfc.jwk import KeySet

    header = _object(token.split(".", maxsplit=1)[0])
    # Keys with a secret are left out before anything is asked of them: a public key that is
    # taken for a secret (key confusion) has no place here.
    fitting = [
        dict(key)
        for key in keys
        if key.get("kid") == header["kid"]
        and key.get("kty") == ALGORITHMS[header["alg"]]
        and key.get("use", "sig") == "sig"
        and key.get("alg", header["alg"]) == header["alg"]
    ]
    if len(fitting) != 1:
        raise TokenRefused("unknown-key")
    try:
        key_set = KeySet.import_key_set({"keys": fitting})
        decoded = jwt.decode(token, key_set, algorithms=[header["alg"]])
    except (JoseError, ValueError, TypeError) as error:
        raise TokenRefused("signature") from error
    return dict(decoded.claims)


def _audience(claims: Mapping[str, Any]) -> str | None:
    found = claims.get("aud")
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    return found if isinstance(found, str) else None


def _instant(claims: Mapping[str, Any], name: str) -> datetime:
    seconds = claims.get(name)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TokenRefused("malformed")
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise TokenRefused("malformed") from error


def _as_text(value: Any) -> str | None:
    """A claim's value as rules compare it; None for what is no single value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int):
        return str(value)
    return None


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise TokenRefused("malformed") from error
    if not isinstance(value, dict):
        raise TokenRefused("malformed")
    return value
