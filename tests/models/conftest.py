"""The assembled world of training and models, on SQLite and on PostgreSQL."""

import importlib.util
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).with_name("world.py")


def _world():
    if "models_world" not in sys.modules:
        spec = importlib.util.spec_from_file_location("models_world", _PATH)
        module = importlib.util.module_from_spec(spec)
        sys.modules["models_world"] = module
        spec.loader.exec_module(module)
    return sys.modules["models_world"]


@pytest.fixture(scope="session")
def made_up():
    """The module of the world."""
    return _world()


@pytest.fixture
def world(database, tmp_path, made_up):
    """A filled world on this test's database."""
    found = made_up.World(database, tmp_path / "home")
    found.fill()
    yield found
    found.close()


@pytest.fixture
def sqlite_world(sqlite_database, tmp_path, made_up):
    """A filled world on SQLite alone, for what no database decides."""
    found = made_up.World(sqlite_database, tmp_path / "home")
    found.fill()
    yield found
    found.close()
