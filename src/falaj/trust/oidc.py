"""OpenID Connect, the pure part: what is asked of a provider, and which tokens are believed.

The library only checks signatures: which algorithm, which key and which claims are right is
decided here (OpenID Connect Core 1.0, 3.1.3.7; Back-Channel Logout 1.0, 2.6; RFC 9207).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode, urlsplit

from falaj.trust.oidc_model import Metadata, Provider, Untrusted

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519"}
)
"""Signatures with a key pair: nobody who can check one can make one."""
LEEWAY_SECONDS = 30
_HASHES = {"256": "sha256", "384": "sha384", "512": "sha512", "519": "sha512"}
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_LOGOUT = "http://schemas.openid.net/event/backchannel-logout"
_LONGEST = 64_000
Keys = Callable[[str], Sequence[Mapping[str, Any]]]
"""From a key id (or an empty text) to the public keys that a provider has now."""


def verifier_of(secret: str, state: str) -> str:
    """The PKCE verifier of one sign-in: 43 characters that the browser's secret makes."""
    return _text(hmac.digest(secret.encode(), f"verifier {state}".encode(), "sha256"))


def nonce_of(secret: str, state: str) -> str:
    """The nonce of one sign-in, made in the same way."""
    return _text(hmac.digest(secret.encode(), f"nonce {state}".encode(), "sha256"))


def authorisation_url(
    provider: Provider,
    metadata: Metadata,
    *,
    state: str,
    secret: str,
    redirect_uri: str,
    fresh: bool,
) -> str:
    """Where the browser goes to sign in.

    Args:
        secret: of this browser; verifier and nonce are made of it.
        fresh: ask the person to authenticate now, with two factors.
    """
    challenge = hashlib.sha256(verifier_of(secret, state).encode()).digest()
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(provider.scopes),
        "state": state,
        "nonce": nonce_of(secret, state),
        "code_challenge": _text(challenge),
        "code_challenge_method": "S256",
    }
    if fresh:
        asked |= {"prompt": "login", "max_age": "0"}
    classes = provider.acr_always or (provider.mfa_acr if fresh else ())
    if classes and provider.acr_claim != "acr":
        # Entra ID: an authentication context is asked for as an essential claim.
        wanted = {"essential": True, "values": list(classes)}
        if len(classes) == 1:
            wanted = {"essential": True, "value": classes[0]}
        asked["claims"] = json.dumps({"id_token": {provider.acr_claim: wanted}})
    elif classes:
        asked["acr_values"] = " ".join(classes)
    joint = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
    return metadata.authorization_endpoint + joint + urlencode(asked)


def metadata_of(document: Mapping[str, Any], issuer: str) -> Metadata:
    """A discovery document, checked.

    Raises:
        Untrusted: it is another issuer's, or lacks what is needed.
    """
    if document.get("issuer") != issuer:
        raise Untrusted("discovery-of-another-issuer")
    told = {
        name: _https(document.get(name))
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")
    }
    if not all(told.values()):
        raise Untrusted("discovery-incomplete")
    supported = document.get("id_token_signing_alg_values_supported")
    algorithms = ALGORITHMS & set(_texts(supported))
    if not algorithms:
        raise Untrusted("no-algorithm-to-trust")
    methods = _texts(document.get("token_endpoint_auth_methods_supported"))
    return Metadata(
        issuer=issuer,
        authorization_endpoint=told["authorization_endpoint"],
        token_endpoint=told["token_endpoint"],
        jwks_uri=told["jwks_uri"],
        userinfo_endpoint=_https(document.get("userinfo_endpoint")),
        end_session_endpoint=_https(document.get("end_session_endpoint")),
        algorithms=frozenset(algorithms),
        auth_methods=tuple(methods) or ("client_secret_basic",),
        names_itself=document.get("authorization_response_iss_parameter_supported") is True,
    )


def check_answer(metadata: Metadata, told: Mapping[str, str]) -> str:
    """The code of an answer that came through the browser.

    Raises:
        Untrusted: it is another provider's (RFC 9207), an error, or has no code.
    """
    named = told.get("iss", "")
    if (named or metadata.names_itself) and named != metadata.issuer:
        raise Untrusted("another-issuer")
    if "error" in told:
        word = "".join(c for c in told["error"][:60] if c.isalnum() or c in "_-")
        raise Untrusted(
            f"provider-says-{word or 'error'}",
            f"The provider has not let you in ({word or 'error'}).",
            "Try again, or ask whoever runs the provider.",
        )
    code = told.get("code", "")
    if not code:
        raise Untrusted("no-code")
    return code


