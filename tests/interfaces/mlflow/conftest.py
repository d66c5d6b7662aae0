"""What the tests of MLflow's API share: the small world, and a control plane over TLS."""

import pytest

from falaj.testing.mlflowclients import INTERPRETER, MISSING, TORCH, WITHOUT_TORCH, for_clients
from falaj.testing.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world. While it is open this process has no other platform, so that a module
    uses either it or ``clients``."""
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


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
def with_torch(unmodified):
    """The same, where PyTorch and Lightning are in the client's environment."""
    if not TORCH.exists():
        pytest.skip(WITHOUT_TORCH)
    return unmodified


@pytest.fixture
def run(clients):
    """A new run of the control plane."""
    with clients.installation.near() as platform:
        return platform.runs.start("by hand", open_ended=True).id
