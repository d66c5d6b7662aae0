"""Access tokens that this platform did not issue so, at both servers, over HTTPS."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from falaj.testing.installations import eventually
from falaj.wiring.assembly import assemble

PURPOSE = "access-tokens"
PREDICT = "/v1/endpoints/none/predict"


def part(value: Any) -> str:
    return b64(json.dumps(value, separators=(",", ":")).encode())


def b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def read(text: str) -> Any:
    return json.loads(urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class Forger:
    """Whoever has seen a good token; with ``keys`` even the platform's own signing key."""

    def __init__(self, running: Any, keys: Any) -> None:
        self.running = running
        self.keys = keys
        self.own = Ed25519PrivateKey.generate()

    @property
    def seen(self) -> tuple[dict[str, Any], dict[str, Any], str]:
        """Header, claims and signature of a viewer's token."""
        header, claims, signature = self.running.somebody("salma").token.split(".")
        return read(header), read(claims), signature

    @property
    def public(self) -> bytes:
        """The platform's public key, raw."""
        return list(self.keys.public_keys(PURPOSE).values())[-1]

    def truly(self, header: dict[str, Any] | None = None, purpose: str = PURPOSE, **claims: Any):
        """A token signed with the platform's own key, about something that it never says."""
        was, said, _ = self.seen
        message = f"{part(was | (header or {}))}.{part(said | claims)}"
        return f"{message}.{b64(self.keys.sign(purpose, message.encode()).value)}"

    def hashed(self, secret: bytes, **header: Any) -> str:
        """A token whose signature is an HMAC."""
        was, said, _ = self.seen
        message = f"{part(was | header)}.{part(self.raised(said))}"
        return f"{message}.{b64(hmac.digest(secret, message.encode(), hashlib.sha256))}"

    def strange(self, **header: Any) -> str:
        """A token signed by the forger's own key."""
        was, said, _ = self.seen
        message = f"{part(was | header)}.{part(self.raised(said))}"
        return f"{message}.{b64(self.own.sign(message.encode()))}"

    def raised(self, claims: dict[str, Any]) -> dict[str, Any]:
        return claims | {"roles": ["administrator"]}

    @property
    def jwk(self) -> dict[str, str]:
        raw = self.own.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw)}


@pytest.fixture(scope="module")
def forger(running: Any) -> Iterator[Forger]:
    premises = assemble(running.installation.settings, process="forger")
    yield Forger(running, premises.keys)
    premises.close()


def unsigned(it: Forger, algorithm: str) -> str:
    header, claims, _ = it.seen
    return f"{part(header | {'alg': algorithm})}.{part(it.raised(claims))}."


def unsigned_with_a_signature(it: Forger) -> str:
    header, claims, signature = it.seen
    return f"{part(header | {'alg': 'none'})}.{part(it.raised(claims))}.{signature}"


def raised_under_the_old_signature(it: Forger) -> str:
    header, claims, signature = it.seen
    return f"{part(header)}.{part(it.raised(claims))}.{signature}"


