"""Fixtures for all tests; they ship with the package, for adapters made elsewhere."""

import os
import shutil
import ssl
import sys
from pathlib import Path

import httpx
import httpx._transports.default as transports
import pytest

# Where the shell forbids Python to keep compiled modules, each of the hundreds of processes that
# tests start would compile all of its modules again, which takes longer than most of the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Platforms sync each commit to disk, some ten thousand times in a run. No test takes the power
# away, so their folders lie in memory where there is room (a run leaves about a gigabyte).
_IN_MEMORY, _ROOM = Path("/dev/shm"), 6 * 2**30
if _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _ROOM:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))

# httpx reads all authorities of the world for each client that it makes, though no test asks the
# world, and that takes longer than many a test. Who names authorities gets a context of their own.
_KNOWN: dict[tuple[str | None, str | None], ssl.SSLContext] = {}


def _context(
    verify: ssl.SSLContext | str | bool = True, cert: object = None, trust_env: bool = True
) -> ssl.SSLContext:
    if verify is not True or cert is not None or not trust_env:
        return httpx.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)
    named = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if named not in _KNOWN:
        _KNOWN[named] = httpx.create_ssl_context()
    return _KNOWN[named]


transports.create_ssl_context = _context

from falaj.testing.fixtures import *  # noqa: E402, F403

# Read when Ray is first imported, by whichever test: a Ray of a test listens on loopback alone.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Where colorama is installed, numba exchanges sys.stdout while it words an error (and it words
# some for itself, on whatever thread compiles): what a command prints then may go elsewhere.
os.environ.setdefault("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", "1")


@pytest.fixture
def kept_in():
    """Makes a keyring and bundles of its own in a folder."""
    from falaj.kernel.clock import SystemClock
    from falaj.lake.adapters.blobs_local import LocalBlobs
    from falaj.lake.blobs import SealedBlobs
    from falaj.models.bundles import Bundles
    from falaj.testing.smallbundles import Kept
    from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal

    def made(folder):
        seal = MachineSeal.create(folder / "seal")
        keys = FileKeyring.create(folder / "ring", seal, clock=SystemClock())
        blobs = SealedBlobs(LocalBlobs(folder / "blobs"), keys)
        return Kept(Bundles(blobs, keys), blobs, keys)

    return made
