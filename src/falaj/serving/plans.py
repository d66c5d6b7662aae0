"""The plans of one process: kept in step with the routing table, switched without a gap."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from copy import copy

from falaj.kernel.errors import FalajError, NotFound
from falaj.kernel.telemetry import logger
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import Asleep
from falaj.serving.model import Release
from falaj.serving.plan import RequestPlan
from falaj.serving.routing import RoutingTable
from falaj.serving.splits import Split
from falaj.serving.yielding import yielding

_POLL_SECONDS = 0.02
_REPORT_SECONDS = 1.0


class Plans:
    """The compiled plans of the active releases, and of those that are announced.

    ``behind`` is the question of every request (a read of eight shared bytes); only when
    it is true does anybody call ``catch_up``, which switches to the plans that the
    keeper's thread has prepared, and builds one only if nobody had announced it.

    Args:
        table: the routing table.
        compiler: compiles releases.
        keep_seconds: so long the plan that served an endpoint before stays built, so that a
            rollback needs no load.
    """

    def __init__(
        self, table: RoutingTable, compiler: PlanCompiler, *, keep_seconds: float = 0.0
    ) -> None:
        self._table = table
        self._keep_seconds = keep_seconds
        self._before: dict[str, tuple[str, float]] = {}
        """Of each endpoint the release that served it before, and until when it is kept
        (``time.monotonic()``)."""
        self._compiler = compiler
        self._words = table.words
        self._lock = threading.Lock()  # held for a switch, never for a build
        self._building = threading.Lock()
        self._built: dict[str, RequestPlan] = {}
        self._refused: dict[str, str] = {}
        self._seen = -1
        self._announcements = -1
        self._routes: dict[str, str] | None = None
        """The active release of each endpoint, as it is served."""
        self.generation = 0
        """The generation of the table that is served."""
        self.active: dict[str, RequestPlan] = {}
        """The plan of each endpoint; replaced whole, never changed in place."""
        self.broken: dict[str, FalajError] = {}
        """Why this process cannot load an active release, by endpoint."""
        self._unloaded: dict[str, Release] = {}
        """The documents of these, as far as they can be read; replaced whole."""
        self.asleep: dict[str, Release] = {}
        """Active releases whose models are not in memory until somebody asks (see ``sleep``);
        replaced whole, never changed in place."""

    @property
    def behind(self) -> bool:
        """True if the table has a newer generation than the one served here."""
        return self._words[0] != self._seen

    def named(self, endpoint: str) -> RequestPlan:
        """The plan of an endpoint.

        Raises:
            NotFound: it serves nothing.
            Asleep: ``wake`` it first.
            FalajError: why its release cannot be loaded here.
        """
        plan = self.active.get(endpoint)
        if plan is None:
            if endpoint in self.asleep:
                raise Asleep(
                    f"The model of {endpoint!r} is asleep.",
                    hint="Ask again: a prediction wakes it.",
                )
            broken = self.broken.get(endpoint)
            if broken is not None:
                raise copy(broken)  # what is raised holds the frames, and so the requests
            plan = self.active.get(endpoint)  # it may have woken between the two looks
            if plan is not None:
                return plan
            raise NotFound(
                f"There is no endpoint {endpoint!r} that serves.",
                hint="`falaj endpoints list` shows them; activate a release first.",
            )
        return plan

    def release(self, endpoint: str) -> Release | None:
        """The active release of an endpoint: awake, asleep, or one that cannot be loaded here.

        None if there is none, or if its document cannot be read.
        """
        plan = self.active.get(endpoint)
        if plan is None:
            asleep = self.asleep.get(endpoint)
            if asleep is not None:
                return asleep
            plan = self.active.get(endpoint)  # it may have woken between the two looks
        return self._unloaded.get(endpoint) if plan is None else plan.release

    def sleep(self, endpoint: str) -> bool:
        """Let go of an endpoint's models; the release stays active, and counts as prepared.

        Requests that hold the plan already are answered with it.

        Returns:
            False if there is nothing to let go of.
        """
        _, announced = self._table.announced()
        with self._lock:
            plan = self.active.get(endpoint)
            if plan is None or announced.get(endpoint) == plan.release.id:
                return False
            self.asleep = {**self.asleep, endpoint: plan.release}
            self.active = {name: one for name, one in self.active.items() if name != endpoint}
            del self._built[plan.release.id]
        return True

    def wake(self, endpoint: str) -> RequestPlan:
        """The plan of an endpoint; its bundle is verified and loaded again if it sleeps.

        It builds, so it belongs on a thread; any number may call it at once.

        Raises:
            NotFound: it serves nothing.
            FalajError: why its release cannot be loaded any more; it stays asleep.
        """
        release = self.asleep.get(endpoint)
        if release is None:
            return self.named(endpoint)
        with yielding():
            plan = self._compiler.compile(release)
        with self._lock:
            if self.asleep.get(endpoint) is release:
                # Who divides the units behind this look raises the generation.
                plan.divide(self._table.served()[2].get(endpoint))
                # Whoever looks without the lock must find it in one of the two: see ``named``.
                self.active = {**self.active, endpoint: plan}
                self.asleep = {name: one for name, one in self.asleep.items() if name != endpoint}
                self._built[release.id] = plan
                return plan
        return self.wake(endpoint)  # it was switched, or woken by somebody else

    def switch(self) -> bool:
        """Serve what the table says now, if all of it is built; never waits for a build.

        Returns:
            False if ``catch_up`` is needed (it builds, so it belongs on a thread).
        """
        with self._lock:
            seen = self._words[0]
            generation, routes, splits = self._table.served()
            if routes == self._routes:  # units were divided anew, and nothing else
                self._divide(self.active, splits)
                self.generation, self._seen = generation, seen
                return True
            awake = self._awake(routes)
            if not all(release in self._built for release in awake.values()):
                return False
            active = {endpoint: self._built[release] for endpoint, release in awake.items()}
            self._divide(active, splits)
            self._serve(seen, generation, active, routes)
            return True

    def catch_up(self) -> None:
        """Serve what the table says now; plans that nobody prepared are built here."""
        with self._building:
            seen = self._words[0]
            generation, routes, splits = self._table.served()
            active: dict[str, RequestPlan] = {}
            broken: dict[str, FalajError] = {}
            unloaded: dict[str, Release] = {}
            for endpoint, release in self._awake(routes).items():
                try:
                    active[endpoint] = self._plan(release)
                except FalajError as error:
                    logger(__name__).error("release not loaded", release=release, error=str(error))
                    broken[endpoint] = error
                    document = self._document(release)
                    if document is not None:
                        unloaded[endpoint] = document
            with self._lock:
                if generation >= self.generation:
                    # What has gone to sleep or was woken meanwhile stays as it is.
                    asleep = routes.keys() - self._awake(routes).keys()
                    active = {name: plan for name, plan in active.items() if name not in asleep}
                    for name in routes.keys() - active.keys() - broken.keys() - asleep:
                        if routes[name] in self._built:
                            active[name] = self._built[routes[name]]
                    self._divide(active, splits)
                    self._serve(seen, generation, active, routes, broken, unloaded)

    def prepare(self) -> bool:
        """Build what is announced; True if something was announced since the last time."""
        with self._building:
            if self._words[1] == self._announcements:
                return False
            announcements, routes = self._table.announced()
            with self._lock:  # what was withdrawn may be asked for again, once it is mended
                self._refused = {
                    name: why for name, why in self._refused.items() if name in routes.values()
                }
            for release in self._awake(routes).values():
                try:
                    self._plan(release)
                except FalajError as error:
                    with self._lock:
                        self._refused[release] = str(error)
            self._announcements = announcements
            return True

    def prepared(self) -> dict[str, str]:
        """Release id to ``ready`` (it may sleep), or to why it cannot be loaded."""
        with self._lock:
            asleep = [release.id for release in self.asleep.values()]
            return {**dict.fromkeys([*self._built, *asleep], "ready"), **self._refused}

    def forget(self) -> None:
        """Let go of plans that served before and were kept long enough."""
        with self._lock:
            gone = [id for id, until in self._before.values() if until <= time.monotonic()]
            if gone:
                self._let_go(self._table.active()[1])

    def _awake(self, routes: dict[str, str]) -> dict[str, str]:
        """The routes without those whose very release sleeps."""
        asleep = {endpoint: release.id for endpoint, release in self.asleep.items()}
        return {name: release for name, release in routes.items() if asleep.get(name) != release}

    def _plan(self, release: str) -> RequestPlan:
        """The plan of a release, built if need be; the caller holds ``_building``."""
        plan = self._built.get(release)
        if plan is None:
            with yielding():
                plan = self._compiler.compile(self._table.release(release))
            with self._lock:
                self._built[release] = plan
                self._refused.pop(release, None)
        return plan

    def _document(self, release: str) -> Release | None:
        """A release's document though it cannot be loaded; None if that is why."""
        try:
            return self._table.release(release)
        except FalajError:
            return None  # the error is told already: it is what kept the release from loading

    def _divide(self, active: dict[str, RequestPlan], splits: dict[str, Split]) -> None:
        for endpoint, plan in active.items():
            if plan.assigner is not None and plan.assigner.split != splits.get(endpoint):
                plan.divide(splits.get(endpoint))

    def _serve(
        self,
        seen: int,
        generation: int,
        active: dict[str, RequestPlan],
        routes: dict[str, str],
        broken: dict[str, FalajError] | None = None,
        unloaded: dict[str, Release] | None = None,
    ) -> None:
        """Switch, and let go of plans that neither serve nor are announced."""
        until = time.monotonic() + self._keep_seconds
        for name, plan in self.active.items():
            if routes.get(name) != plan.release.id:
                self._before[name] = plan.release.id, until
        # Before the errors: who finds one of them finds the document that it is about.
        self._unloaded = unloaded or {}
        self.active, self.broken = active, broken or {}
        self._routes = routes
        self.asleep = {
            name: release for name, release in self.asleep.items() if routes.get(name) == release.id
        }
        self.generation, self._seen = generation, seen
        self._let_go(routes)

    def _let_go(self, routes: dict[str, str]) -> None:
        """Let go of plans that neither serve, nor are announced, nor are kept for a rollback.

        An endpoint that serves nothing any more (its model may have been revoked) keeps none.
        """
        now = time.monotonic()
        self._before = {
            name: (release, until)
            for name, (release, until) in self._before.items()
            if until > now and name in routes and routes[name] != release
        }
        _, announced = self._table.announced()
        kept = {plan.release.id for plan in self.active.values()} | set(announced.values())
        kept |= {release for release, _ in self._before.values()}
        self._built = {name: plan for name, plan in self._built.items() if name in kept}
        self._refused = {name: why for name, why in self._refused.items() if name in kept}


