"""Fixtures for all tests; they ship with the package, for adapters made elsewhere."""

import os

from falaj.testing.fixtures import *  # noqa: F403

# Read when Ray is first imported, by whichever test: a Ray of a test listens on loopback alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Where colorama is installed, numba exchanges sys.stdout while it words an error (and it words
# some for itself, on whatever thread compiles): what a command prints then may go elsewhere.
os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")
