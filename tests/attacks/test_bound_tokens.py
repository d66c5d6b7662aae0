"""Stolen tokens, and tokens with their keys, on a running platform over HTTPS."""

from __future__ import annotations

import io
import json
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import falaj
from falaj.interfaces.certificatesource import CertificateSource, Held
from falaj.interfaces.platform import trusted
from falaj.interfaces.session import Session
from falaj.interfaces.signedrequests import SignedRequests, SigningKey
from falaj.kernel.clock import SystemClock
from falaj.kernel.errors import FalajError, Forbidden, Unauthenticated
from falaj.testing.installations import PASSWORD, eventually
from falaj.trust.certificates import CertificateAuthority


@dataclass
class Program:
    """A service account with a certificate, and a thief's view of it."""

    running: Any
    name: str
    secret: str
    source: CertificateSource

    @property
    def held(self) -> Held:
        """The certificate."""
        return self.source.held()

    def web(self, base: str, certificate: Path | None) -> httpx.Client:
        """A client of an address that shows a certificate, or none."""
        context = trusted(base, self.running.installation.ca)
        if certificate is not None:
            context.load_cert_chain(certificate)
        return httpx.Client(base_url=base, verify=context, timeout=30)

    def token(self) -> str:
        """A token that is bound to the certificate."""
        with self.web(self.running.installation.control, self.held.path) as web:
            answer = web.post("/auth/certificate-login", json={})
        return str(answer.raise_for_status().json()["access_token"])


def enrolled(running: Any, folder: Path, name: str, roles: tuple[str, ...]) -> Program:
    installation = running.installation
    with installation.asked_as("administrator") as ask:
        made = ask("accounts.create_service", name=name, roles=roles)
    secret = made.secret.get_secret_value()
    source = CertificateSource(
        installation.control,
        folder / name,
        trusted=lambda: trusted(installation.control, installation.ca),
        service=name,
        secret=secret,
    )
    return Program(running, name, secret, source)


@pytest.fixture(scope="module")
def program(running: Any, tmp_path_factory: pytest.TempPathFactory) -> Program:
    running.forgiven()
    return enrolled(running, tmp_path_factory.mktemp("programs"), "robot", ("viewer",))


