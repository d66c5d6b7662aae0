"""A service account's name and secret in the place of a token, on MLflow's routes alone."""

import base64
import time
from datetime import UTC, datetime, timedelta

import pytest

from falaj.interfaces.mlflow.basicauth import ServiceTokens
from falaj.kernel.clock import SetClock
from falaj.kernel.errors import Unauthenticated
from falaj.testing.world import World
from falaj.trust.bindings import NOTHING
from falaj.trust.model import Role, ServiceLoginRequest, TokenPair

PLACE = "/mlflow/api/2.0/mlflow/experiments/search"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


@pytest.fixture
def account(world):
    name = world.new("program")
    with world.call() as call:
        _, secret = world.premises.authentication.accounts.create_service(
            call.connection, name=name, roles=(Role.ML_ENGINEER,), created_by="user:amina",
            now=call.now,
        )  # fmt: skip
    return name, secret


def basic(name, secret):
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()}


def asked(world, headers, place=PLACE):
    return world.http.get(place, headers=headers, params={"max_results": 1})


def logins(world):
    found = world.premises.backend.audit
    with world.premises.database.reading() as connection:
        return len(found.search(connection, action="auth.service_login", limit=1000).records)


def test_a_name_and_a_secret_do_in_the_place_of_a_token_and_are_exchanged_once(world, account):
    before = logins(world)
    answers = [asked(world, basic(*account)) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 200]
    assert logins(world) == before + 1


def test_a_wrong_secret_is_refused_and_recorded(world, account):
    before = logins(world)
    answer = asked(world, basic(account[0], "sk_wrong"))
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert logins(world) == before + 1


def test_a_right_secret_that_was_used_before_helps_no_wrong_one(world, account):
    assert asked(world, basic(*account)).status_code == 200
    assert asked(world, basic(account[0], account[1] + "x")).status_code == 401
    assert asked(world, basic("other", account[1])).status_code == 401


def test_whose_account_is_shut_is_out_though_a_token_was_kept(world, account):
    assert asked(world, basic(*account)).status_code == 200
    world.ask("python", world.premises.backend.services.actions["accounts.deactivate"],
              {"name": account[0]})  # fmt: skip
    until = time.monotonic() + 10  # a revocation is in force within a second
    while asked(world, basic(*account)).status_code != 401:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("sent", ["", "%%%", base64.b64encode(b"no colon").decode(), "w6Q="])
def test_what_cannot_be_read_is_refused(world, sent):
    answer = asked(world, {"Authorization": f"Basic {sent}"})
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("place", ["/api/runs", "/scim/v2/Users", "/metrics"])
def test_other_routes_take_no_name_and_secret(world, account, place):
    assert asked(world, basic(*account), place).status_code == 401


class Good:
    revoked = False

    def still_good(self, token):
        if self.revoked:
            raise Unauthenticated("It was revoked.")


def test_a_token_is_renewed_before_it_is_over_and_after_it_was_revoked():
    clock, verifier, made = SetClock(datetime(2026, 1, 1, tzinfo=UTC)), Good(), []

    def login(given, address, shown):
        made.append(given.name)
        return TokenPair(
            access_token=f"token-{len(made)}",
            expires_at=clock.now() + timedelta(minutes=5),
            session="s",
        )

    tokens = ServiceTokens(login, verifier, clock)

    def token(name="a"):
        given = ServiceLoginRequest(name=name, secret="s")
        return tokens._token(given, None, NOTHING)

    assert [token(), token(), token("b")] == ["token-1", "token-1", "token-2"]
    clock.move(timedelta(minutes=3, seconds=1))
    assert token() == "token-3"
    verifier.revoked = True
    assert token() == "token-4"
