"""Who is let in by a running platform, and who is not: tokens, clocks, TLS, accounts."""

import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest

import falaj
from falaj.kernel.call import Principal, PrincipalKind
from falaj.kernel.errors import FalajError, Forbidden, InvalidInput, StepUpRequired, Unavailable
from falaj.trust.model import InvalidToken
from falaj.wiring.services import service_classes

PREDICT = "/v1/endpoints/late/predict"
OPEN = {"/healthz", "/readyz"}


def asked(running, story, token):
    """The answers of both servers to one token: (control plane, inference)."""
    with running.web(token) as web, running.asked(token) as inference:
        return (
            web.get("/api/me").status_code,
            inference.post(PREDICT, json={"inputs": [story.QUESTION]}).status_code,
        )


def test_no_action_answers_without_a_token(running):
    with running.web() as web:
        for service in service_classes().values():
            for action in service.actions():
                path = "/api" + action.path
                for name in action.path_arguments:
                    path = path.replace(f"{{{name}:path}}", "x").replace(f"{{{name}}}", "1")
                answer = web.request(action.method, path, json={} if action.mutates else None)
                assert answer.status_code == 401, f"{action.name}: {answer.text}"
                assert answer.json()["code"] == "unauthenticated"


def test_metrics_ask_for_a_token_on_both_servers(running):
    with running.web() as web, running.asked() as inference:
        assert web.get("/metrics").status_code == 401
        assert inference.get("/metrics").status_code == 401


def test_no_prediction_without_a_token(running, story):
    assert asked(running, story, None) == (401, 401)


@pytest.mark.parametrize("token", ["x", "a.b.c", "e30.e30.e30", "x" * 5000])
def test_a_made_up_token_is_refused(running, story, token):
    assert asked(running, story, token) == (401, 401)


def test_a_token_with_one_changed_byte_is_refused(running, story, mint):
    head, payload, signature = mint().split(".")
    changed = signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]
    assert asked(running, story, f"{head}.{payload}.{changed}") == (401, 401)


def test_a_token_of_another_platform_is_refused(running, story, tmp_path):
    from falaj.kernel.clock import SystemClock
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
    from falaj.trust.epochs import Revoked
    from falaj.trust.tokens import Tokens

    class NothingRevoked:
        def current(self, now):
            return Revoked()

    keys = FileKeyring.create(
        tmp_path / "ring.json", MachineSeal.create(tmp_path / "seal"), clock=SystemClock()
    )
    token, _ = Tokens(keys, NothingRevoked(), issuer="falaj").issue(
        Principal("user:bilal", PrincipalKind.USER, ("administrator",)),
        session="session_x",
        account_epoch=99,
        mfa_at=None,
        now=datetime.now(UTC),
    )
    assert asked(running, story, token) == (401, 401)


def test_a_good_token_is_let_in(running, story, mint):
    assert asked(running, story, mint()) == (200, 200)


def test_an_expired_token_is_refused(running, story, mint):
    assert asked(running, story, mint(at=-timedelta(minutes=6))) == (401, 401)


@pytest.mark.parametrize("ahead", [20, -20])
def test_clocks_that_disagree_by_20_seconds_do_not_matter(running, story, mint, ahead):
    assert asked(running, story, mint(at=timedelta(seconds=ahead))) == (200, 200)


@pytest.mark.parametrize("ahead", [10, -10])
def test_a_clock_that_is_10_minutes_off_is_refused(running, story, mint, ahead):
    assert asked(running, story, mint(at=timedelta(minutes=ahead))) == (401, 401)


def test_a_service_account_predicts_with_its_secret(running, story):
    service = running.service
    with falaj.connect(
        running.control, service=service["name"], secret=service["secret"], ca=running.ca
    ) as platform:
        assert platform.accounts.me().principal == "service:scorer"
        assert platform.endpoints.predict("late", [story.QUESTION]).predictions
        with pytest.raises(Forbidden):
            platform.definitions.apply(story.documents())


