"""A control plane over TLS that the tests with MLflow's unmodified client share."""

import pytest

from falaj.testing.mlflowclients import INTERPRETER, MISSING, for_clients


@pytest.fixture(scope="session")
def clients(tmp_path_factory):
    with for_clients(tmp_path_factory.mktemp("clients") / "project") as made:
        yield made


@pytest.fixture(scope="session")
def unmodified(clients):
    """The same, where MLflow's client is installed."""
    if not INTERPRETER.exists():
        pytest.skip(MISSING)
    return clients


@pytest.fixture
def run(clients):
    """A new run of the control plane."""
    with clients.installation.near() as platform:
        return platform.runs.start("by hand", open_ended=True).id
