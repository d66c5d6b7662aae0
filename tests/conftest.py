"""Fixtures for all tests; they ship with the package, for adapters made elsewhere."""

import os

from falaj.testing.fixtures import *  # noqa: F403

# Read when Ray is first imported, by whichever test: a Ray of a test listens on loopback alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