def test_a_service_account_predicts_on_the_inference_port(running, story):
    with running.web() as web:
        wanted = {"name": running.service["name"], "secret": running.service["secret"]}
        token = web.post("/auth/service-login", json=wanted).json()["access_token"]
    with running.asked(token) as inference:
        assert inference.post(PREDICT, json={"inputs": [story.QUESTION]}).is_success


def test_a_wrong_secret_of_a_service_account_is_refused(running):
    with running.web() as web:
        answer = web.post("/auth/service-login", json={"name": "scorer", "secret": "wrong"})
        assert (answer.status_code, answer.json()["code"]) == (401, "wrong-credentials")


def test_a_wrong_password_is_refused_in_the_same_words_as_a_wrong_name(running):
    with running.web() as web:
        answers = [
            web.post("/auth/login", json={"name": name, "password": "x" * 20, "code": "000000"})
            for name in ("bilal", "nobody")
        ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.json()["detail"] for answer in answers}) == 1


def test_promotion_asks_for_a_fresh_second_factor(running, mint):
    with (
        falaj.connect(running.control, token=mint(factor=False), ca=running.ca) as platform,
        pytest.raises(StepUpRequired),
    ):
        platform.models.promote("late", 1, to="production", reason="No factor")


def test_a_used_link_enrols_nobody_again(running):
    with running.installation.near() as owner:
        assert {"bilal", "salma"} <= {account.name for account in owner.accounts.list()}
    with running.web() as web:
        wanted = {"secret": "x" * 43, "name": "bilal", "password": "y" * 20}
        assert web.post("/auth/enrol", json=wanted).status_code == 401


def test_a_deactivated_account_is_out_on_both_servers_within_two_seconds(running, story):
    installation = running.installation
    with installation.near(stepped_up=True) as owner:
        link = owner.accounts.invite("leaver", ["ml_engineer"]).secret.get_secret_value()
        leaver = installation.enrolled("leaver", link)
        assert asked(running, story, leaver.token) == (200, 200)
        owner.accounts.deactivate("leaver")
        time.sleep(2)
        assert asked(running, story, leaver.token) == (401, 401)
    with running.web() as web:
        wanted = {"refresh_token": leaver.tokens["refresh_token"]}
        assert web.post("/auth/refresh", json=wanted).status_code == 401


def test_plain_http_is_refused(running):
    for address in (running.control, running.inference):
        with pytest.raises(httpx.TransportError):
            httpx.get(address.replace("https://", "http://") + "/healthz", timeout=10)
    with pytest.raises(InvalidInput, match="https"):
        falaj.connect(running.control.replace("https://", "http://"), token="x")


@pytest.mark.parametrize("which", ["control", "inference"])
def test_tls_1_2_is_refused(running, which):
    address = urlsplit(getattr(running, which))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(running.ca)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection((address.hostname, address.port), 10) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname=address.hostname)


@pytest.mark.parametrize("which", ["control", "inference"])
def test_tls_1_3_is_spoken(running, which):
    address = urlsplit(getattr(running, which))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(running.ca)
    with (
        socket.create_connection((address.hostname, address.port), 10) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as secure,
    ):
        assert secure.version() == "TLSv1.3"


def test_a_client_that_does_not_trust_our_authority_does_not_connect(running):
    with (
        falaj.connect(running.control, token="x") as platform,
        pytest.raises(Unavailable, match="certificate"),
    ):
        platform.accounts.me()


def test_an_unknown_route_is_told_without_a_trace(running):
    with running.web() as web:
        answer = web.get("/api/nothing/here")
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert "Traceback" not in answer.text


def test_the_near_and_the_far_door_raise_the_same_error(running, mint):
    with running.installation.near() as owner, pytest.raises(FalajError) as near:
        owner.models.get("nothing", 7)
    with (
        falaj.connect(running.control, token=mint(), ca=running.ca) as platform,
        pytest.raises(FalajError) as far,
    ):
        platform.models.get("nothing", 7)
    assert type(near.value) is type(far.value)
    assert (near.value.message, near.value.hint) == (far.value.message, far.value.hint)


def test_the_far_door_names_an_invalid_token(running):
    with (
        falaj.connect(running.control, token="a.b.c", ca=running.ca) as platform,
        pytest.raises(InvalidToken),
    ):
        platform.accounts.me()
