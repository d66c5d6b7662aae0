"""A whole platform in this process, and callers of any role before its door."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.kernel.settings import Settings
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise


class Site:
    """A platform in a folder, asked as anybody."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        initialise(Settings.read(folder), owner="owner")
        self.premises: Premises = assemble(Settings.read(folder))

    def caller(
        self, *roles: str, name: str = "eve", factor: bool = False, purpose: str | None = None
    ) -> Caller:
        """Somebody with these roles."""
        at = self.premises.clock.now() - timedelta(seconds=1) if factor else None
        principal = Principal(f"user:{name}", PrincipalKind.USER, roles)
        return Caller(principal, mfa_at=at, purpose=purpose, via="http")

    def ask(self, caller: Caller, action: str, /, **arguments: Any) -> Any:
        """Call an action through the door."""
        backend = self.premises.backend
        return LocalDoor(backend, caller).call(backend.services.actions[action], arguments)

    def run_jobs(self) -> None:
        """Run every job that waits."""
        from falaj.kernel.jobs import Worker

        worker = Worker(self.premises.jobs, self.premises.handlers, name="attack")
        while worker.run_one():
            pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.premises.close()
