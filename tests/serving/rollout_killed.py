"""A control process that ends between the flip of a share and its commit.

``python rollout_killed.py DATABASE ROUTING``: it divides the units of ``delays`` and kills
itself when the workers see that, and the database does not know of it yet.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

from falaj.catalog.assets import Catalog
from falaj.kernel.database import Database
from falaj.serving.compiler import PlanCompiler
from falaj.serving.releases import Releases
from falaj.serving.rolloutreleases import RolloutReleases
from falaj.serving.routing import RoutingTable
from falaj.serving.splits import Split
from falaj.testing.calls import opened_call
from falaj.testing.serving import MemoryBundles


class Killed(RoutingTable):
    """A table whose process does not outlive a change of shares."""

    def split(self, endpoint: str, split: Split | None) -> int:
        """Flip, and end."""
        super().split(endpoint, split)
        os.kill(os.getpid(), signal.SIGKILL)
        return 0


if __name__ == "__main__":
    path = Path(__file__).with_name("test_rolloutreleases.py")
    spec = importlib.util.spec_from_file_location("rolloutreleases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table, versions = Killed(Path(sys.argv[2])), module.Versions()
    compiler = PlanCompiler(MemoryBundles({}), [], None)
    releases = Releases(table, compiler, versions, None, Catalog())
    with opened_call(Database(sys.argv[1])) as call:
        RolloutReleases(releases, table, versions).divide(call, "delays", {"new": 0.5})
