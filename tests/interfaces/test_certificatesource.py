"""A program's certificate at its client: renewed at half of its time, and after failures."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from falaj.interfaces import certificatesource
from falaj.interfaces.certificatesource import CertificateSource, Held
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Unauthenticated, Unavailable
from falaj.trust.certificates import CertificateAuthority
from falaj.trust.pemfiles import pem

START = datetime.now(UTC).replace(microsecond=0)


class Server:
    """Answers as the control plane does; ``down`` makes it refuse."""

    def __init__(self, folder: Path, clock: SetClock) -> None:
        self.authority = CertificateAuthority(folder / "tls", clock=clock)
        self.clock = clock
        self.down: httpx.HTTPError | int | None = None
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if isinstance(self.down, httpx.HTTPError):
            raise self.down
        path = request.url.path
        self.asked.append(path)
        if self.down is not None:
            problem = {"code": "wrong-credentials", "kind": "unauthenticated", "detail": "No.",
                       "title": "No."}  # fmt: skip
            media = {"content-type": "application/problem+json"}
            return httpx.Response(self.down, json=problem, headers=media)
        if path.startswith("/auth/"):
            return httpx.Response(200, json={"access_token": "t"})
        import json

        request_ = x509.load_pem_x509_csr(json.loads(request.content)["request"].encode())
        made, ca = self.authority.program_certificate(
            request_.public_key(), "spiffe://falaj/service/ci", valid=timedelta(hours=1)
        )
        answer = {"certificate": pem(made).decode(), "authority": pem(ca).decode()}
        return httpx.Response(200, json=answer)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(START)


@pytest.fixture
def server(tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch) -> Server:
    made = Server(tmp_path, clock)
    client = httpx.Client

    def answered(**given: Any) -> httpx.Client:
        given.pop("verify")
        return client(transport=httpx.MockTransport(made), **given)

    monkeypatch.setattr(certificatesource.httpx, "Client", answered)
    return made


def source(folder: Path, clock: SetClock, secret: str | None = "falaj_sk_x") -> CertificateSource:
    return CertificateSource(
        "https://falaj.test",
        folder,
        trusted=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        service="ci",
        secret=secret,
        now=clock.now,
    )


def test_the_first_certificate_takes_the_secret_and_later_ones_take_the_one_before(
    server: Server, clock: SetClock, tmp_path: Path
) -> None:
    kept = source(tmp_path / "kept", clock)
    assert server.asked == ["/auth/service-login", "/api/certificates/ci"]
    first = kept.held()
    clock.move(timedelta(minutes=25))
    assert not kept.renew_if_due()
    clock.move(timedelta(minutes=10))
    assert kept.renew_if_due()
    assert server.asked[2:] == ["/auth/certificate-login", "/api/certificates/ci"]
    assert kept.held().serial != first.serial
    # A program that is started again goes on with what is in its folder, without a secret.
    again = source(tmp_path / "kept", clock, secret=None)
    assert again.held().serial == kept.held().serial
    assert len(server.asked) == 4


def test_while_the_server_is_away_the_old_one_serves_and_it_is_tried_again(
    server: Server, clock: SetClock, tmp_path: Path
) -> None:
    kept = source(tmp_path / "kept", clock)
    first = kept.held()
    clock.move(timedelta(minutes=40))
    server.down = httpx.ConnectError("away")
    for _ in range(2):
        with pytest.raises(Unavailable):
            kept.renew_if_due()
        assert kept.held().serial == first.serial
    server.down = None
    assert kept.renew_if_due()
    assert kept.held().serial != first.serial


def test_one_that_has_run_out_is_replaced_by_the_secret_or_told(
    server: Server, clock: SetClock, tmp_path: Path
) -> None:
    source(tmp_path / "kept", clock)
    clock.move(timedelta(hours=2))
    with pytest.raises(Unauthenticated, match="no certificate"):
        source(tmp_path / "kept", clock, secret=None)
    assert source(tmp_path / "kept", clock).held().expires_at > clock.now()
    assert server.asked[2:] == ["/auth/service-login", "/api/certificates/ci"]


def test_a_refused_renewal_falls_back_to_the_secret_and_is_told_without_one(
    server: Server, clock: SetClock, tmp_path: Path
) -> None:
    kept = source(tmp_path / "kept", clock, secret="falaj_sk_x")
    kept._login = (None, None)
    clock.move(timedelta(minutes=40))
    server.down = 401
    with pytest.raises(Unauthenticated):
        kept.renew_if_due()
    assert server.asked[-1] == "/auth/certificate-login"


@pytest.mark.parametrize("content", [b"", b"rubbish", None])
def test_a_damaged_file_is_no_certificate(
    server: Server, clock: SetClock, tmp_path: Path, content: bytes | None
) -> None:
    kept = source(tmp_path / "kept", clock)
    path = kept.held().path
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    whole = Held.read(path)
    assert whole is None or content is None  # the chain behind the certificate may be cut
    assert source(tmp_path / "kept", clock).held().expires_at > clock.now()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_folder_of_another_account_is_not_used(
    server: Server, clock: SetClock, tmp_path: Path
) -> None:
    source(tmp_path / "kept", clock)
    n = len(server.asked)
    CertificateSource(
        "https://falaj.test",
        tmp_path / "kept",
        trusted=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        service="scorer",
        secret="falaj_sk_y",
        now=clock.now,
    )
    assert server.asked[n:] == ["/auth/service-login", "/api/certificates/scorer"]