def checked_id_token(
    token: str,
    keys: Keys,
    provider: Provider,
    metadata: Metadata,
    *,
    nonce: str,
    access_token: str,
    begun_at: datetime,
    now: datetime,
) -> dict[str, Any]:
    """The claims of an ID token that answers one sign-in.

    Raises:
        Untrusted: its signature, issuer, audience, time, nonce or hash is not right.
    """
    claims, algorithm = _signed(token, keys, metadata)
    _check_common(claims, provider, metadata, now)
    if not hmac.compare_digest(str(claims.get("nonce", "")), nonce):
        raise Untrusted("wrong-nonce")
    if _seconds(claims, "iat") < begun_at.timestamp() - LEEWAY_SECONDS:
        raise Untrusted("issued-before-the-sign-in")
    if "at_hash" in claims:
        digest = hashlib.new(_HASHES[algorithm[-3:]], access_token.encode()).digest()
        if claims["at_hash"] != _text(digest[: len(digest) // 2]):
            raise Untrusted("wrong-access-token")
    if not isinstance(claims.get("sub"), str) or not 0 < len(claims["sub"]) <= 255:
        raise Untrusted("no-subject")
    return claims


def checked_logout_token(
    token: str, keys: Keys, provider: Provider, metadata: Metadata, *, now: datetime
) -> dict[str, Any]:
    """The claims of a logout token; that its ``jti`` is new is for the caller to check.

    Raises:
        Untrusted: it is not one, or not for here.
    """
    claims, _ = _signed(token, keys, metadata, kinds=("logout+jwt", "JWT", ""))
    _check_common(claims, provider, metadata, now)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(_LOGOUT), dict):
        raise Untrusted("no-logout-event")
    if "nonce" in claims:
        raise Untrusted("logout-with-nonce")
    if not isinstance(claims.get("jti"), str) or not claims["jti"]:
        raise Untrusted("no-jti")
    if not any(isinstance(claims.get(name), str) and claims[name] for name in ("sub", "sid")):
        raise Untrusted("nobody-named")
    return claims


def _signed(
    token: str, keys: Keys, metadata: Metadata, *, kinds: Sequence[str] = ("JWT", "")
) -> tuple[dict[str, Any], str]:
    from joserfc import jws
    from joserfc.errors import JoseError
    from joserfc.jwk import JWKRegistry

    header = _header(token)
    algorithm, key_id = header.get("alg"), header.get("kid", "")
    if not isinstance(algorithm, str) or algorithm not in metadata.algorithms:
        raise Untrusted("wrong-algorithm")
    if not isinstance(key_id, str):
        raise Untrusted("malformed-token")
    if str(header.get("typ", "")).upper() not in {kind.upper() for kind in kinds}:
        raise Untrusted("wrong-kind-of-token")
    found = [key for key in keys(key_id) if _fits(key, algorithm, key_id)]
    if len(found) != 1:
        raise Untrusted("unknown-key")
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    try:
        key = JWKRegistry.import_key(dict(found[0]))
        signed = jws.deserialize_compact(token, key, registry=registry)
        claims = json.loads(signed.payload)
    except (JoseError, ValueError, TypeError, KeyError):
        raise Untrusted("wrong-signature") from None
    if not isinstance(claims, dict):
        raise Untrusted("malformed-token")
    return claims, algorithm


def _check_common(
    claims: Mapping[str, Any], provider: Provider, metadata: Metadata, now: datetime
) -> None:
    if claims.get("iss") != metadata.issuer:
        raise Untrusted("token-of-another-issuer")
    audience = claims.get("aud")
    for_whom = [audience] if isinstance(audience, str) else _texts(audience)
    if provider.client_id not in for_whom:
        raise Untrusted("token-for-another-audience")
    if (len(for_whom) > 1 or "azp" in claims) and claims.get("azp") != provider.client_id:
        raise Untrusted("token-for-another-party")
    instant = now.timestamp()
    if _seconds(claims, "exp") <= instant - LEEWAY_SECONDS:
        raise Untrusted("expired-token")
    if _seconds(claims, "iat") > instant + LEEWAY_SECONDS:
        raise Untrusted("token-of-the-future")


def _header(token: str) -> dict[str, Any]:
    try:
        if len(token) > _LONGEST or token.count(".") != 2:
            raise ValueError
        part = token.partition(".")[0]
        header = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        raise Untrusted("malformed-token") from None
    if not isinstance(header, dict):
        raise Untrusted("malformed-token")
    return header


def _fits(key: Mapping[str, Any], algorithm: str, key_id: str) -> bool:
    return (
        key.get("kty") == _KINDS[algorithm[:2]]
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (not key_id or key.get("kid") == key_id)
    )


def _seconds(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Untrusted(f"no-{name}")
    return float(value)


def _https(value: Any) -> str:
    """The address, or an empty text if it is none that begins with https."""
    return value if isinstance(value, str) and value.startswith("https://") else ""


def _texts(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
