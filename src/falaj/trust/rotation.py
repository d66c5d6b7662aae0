"""Rotation: all data keys under the active wrapping key, while everything is in use.

A new version of the wrapping key is made in an instant; what was wrapped before stays on
the old version until the job ``keys.rewrap`` has gone over it. The job keeps where it is,
and goes on from there when its worker is killed. An old version on which nothing stands
any more may be destroyed (``keys.discard``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from falaj.kernel.calls import Calls
from falaj.kernel.clock import Clock
from falaj.kernel.errors import Conflict, Corrupt
from falaj.kernel.jobs import JobRun
from falaj.kernel.telemetry import logger
from falaj.trust.keys import still_active
from falaj.trust.ports import WRAPPING, KeyService, KeyState, KeyVersion, Rewrappable, UnknownKey

REWRAP_JOB = "keys.rewrap"
RESEAL_JOB = "keys.reseal"
DISCARD_JOB = "keys.discard"
SETTLE = timedelta(minutes=10)
"""So long after a rotation a write that began before it has surely ended."""
_MOST_ROUNDS = 5
_SAVE_SECONDS = 1.0
_MOST_NAMED = 50

Stores = Callable[[], Sequence[Rewrappable]]
"""All stores that hold wrapped data keys."""


class Rewrapping:
    """The handler of ``keys.rewrap`` and ``keys.reseal``.

    Args:
        keys: the key service.
        stores: what is gone over.
        calls: records what was done.
        reseal: new data keys too: every item is encrypted anew.

    ``keys.rewrap`` goes over the stores until a round finds nothing on an old version, at
    most five times; ``keys.reseal`` goes over them once. An item that cannot be opened is
    named in the result and does not stop the others.
    """

    def __init__(
        self, keys: KeyService, stores: Stores, calls: Calls, *, reseal: bool = False
    ) -> None:
        self._keys = keys
        self._stores = stores
        self._calls = calls
        self._reseal = reseal
        self._log = logger(__name__)

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Go over all stores; the result counts items by store, and where they stand."""
        kept = run.checkpoint or {}
        done: Counter[str] = Counter(kept.get("done", {}))
        failed: dict[str, str] = dict(kept.get("failed", {}))
        place: dict[str, Any] = kept.get("place", {})
        resumed = bool(place)  # then the end of this round does not tell what the round moved
        stores = list(self._stores())
        for round_ in range(int(place.get("round", 0)), 1 if self._reseal else _MOST_ROUNDS):
            active = active_version(self._keys).id
            before = sum(done.values())
            for at, store in enumerate(stores):
                if at < int(place.get("store", 0)):
                    continue
                after, place = str(place.get("after", "")), {}
                saved = time.monotonic()
                for item, key_id in store.items(after=after):
                    if self._reseal or key_id != active:
                        self._moved(store, item, done, failed)
                    if time.monotonic() - saved >= _SAVE_SECONDS:
                        saved = time.monotonic()
                        where = {"round": round_, "store": at, "after": item}
                        run.save({"place": where, "done": done, "failed": failed})
                        run.report((at + 0.5) / len(stores), f"{store.name}: {done[store.name]}")
                where = {"round": round_, "store": at + 1, "after": ""}
                run.save({"place": where, "done": done, "failed": failed})
                run.report((at + 1) / len(stores), f"{store.name}: {done[store.name]}")
            place = {}
            if sum(done.values()) == before and not resumed:
                break
            resumed = False
        return self._ended(run, stores, done, failed)

    def _moved(
        self, store: Rewrappable, item: str, done: Counter[str], failed: dict[str, str]
    ) -> None:
        try:
            if store.reseal(item) if self._reseal else store.rewrap(item):
                done[store.name] += 1
            failed.pop(f"{store.name}: {item}", None)
        except Corrupt as error:  # nor can anybody else open it
            self._log.error("not rewrapped", store=store.name, item=item, error=str(error))
            if len(failed) < _MOST_NAMED:
                failed[f"{store.name}: {item}"] = error.message

    def _ended(
        self,
        run: JobRun,
        stores: Sequence[Rewrappable],
        done: Mapping[str, int],
        failed: Mapping[str, str],
    ) -> dict[str, Any]:
        result = {
            "done": dict(done),
            "failed": dict(failed),
            "standing": standing(stores),
            "active": active_version(self._keys).id,
        }
        job = RESEAL_JOB if self._reseal else REWRAP_JOB
        with self._calls.opened(job, run.submitted_by, resource=f"key:{WRAPPING}") as call:
            call.note(job=run.id, **result)
            call.emit("keys.rewrapped", **result)
        return result


class Discarding:
    """The handler of ``keys.discard``: destroys an old version on which nothing stands.

    Args:
        keys, stores, calls: as for ``Rewrapping``.
        clock: tells how long ago the rotation was.
    """

    def __init__(self, keys: KeyService, stores: Stores, calls: Calls, clock: Clock) -> None:
        self._keys = keys
        self._stores = stores
        self._calls = calls
        self._clock = clock

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Look through all stores, then destroy the version.

        Raises:
            Conflict: something stands on it, which is named; or it is too young.
            UnknownKey: there is no such version.
        """
        key_id = str(arguments["key_id"])
        if self._clock.now() - discardable(self._keys, key_id) < SETTLE:
            raise Conflict(
                f"The key {key_id} was the active one less than 10 minutes ago.",
                hint="A write may still be under way with it; ask again later.",
            )
        found: Counter[str] = Counter()
        named: list[str] = []
        for store in self._stores():
            for item in _on(store, key_id):
                found[store.name] += 1
                if len(named) < 5:
                    named.append(f"{store.name}: {item}")
            run.report(0.5, store.name)
        if found:
            raise Conflict(
                f"{sum(found.values())} items stand on the key {key_id}: {', '.join(named)}.",
                hint="Run `falaj keys rewrap` and wait for its job; nothing was destroyed.",
                items=dict(found),
            )
        resource = f"key:{WRAPPING}"
        with self._calls.opened(DISCARD_JOB, run.submitted_by, resource=resource) as call:
            call.note(job=run.id, key_id=key_id)
            call.emit("keys.discarded", key_id=key_id)
            self._keys.discard(key_id)
        return {"discarded": key_id}


def standing(stores: Sequence[Rewrappable]) -> dict[str, int]:
    """How many items stand on each version; ``""`` counts those that cannot be read."""
    return dict(Counter(key_id for store in stores for _, key_id in store.items()))


def active_version(keys: KeyService) -> KeyVersion:
    """The version that data keys are wrapped with now; raises UnknownKey without one."""
    for version in keys.versions():
        if version.purpose == WRAPPING and version.state is KeyState.ACTIVE:
            return version
    raise UnknownKey("There is no active wrapping key.", hint="Run `falaj keys rotate wrapping`.")


def discardable(keys: KeyService, key_id: str) -> datetime:
    """Since when a version of the wrapping key is an old one.

    Raises:
        UnknownKey: there is no such version of the wrapping key.
        Conflict: it is the active one.
    """
    held = [version for version in keys.versions() if version.purpose == WRAPPING]
    meant = next((version for version in held if version.id == key_id), None)
    if meant is None:
        raise UnknownKey(
            f"No wrapping key {key_id[:80]!r} is held here.", hint="`falaj keys list` shows all."
        )
    if meant.state is KeyState.ACTIVE:
        raise still_active(key_id)
    return min(version.created_at for version in held if version.version > meant.version)


def _on(store: Rewrappable, key_id: str) -> Iterator[str]:
    return (item for item, under in store.items() if under == key_id)
