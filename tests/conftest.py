"""Fixtures for all tests; they ship with the package, for adapters made elsewhere."""

from falaj.testing.fixtures import *  # noqa: F403
