"""Signed requests: what a proof must say, and what nobody else can make of it."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from falaj.kernel.errors import LimitExceeded
from falaj.trust.bindings import Presented, digest_text
from falaj.trust.proofs import Proofs, StaleNonce, UnprovenKey, jwk_thumbprint

NOW = datetime(2026, 11, 30, 12, 0, 30, tzinfo=UTC)
URL = "https://falaj.test:8443/api/me"
TOKEN = "a.b.c"


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(value):
    return text(json.dumps(value).encode())


class Client:
    """Holds a key and makes proofs, good ones unless told otherwise."""

    def __init__(self, proofs, kind="Ed25519"):
        self.proofs = proofs
        self.kind = kind
        if kind == "Ed25519":
            self.key = Ed25519PrivateKey.generate()
            raw = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.jwk = {"kty": "OKP", "crv": "Ed25519", "x": text(raw)}
        else:
            self.key = ec.generate_private_key(ec.SECP256R1())
            point = self.key.public_key().public_numbers()
            x, y = (text(n.to_bytes(32, "big")) for n in (point.x, point.y))
            self.jwk = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
        self.made = 0

    def sign(self, message):
        if self.kind == "Ed25519":
            return self.key.sign(message)
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def proof(self, header=(), signature=None, **claims):
        self.made += 1
        head = {"typ": "dpop+jwt", "alg": self.kind, "jwk": self.jwk, **dict(header)}
        body = {
            "jti": f"number-{self.made}", "htm": "GET", "htu": URL, "iat": NOW.timestamp(),
            "ath": digest_text(TOKEN.encode()), "nonce": self.proofs.nonce(NOW), **claims,
        }  # fmt: skip
        body = {name: value for name, value in body.items() if value is not None}
        message = f"{part(head)}.{part(body)}"
        return f"{message}.{text(signature or self.sign(message.encode()))}"


def presented(proof, method="GET", url=URL):
    return Presented(proof=proof, method=method, url=url, scheme="dpop")


@pytest.fixture
def proofs():
    return Proofs(lambda: b"s" * 32)


@pytest.fixture
def client(proofs):
    return Client(proofs)


@pytest.mark.parametrize("kind", ["Ed25519", "ES256"])
def test_a_proof_tells_the_thumbprint_of_its_key(proofs, kind):
    client = Client(proofs, kind)
    assert proofs.key_of(presented(client.proof()), NOW, token=TOKEN) == jwk_thumbprint(client.jwk)


def test_the_thumbprint_is_that_of_rfc_8037():
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
    assert jwk_thumbprint(jwk) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    "claims",
    [
        {"htm": "POST"}, {"htm": None}, {"htu": "https://other.test/api/me"}, {"htu": None},
        {"htu": "https://falaj.test:8443/api/you"}, {"htu": "http://falaj.test:8443/api/me"},
        {"ath": digest_text(b"another")}, {"ath": None}, {"jti": None}, {"jti": "short"},
        {"iat": None}, {"iat": True}, {"iat": NOW.timestamp() - 3600},
    ],
)  # fmt: skip
def test_a_proof_of_another_request_token_or_time_is_refused(proofs, client, claims):
    with pytest.raises(UnprovenKey):
        proofs.key_of(presented(client.proof(**claims)), NOW, token=TOKEN)


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"}, {"alg": "none"}, {"alg": "HS256"}, {"alg": "EdDSA"}, {"alg": "ES256"},
        {"crit": ["x"]}, {"kid": "1"}, {"jwk": None}, {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"jwk": {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}},
        {"jwk": {"kty": "OKP", "crv": "Ed25519"}},
    ],
)  # fmt: skip
def test_a_header_that_is_not_a_proofs_is_refused(proofs, client, header):
    with pytest.raises(UnprovenKey):
        proofs.key_of(presented(client.proof(header=header)), NOW, token=TOKEN)


def test_a_private_key_in_the_header_is_refused(proofs, client):
    with pytest.raises(UnprovenKey, match="public"):
        header = {"jwk": {**client.jwk, "d": "AAAA"}}
        proofs.key_of(presented(client.proof(header=header)), NOW, token=TOKEN)


def test_a_signature_of_another_key_is_refused(proofs, client):
    other = Client(proofs)
    forged = client.proof(header={"jwk": other.jwk})
    for bad in (forged, client.proof(signature=b"x" * 64), client.proof(signature=b"x"), "a.b.c",
                "", "x" * 5000, "ä.b.c", "a.b", None):  # fmt: skip
        with pytest.raises(UnprovenKey):
            proofs.key_of(presented(bad), NOW, token=TOKEN)


def test_a_proof_is_good_once(proofs, client):
    proof = client.proof()
    proofs.key_of(presented(proof), NOW, token=TOKEN)
    for later in (0, 20, 60):
        with pytest.raises((UnprovenKey, StaleNonce)):
            proofs.key_of(presented(proof), NOW + timedelta(seconds=later), token=TOKEN)
    # Another key may use the same number.
    proofs.key_of(presented(Client(proofs).proof(jti="number-1")), NOW, token=TOKEN)


def test_without_a_nonce_or_with_an_old_or_foreign_one_a_new_one_is_asked_for(proofs, client):
    foreign = Proofs(lambda: b"t" * 32).nonce(NOW)
    for nonce in (None, "", "x", 7, foreign, proofs.nonce(NOW - timedelta(minutes=2))):
        with pytest.raises(StaleNonce):
            proofs.key_of(presented(client.proof(nonce=nonce)), NOW, token=TOKEN)
    before = proofs.nonce(NOW - timedelta(minutes=1))
    proofs.key_of(presented(client.proof(nonce=before)), NOW, token=TOKEN)


def test_what_was_seen_is_forgotten_once_its_nonce_is_no_longer_taken(proofs, client):
    for _ in range(50):
        proofs.key_of(presented(client.proof()), NOW, token=TOKEN)
    later = NOW + timedelta(minutes=3)
    proof = client.proof(nonce=proofs.nonce(later), iat=later.timestamp())
    proofs.key_of(presented(proof), later, token=TOKEN)
    assert len(proofs._seen) == 1


def test_the_default_port_a_query_and_capitals_of_the_host_make_no_difference(proofs, client):
    for htu in ("https://falaj.test/x", "https://FALAJ.test:443/x?a=1", "HTTPS://falaj.test/x#f"):
        at = presented(client.proof(htu=htu), url="https://falaj.test/x")
        proofs.key_of(at, NOW, token=TOKEN)


def test_what_strangers_send_fills_no_memory_of_requests_with_tokens(proofs, client, monkeypatch):
    monkeypatch.setattr("falaj.trust.proofs._MOST_REMEMBERED", 3)
    for _ in range(8):
        login = client.proof(ath=None)
        proofs.key_of(presented(login), NOW)
        with pytest.raises(UnprovenKey, match="before"):
            proofs.key_of(presented(login), NOW)
    for _ in range(3):
        proofs.key_of(presented(client.proof()), NOW, token=TOKEN)
    with pytest.raises(LimitExceeded):
        proofs.key_of(presented(client.proof()), NOW, token=TOKEN)
    proofs.key_of(presented(client.proof(ath=None)), NOW)