def pem(it: Forger) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(it.public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


NOW = time.time
FORGERIES: dict[str, Callable[[Forger], str]] = {
    "alg none": lambda it: unsigned(it, "none"),
    "alg nOnE": lambda it: unsigned(it, "nOnE"),
    "alg none with a signature": unsigned_with_a_signature,
    "roles changed": raised_under_the_old_signature,
    "public key as shared secret": lambda it: it.hashed(it.public, alg="HS256"),
    "public key in PEM as shared secret": lambda it: it.hashed(pem(it), alg="HS256"),
    "empty shared secret, kid of a file": lambda it: it.hashed(b"", alg="HS256", kid="/dev/null"),
    "other key under the same kid": lambda it: it.strange(),
    "key in the header": lambda it: it.strange(jwk=it.jwk),
    "address of keys in the header": lambda it: it.strange(jku="https://127.0.0.1:1/keys"),
    "certificate in the header": lambda it: it.strange(x5c=["MIIB"]),
    "crit": lambda it: it.truly({"crit": ["exp"]}),
    "crit of an unknown extension": lambda it: it.truly({"crit": ["b64"], "b64": False}),
    "another type": lambda it: it.truly({"typ": "JWT"}),
    "the older name of the algorithm": lambda it: it.truly({"alg": "EdDSA"}),
    "a signature for another purpose": lambda it: it.truly(purpose="audit"),
    "another audience": lambda it: it.truly(aud="another"),
    "a list of audiences": lambda it: it.truly(aud=["falaj", "another"]),
    "another issuer": lambda it: it.truly(iss="https://evil.example"),
    "no audience": lambda it: it.truly(aud=None),
    "the platform itself": lambda it: it.truly(sub="system:worker"),
    "expired": lambda it: it.truly(iat=int(NOW()) - 900, nbf=int(NOW()) - 900,
                                   exp=int(NOW()) - 600),
    "not yet valid": lambda it: it.truly(iat=int(NOW()) + 600, nbf=int(NOW()) + 600,
                                         exp=int(NOW()) + 900),
    "good for ten years": lambda it: it.truly(exp=int(NOW()) + 315_360_000),
    "no end": lambda it: it.truly(exp=None),
}  # fmt: skip


@pytest.mark.parametrize("forged", list(FORGERIES.values()), ids=list(FORGERIES))
def test_a_forged_token_opens_neither_server_and_is_on_record(
    running: Any, forger: Forger, forged: Callable[[Forger], str]
) -> None:
    token = forged(forger)
    with running.web(token) as web, running.data_plane(token) as plane:
        control, inference = web.get("/api/me"), plane.post(PREDICT, json={"inputs": []})
    for answer in (control, inference):
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid-token")
    assert control.headers["www-authenticate"] == "Bearer"
    why = control.json()["detail"]
    for via in ("http", "inference"):
        record = running.on_record(
            "auth.token",
            lambda r, via=via: r["via"] == via and r["details"]["message"] == why,
        )
        assert (record["principal"], record["reasons"]) == ("unknown", ["invalid-token"])


def test_the_token_that_was_changed_is_good_as_it_was_issued(running: Any, forger: Forger) -> None:
    """Without this the others could fail for any reason."""
    for token in (running.somebody("salma").token, forger.truly()):
        with running.web(token) as web, running.data_plane(token) as plane:
            assert web.get("/api/me").status_code == 200
            assert plane.post(PREDICT, json={"inputs": []}).status_code == 404


def test_a_refresh_token_used_twice_ends_the_session_of_thief_and_owner(running: Any) -> None:
    person = running.somebody("sara")
    old = {"refresh_token": person.tokens["refresh_token"]}
    del running.people["sara"]  # this session is lost: who asks for her later enrols nobody
    with running.web() as web:
        stolen = web.post("/auth/refresh", json=old).json()
        assert web.post("/auth/refresh", json=old).status_code == 401
        family = {"refresh_token": stolen["refresh_token"]}
        assert web.post("/auth/refresh", json=family).status_code == 401
    for token in (person.token, stolen["access_token"]):
        with running.web(token) as web:
            eventually(lambda web=web: web.get("/api/me").status_code == 401, seconds=10)
    record = running.on_record("auth.refresh", lambda r: r["principal"] == "user:sara")
    assert ("refused", "refresh-token-reused") in running.records("auth.refresh")
    assert record["outcome"] == "refused"
    running.forgiven()
    person.login()
    running.people["sara"] = (person, time.monotonic())


def test_the_record_of_a_refused_token_says_when(running: Any) -> None:
    with running.web("a.b.c") as web:
        assert web.get("/api/me").status_code == 401
    record = running.on_record("auth.token", lambda r: r["reasons"] == ["invalid-token"])
    assert abs((datetime.now(UTC) - datetime.fromisoformat(record["at"])).total_seconds()) < 300