class Keeper:
    """A thread beside a worker: prepares announced releases and reports that it lives.

    Args:
        plans: the worker's plans.
        table: where to report.
        worker: the worker's name; unique on this machine.
        also: called about every second, for the worker's other chores.
    """

    def __init__(
        self,
        plans: Plans,
        table: RoutingTable,
        *,
        worker: str | None = None,
        also: Callable[[], None] | None = None,
    ) -> None:
        self._plans = plans
        self._table = table
        self.worker = worker or f"{socket.gethostname()}-{os.getpid()}"
        self._also = [] if also is None else [also]
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="falaj-keeper", daemon=True)

    def add(self, chore: Callable[[], None]) -> None:
        """Call this too about every second, from the keeper's thread."""
        self._also.append(chore)

    def start(self) -> None:
        """Catch up once, report, and keep on doing so."""
        self._plans.catch_up()
        self._plans.prepare()
        self._report()
        self._thread.start()

    def stop(self) -> None:
        """Say that the worker has ended."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._table.leave(self.worker)

    def _report(self) -> None:
        self._table.report(
            self.worker, generation=self._plans.generation, prepared=self._plans.prepared()
        )

    def _keep(self) -> None:
        waited = 0.0
        while not self._stopped.wait(_POLL_SECONDS):
            waited += _POLL_SECONDS
            try:
                news = self._plans.prepare()
                if self._plans.behind:
                    self._plans.catch_up()
                    news = True
                if news or waited >= _REPORT_SECONDS:
                    waited = 0.0
                    self._table.mend()
                    self._plans.forget()
                    self._report()
                    for chore in self._also:
                        chore()
            except Exception as error:  # noqa: BLE001 - without it no release is prepared any more
                logger(__name__).error("keeper", error=str(error) or repr(error))
