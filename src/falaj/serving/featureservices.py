"""The feature services that a worker reads: compiled, and never older than a second.

A service is compiled when it is first asked for. While it is in use, a thread looks twice
a second whether any definition, or what the catalogue says of the service, has changed;
if so it compiles the service anew beside the old one and puts it in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.telemetry import logger
from falaj.serving.feastanswers import FeastAnswers

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.features.online import OnlineReader
    from falaj.features.store import FeatureStore
    from falaj.kernel.database import Database
    from falaj.kernel.ports import Resources

LOOK_SECONDS = 0.5
OLDEST_SECONDS = 1.0
_IDLE_SECONDS = 60.0
_OF_PEOPLE = ("personal", "sensitive")


@dataclass(frozen=True, eq=False)
class Compiled:
    """A feature service, ready to be read. Another one takes its place when it changes."""

    name: str
    reader: OnlineReader
    feast: FeastAnswers
    attributes: Mapping[str, str]
    """As the policy sees them."""
    state: object
    """Equal as long as nothing has changed."""

    @property
    def sampled(self) -> bool:
        """Whether values may stand in the record of reads: not those of people."""
        return self.attributes.get("classification") not in _OF_PEOPLE and not any(
            use.plan.sealed for use in self.reader.plan.views
        )


class FeatureServices:
    """Compiled services by name; belongs to the event loop's thread.

    Args:
        store: compiles them.
        database: where definitions and the catalogue are.
        resources: what the catalogue says.
        digest: reads something that changes whenever a definition does.
        aside: threads to do it on.
    """

    def __init__(
        self,
        store: Callable[[], FeatureStore],
        database: Database,
        resources: Resources,
        digest: Callable[[Connection], object],
        aside: ThreadPoolExecutor,
    ) -> None:
        self._store = store
        self._database = database
        self._resources = resources
        self._digest = digest
        self._aside = aside
        self._known: dict[str, tuple[Compiled, float]] = {}
        self._used: dict[str, float] = {}
        self._looker: asyncio.Task[None] | None = None

    def ready(self, name: str, now: float) -> Compiled | None:
        """The service, if what is known of it is fresh.

        Args:
            now: ``time.perf_counter()``.
        """
        found = self._known.get(name)
        if found is None or found[1] < now - OLDEST_SECONDS:
            return None
        self._used[name] = now
        return found[0]

    async def named(self, name: str) -> Compiled:
        """The service, looked up anew.

        Raises:
            NotFound: there is no such service. InvalidInput: it cannot be compiled.
        """
        before = self._known.get(name)
        now = time.perf_counter()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(
                self._aside, self._looked, name, before[0] if before else None
            )
        except FalajError:
            self._known.pop(name, None)
            raise
        self._known[name] = (found, now)
        self._used[name] = now
        if self._looker is None or self._looker.done():
            self._looker = asyncio.create_task(self._look())
        return found

    async def _look(self) -> None:
        """Keep fresh what is in use, until nothing is."""
        while self._known:
            await asyncio.sleep(LOOK_SECONDS)
            for name in list(self._known):
                if self._used.get(name, 0.0) < time.perf_counter() - _IDLE_SECONDS:
                    del self._known[name]
                    continue
                used = self._used[name]
                try:
                    await self.named(name)
                except FalajError as error:
                    logger(__name__).warning("feature service lost", service=name, error=str(error))
                    continue
                self._used[name] = used

    def _looked(self, name: str, before: Compiled | None) -> Compiled:
        ref = AssetRef("feature_service", name)
        with self._database.reading() as connection:
            resource = self._resources.load(connection, ref)
            state = (self._digest(connection), dict(resource.attributes))
        if not resource.exists:
            raise NotFound(
                f"There is no feature service {name!r} that you may see.",
                hint="`falaj features list` shows those that there are.",
            )
        if before is not None and before.state == state:
            return before
        store = self._store()
        plan = store.plan(name)
        reader = store.reader(plan)
        return Compiled(name, reader, FeastAnswers(reader), resource.attributes, state)

    def stop(self) -> None:
        """Stop looking."""
        if self._looker is not None:
            self._looker.cancel()