@pytest.fixture(scope="module")
def other(running: Any, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return enrolled(running, tmp_path_factory.mktemp("others"), "other-robot", ("viewer",))


PORTS: dict[str, str] = {"control": "/api/me", "inference": "/metrics"}
both = pytest.mark.parametrize("port", list(PORTS))


def asked(
    program: Program, port: str, token: str, certificate: Path | None, **headers: str
) -> httpx.Response:
    address = getattr(program.running.installation, port)
    with program.web(address, certificate) as web:
        return web.get(PORTS[port], headers={"Authorization": f"Bearer {token}", **headers})


def refusals(program: Program, via: str) -> Callable[[], bool]:
    """True once there is a record of a token without its key, by this interface."""

    def found() -> bool:
        with program.running.installation.near() as owner:
            page = owner.audit.search(action="auth.token", limit=100)
        return any(one.via == via and "unproven-key" in one.reasons for one in page.records)

    return found


@both
def test_a_stolen_token_that_is_bound_to_a_certificate_opens_nothing_and_is_recorded(
    program: Program, other: Program, port: str
) -> None:
    token = program.token()
    assert asked(program, port, token, program.held.path).status_code == 200
    for thief in (None, other.held.path):  # without a certificate, and with a good one of his own
        answer = asked(program, port, token, thief)
        assert answer.status_code == 401
        assert answer.json()["code"] == "unproven-key"
    # In a warm cache nothing is different, and the header that proxies set is not believed.
    assert asked(program, port, token, program.held.path).status_code == 200
    forged = {"X-Forwarded-Client-Cert": "Hash=" + program.held.serial, "X-SSL-Client-Verify": "1"}
    assert asked(program, port, token, None, **forged).status_code == 401
    via = {"control": "http", "inference": "inference"}[port]
    eventually(refusals(program, via), seconds=10, every=0.3)


@both
def test_a_certificate_of_a_stranger_gets_no_connection(
    program: Program, tmp_path: Path, port: str
) -> None:
    stranger = CertificateAuthority(tmp_path, clock=SystemClock())
    forged = stranger.process_certificate("spiffe://falaj/service/robot", file="forged")
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        asked(program, port, program.token(), forged)
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        program.web(program.running.installation.control, forged).post(
            "/auth/certificate-login", json={}
        )


def test_a_process_certificate_lets_no_program_in(program: Program) -> None:
    installation = program.running.installation
    from falaj.wiring.assembly import assemble

    premises = assemble(installation.settings, process="thief")
    try:
        path = premises.certificates.process_certificate("worker", "inference-9")
    finally:
        premises.close()
    with program.web(installation.control, path) as web:
        assert web.post("/auth/certificate-login", json={}).status_code == 401
    assert program.running.records("auth.certificate_login")[-1] == (
        "refused", "certificate-of-another",
    )  # fmt: skip


def test_a_program_gets_no_certificate_of_another(program: Program, other: Program) -> None:
    from falaj.interfaces.certificatesource import new_request

    installation = program.running.installation
    with program.web(installation.control, program.held.path) as web:
        answer = web.post(
            f"/api/certificates/{other.name}",
            json={"request": new_request(other.name)[1]},
            headers={"Authorization": f"Bearer {program.token()}"},
        )
    assert answer.status_code in (403, 404)
    assert program.running.records("certificates.issue")[-1][0] == "refused"


def test_a_revoked_certificate_is_out_on_both_ports_within_a_second(
    running: Any, tmp_path: Path
) -> None:
    running.forgiven()
    doomed = enrolled(running, tmp_path, "doomed-robot", ("viewer",))
    token, path = doomed.token(), doomed.held.path
    assert [asked(doomed, port, token, path).status_code for port in PORTS] == [200, 200]
    with running.installation.asked_as("operator") as ask:
        assert ask("certificates.revoke", account=doomed.name, serial=doomed.held.serial) == 1
        time.sleep(1)
    assert [asked(doomed, port, token, path).status_code for port in PORTS] == [401, 401]
    with doomed.web(running.installation.control, path) as web:
        assert web.post("/auth/certificate-login", json={}).status_code == 401
    assert running.records("auth.certificate_login")[-1] == ("refused", "certificate-revoked")
    assert doomed.source.held().serial == doomed.held.serial


def test_a_program_works_on_while_its_certificate_is_renewed(
    program: Program, tmp_path: Path
) -> None:
    installation = program.running.installation
    with falaj.connect(
        installation.control,
        service=program.name,
        secret=program.secret,
        certificate=tmp_path / "kept",
        ca=installation.ca,
    ) as platform:
        assert platform.accounts.me().principal == "service:robot"
        before = Held.read(tmp_path / "kept" / "program.pem")
        source = platform.door.door._client._transport._source  # type: ignore[attr-defined]
        assert not source.renew_if_due()
        # Half an hour later: renewed by the certificate alone, with a fresh key.
        source._login = (None, None)
        source._now = lambda: before.due_at()
        assert source.renew_if_due()
        assert platform.accounts.me().principal == "service:robot"
        after = Held.read(tmp_path / "kept" / "program.pem")
    assert after is not None and before is not None
    assert after.serial != before.serial
    assert (tmp_path / "kept" / "program.pem").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_without_a_good_certificate_and_without_a_secret_nobody_is_let_in(
    program: Program, tmp_path: Path
) -> None:
    installation = program.running.installation
    with pytest.raises(Unauthenticated, match="secret"):
        falaj.connect(installation.control, certificate=tmp_path / "empty", ca=installation.ca)


# -- signed requests (DPoP)


class Signer:
    """A person whose session is bound to a key."""

    def __init__(self, running: Any) -> None:
        self.running = running
        self.key = SigningKey.new()
        person = running.person
        running.forgiven()
        wanted = {"name": person.name, "password": PASSWORD, "code": person.code()}
        with self.web(self.key) as web:
            answer = web.post("/auth/login", json=wanted)
        assert answer.status_code == 200, answer.text
        self.tokens = answer.json()

    def web(self, key: SigningKey | None) -> httpx.Client:
        """A client of the control plane that signs with a key, or not at all."""
        web: httpx.Client = self.running.web()
        web.auth = SignedRequests(key) if key is not None else None
        return web

    def me(self, key: SigningKey | None, scheme: str = "Bearer") -> httpx.Response:
        """Ask who one is, with the token of the session."""
        with self.web(key) as web:
            header = {"Authorization": f"{scheme} {self.tokens['access_token']}"}
            return web.get("/api/me", headers=header)


@pytest.fixture(scope="module")
def signer(running: Any) -> Iterator[Signer]:
    yield Signer(running)
    running.forgiven()


def test_a_stolen_token_that_is_bound_to_a_key_opens_nothing(signer: Signer) -> None:
    assert signer.tokens["token_type"] == "DPoP"
    assert signer.me(signer.key).json()["principal"] == f"user:{signer.running.person.name}"
    for key, scheme in ((None, "Bearer"), (None, "DPoP"), (SigningKey.new(), "Bearer")):
        answer = signer.me(key, scheme)
        assert (answer.status_code, answer.json()["code"]) == (401, "unproven-key")
        assert "invalid_dpop_proof" in answer.headers["www-authenticate"]


def test_a_proof_that_was_overheard_is_good_for_nothing_else(signer: Signer) -> None:
    token = signer.tokens["access_token"]
    with signer.web(None) as web:
        nonce = web.get("/healthz", headers={"DPoP": "x"}).headers["dpop-nonce"]
        url = f"{signer.running.installation.control}/api/me"
        proof = signer.key.proof("GET", url, token=token, nonce=nonce)
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
        answers = [
            web.get("/api/me", headers=headers).status_code,
            web.get("/api/me", headers=headers).status_code,  # again
            web.get("/api/jobs", headers=headers).status_code,  # elsewhere
            web.post("/auth/logout", headers=headers).status_code,
        ]
        assert answers == [200, 401, 401, 401]
        twice = [("Authorization", f"DPoP {token}"), ("DPoP", proof), ("DPoP", proof)]
        assert web.get("/api/me", headers=twice).status_code == 401


def test_a_stolen_refresh_token_is_worth_nothing_and_its_holder_keeps_it(signer: Signer) -> None:
    body = {"refresh_token": signer.tokens["refresh_token"]}
    for key in (None, SigningKey.new()):
        with signer.web(key) as web:
            assert web.post("/auth/refresh", json=body).json()["code"] == "unproven-key"
    with signer.web(signer.key) as web:
        answer = web.post("/auth/refresh", json=body)
    assert answer.status_code == 200
    signer.tokens = answer.json()
    assert signer.me(None).status_code == 401  # the new one is bound as well
    assert signer.me(signer.key).status_code == 200


def test_a_bound_token_steps_up_and_ends_its_session_with_its_key_alone(signer: Signer) -> None:
    bearer = {"Authorization": f"Bearer {signer.tokens['access_token']}"}
    with signer.web(None) as thief:
        for path, body in (("/auth/logout", {}), ("/auth/step-up", {"code": "000000"})):
            assert thief.post(path, json=body, headers=bearer).status_code == 401
    assert signer.me(signer.key).status_code == 200


def test_a_worker_takes_no_token_that_needs_signed_requests(signer: Signer) -> None:
    installation = signer.running.installation
    for scheme in ("Bearer", "DPoP"):
        with httpx.Client(verify=trusted(installation.inference, installation.ca)) as web:
            header = {"Authorization": f"{scheme} {signer.tokens['access_token']}"}
            answer = web.get(f"{installation.inference}/metrics", headers=header)
        assert answer.status_code == 401


def test_an_unbound_token_of_a_program_goes_on_as_before(program: Program) -> None:
    with falaj.connect(
        program.running.installation.control,
        service=program.name,
        secret=program.secret,
        ca=program.running.installation.ca,
    ) as platform:
        assert platform.accounts.me().principal == "service:robot"
        with pytest.raises((Forbidden, FalajError)):
            platform.certificates.revoke(program.name)


def test_a_session_of_the_command_line_may_be_bound_to_a_key_that_stays_in_its_folder(
    running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, person = running.installation, running.person
    running.forgiven()
    kept = tmp_path / "falaj" / "credentials.json"
    monkeypatch.setenv("FALAJ_CREDENTIALS", str(kept))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PASSWORD}\n"))
    session = Session(
        folder=tmp_path, url=installation.control, ca=installation.ca, as_json=True,
        code=person.code(), purpose=None,
    )  # fmt: skip
    session.login(person.name, bind=True)
    (key,) = kept.parent.glob("*.key")
    assert key.stat().st_mode & 0o777 == 0o600
    with falaj.connect(installation.control, ca=installation.ca) as platform:
        assert platform.accounts.me().principal == f"user:{person.name}"
        assert platform.accounts.me().stepped_up  # as after any login
    stolen = json.loads(kept.read_text())[installation.control]["access_token"]
    with running.web(stolen) as thief:
        assert thief.get("/api/me").status_code == 401
    session.logout()
    assert not key.exists()
