from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import Unavailable
from falaj.serving.compiler import PlanCompiler
from falaj.serving.routing import RoutingTable
from falaj.testing.serving import MemoryBundles, Running, make_release, worker
from falaj.trust.bindings import thumbprint
from falaj.trust.certificates import CertificateAuthority, client_context, server_context
from falaj.trust.workload import checked_shown

ASKED = {"inputs": [{"a": 0.5, "b": -1.25, "c": 2.0}]}


def issued(folder: Path, name: str, issuer: Path | None = None) -> Path:
    """A key and a certificate in one file, of an issuer or its own."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(minutes=5))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    signer = key
    if issuer is None:
        usage = x509.KeyUsage(
            digital_signature=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = builder.issuer_name(subject).add_extension(usage, critical=True)
    else:
        data = issuer.read_bytes()
        signer = serialization.load_pem_private_key(data, None)  # type: ignore[assignment]
        authority = x509.load_pem_x509_certificate(data)
        builder = (
            builder.issuer_name(authority.subject)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        )
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def guarded(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, tmp_path: Path
) -> Iterator[Running]:
    """A worker over mutual TLS; ``clients.pem`` are its clients' authority."""
    authority = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
    own = authority.server_certificate(["localhost", "127.0.0.1"])
    context = server_context(own.path, own.path, clients=issued(tmp_path, "clients"))
    with worker(table, bundles, compiler, tmp_path, context=context) as running:
        running.activate(make_release())
        yield running


def asked(running: Running, tmp_path: Path, certificate: Path | None) -> httpx.Response:
    context = client_context(tmp_path / "tls" / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate)
    with httpx.Client(verify=context, timeout=10) as client:
        url = running.url.replace("http://", "https://")
        return client.post(
            f"{url}/v1/endpoints/delays/predict",
            json=ASKED,
            headers={"authorization": "Bearer user:amina"},
        )


def test_a_client_with_a_certificate_of_the_authority_is_answered(
    guarded: Running, tmp_path: Path
) -> None:
    certificate = issued(tmp_path, "desk", tmp_path / "clients.pem")
    assert asked(guarded, tmp_path, certificate).status_code == 200


def test_a_client_without_a_certificate_or_with_anothers_gets_no_answer_and_the_worker_goes_on(
    guarded: Running, tmp_path: Path
) -> None:
    stranger = issued(tmp_path, "stranger", issued(tmp_path, "others"))
    for certificate in (None, stranger):
        with pytest.raises((httpx.TransportError, ssl.SSLError)):
            asked(guarded, tmp_path, certificate)
    certificate = issued(tmp_path, "desk", tmp_path / "clients.pem")
    assert asked(guarded, tmp_path, certificate).status_code == 200


def test_authorities_that_cannot_be_read_are_told_with_their_file(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
    own = authority.server_certificate(["localhost"])
    (tmp_path / "empty.pem").write_text("no certificate")
    for missing in ("empty.pem", "nowhere.pem"):
        with pytest.raises(Unavailable, match=missing):
            server_context(own.path, own.path, clients=tmp_path / missing)


@pytest.fixture
def inviting(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, tmp_path: Path
) -> Iterator[Running]:
    """A worker whose clients may show a certificate of the platform's own authority."""
    authority = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
    own = authority.server_certificate(["localhost", "127.0.0.1"])
    context = server_context(own.path, own.path, authorities=[authority.ca_path])
    with worker(table, bundles, compiler, tmp_path, context=context) as running:
        running.activate(make_release())
        yield running


def kept(running: Running, tmp_path: Path, certificate: Path | None) -> http.client.HTTPSConnection:
    """A connection that stays, and sends the same head as all others."""
    context = client_context(tmp_path / "tls" / "ca.pem")
    if certificate is not None:
        context.load_cert_chain(certificate)
    found = http.client.HTTPSConnection(
        "127.0.0.1", int(running.url.rpartition(":")[2]), context=context, timeout=10
    )
    found.connect()
    return found


def predicted(connection: http.client.HTTPSConnection) -> int:
    headers = {"authorization": "Bearer user:amina", "content-type": "application/json"}
    body = json.dumps(ASKED).encode()
    connection.request("POST", "/v1/endpoints/delays/predict", body, headers)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def test_the_same_head_on_a_connection_without_the_tokens_certificate_opens_nothing(
    inviting: Running, tmp_path: Path
) -> None:
    authority = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
    paths = {
        name: authority.process_certificate(f"spiffe://falaj/service/{name}", file=name)
        for name in ("amina", "thief")
    }
    shown = ssl.PEM_cert_to_DER_cert(
        paths["amina"].read_text().partition("-----END PRIVATE KEY-----\n")[2]
        .partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----"
    )  # fmt: skip
    inviting.tokens.bound["user:amina"] = thumbprint(shown)
    holder = kept(inviting, tmp_path, paths["amina"])
    thief, stranger = kept(inviting, tmp_path, paths["thief"]), kept(inviting, tmp_path, None)
    for _ in range(5):  # the head is known, and what was admitted on it
        assert predicted(holder) == 200
        assert predicted(thief) == 401
        assert predicted(holder) == 200
        assert predicted(stranger) == 401
    for connection in (holder, thief, stranger):
        connection.close()


def test_metrics_may_be_closed_to_who_shows_no_certificate_of_the_platform(
    table: RoutingTable, bundles: MemoryBundles, compiler: PlanCompiler, tmp_path: Path
) -> None:
    authority = CertificateAuthority(tmp_path / "tls", clock=SystemClock())
    own = authority.server_certificate(["localhost", "127.0.0.1"])
    named = issued(tmp_path, "named")  # the operator's authority, which is trusted too
    context = server_context(own.path, own.path, authorities=[authority.ca_path, named])
    ca = authority.checked()

    def guard(shown: bytes | None) -> None:
        checked_shown(shown, ca, datetime.now(UTC))

    with worker(
        table, bundles, compiler, tmp_path, context=context, metrics_guard=guard
    ) as running:
        for certificate, status in (
            (authority.process_certificate("spiffe://falaj/worker/prom", file="prom"), 200),
            (issued(tmp_path, "desk", named), 403),
            (None, 403),
        ):
            connection = kept(running, tmp_path, certificate)
            connection.request("GET", "/metrics", headers={"authorization": "Bearer user:amina"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
            connection.request("GET", "/readyz")
            assert connection.getresponse().status == 200
            connection.close()
