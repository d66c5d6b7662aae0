"""A platform with nothing in it, held near and far."""

import pytest
from starlette.testclient import TestClient

from falaj.interfaces.client import RemoteDoor
from falaj.interfaces.platform import Platform, near
from falaj.interfaces.processes import control_app
from falaj.kernel.settings import Settings
from falaj.wiring import setup
from falaj.wiring.assembly import assemble


@pytest.fixture(scope="package")
def premises(tmp_path_factory):
    settings = Settings.read(tmp_path_factory.mktemp("platform"))
    setup.initialise(settings, owner="amina")
    made = assemble(settings)
    yield made
    made.close()


@pytest.fixture(scope="package")
def client(premises):
    with TestClient(control_app(premises), base_url="https://localhost") as made:
        yield made


@pytest.fixture
def platform(premises):
    found = near(premises)
    yield found
    found.close()


@pytest.fixture(params=["near", "far"])
def anywhere(request, premises, client):
    if request.param == "near":
        found = near(premises)
    else:
        with premises.database.reading() as connection:
            owner = premises.authentication.accounts.get(connection, "amina")
        caller = near(premises).door.door.caller
        token, _ = premises.tokens.issue(
            caller.principal, session="session_of_a_test", account_epoch=owner.epoch,
            mfa_at=None, now=premises.clock.now(),
        )  # fmt: skip
        found = Platform(RemoteDoor(client, lambda: token), step_up=None, close=lambda: None)
    yield found
    found.close()
