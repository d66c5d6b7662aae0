"""Which keys were used for what, by whom: counted, and told to the audit log once a minute.

A record for each use would drown the log: a busy platform unwraps thousands of data keys a
second. Each process counts its uses and leaves the counts in a file every ten seconds; the
worker makes one audit record a minute of them (``keys.use``), and ``falaj keys uses`` sums
the records up.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from falaj.kernel.call import acting_principal
from falaj.kernel.calls import Calls
from falaj.kernel.clock import Clock
from falaj.kernel.ids import new_id
from falaj.kernel.telemetry import logger
from falaj.trust.ports import WRAPPING, KeyService, KeyVersion, Signature, WrappedKey

ACTION = "keys.use"
TELLER = "system:keys"
"""On whose behalf the counts are recorded."""
EVERY_SECONDS = 60.0
_LEFT_EVERY_SECONDS = 10.0
_MOST_KINDS = 2000
_MOST_TOLD = 500
_OTHERS = "(others)"
_KINDS = (
    "blob", "spool", "log", "event log", "second factor", "feature index", "backup", "doctor",
    "init", "certificate authority",
)  # fmt: skip

Use = tuple[str, str, str, str, str]
"""Operation, purpose, key version, kind of context, caller."""


class KeyUse(BaseModel):
    """How often a key was used for one thing by one caller."""

    operation: str
    """``wrap``, ``unwrap``, ``sign`` or ``derive``."""
    purpose: str
    key_id: str
    """The version; empty for ``derive``, which stands on none."""
    kind: str
    """What the data key belongs to: ``blob``, ``spool``, ``log``, ``second factor``, …"""
    caller: str
    """On whose behalf: of the call or the job, else the process itself (``system:worker``)."""
    n: int


class LeftUses(BaseModel):
    """What one process has counted in one stretch of time."""

    id: str
    begun_at: datetime
    ended_at: datetime
    uses: list[KeyUse]


class KeyUses:
    """Counts of one process, on their way to the audit log. Safe from many threads.

    Args:
        folder: where the counts of all processes of this machine are left; made when needed.
        process: this process's name.
        clock: stamps what is left.

    A process that is killed loses the counts of its last ten seconds. A disk that refuses
    them stops no use of a key: they are kept and left later.
    """

    def __init__(self, folder: Path, *, process: str, clock: Clock) -> None:
        self._folder = folder
        self._process = f"system:{process}"
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[Use] = Counter()
        self._begun_at = clock.now()
        self._timer: threading.Timer | None = None
        self._pid = os.getpid()
        self._log = logger(__name__)

    def count(self, operation: str, purpose: str, key_id: str, kind: str) -> None:
        """Count one use by whoever is being served."""
        use = (operation, purpose, key_id, kind, acting_principal() or self._process)
        if self._pid != os.getpid():  # a forked process has no timer, and tells its own uses
            self._pid = os.getpid()
            self._lock, self._timer, self._counts = threading.Lock(), None, Counter()
        with self._lock:
            if use not in self._counts and len(self._counts) >= _MOST_KINDS:
                use = (operation, purpose, _OTHERS, _OTHERS, _OTHERS)
            self._counts[use] += 1
            if self._timer is None:
                self._begun_at = self._clock.now()
                self._timer = threading.Timer(_LEFT_EVERY_SECONDS, self.leave)
                self._timer.daemon = True
                self._timer.start()

    def leave(self) -> None:
        """Leave what was counted in a file for the worker."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            counts, self._counts = self._counts, Counter()
            begun_at = self._begun_at
        if not counts:
            return
        left = LeftUses(
            id=new_id("uses"),
            begun_at=begun_at,
            ended_at=self._clock.now(),
            uses=_listed(counts),
        )
        path = self._folder / f"{left.id}.json"
        begun = path.with_suffix(".begun")
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(begun, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(left.model_dump_json())
            begun.replace(path)
        except OSError as error:
            self._log.warning("uses of keys are not left", error=str(error))
            with suppress(OSError):
                begun.unlink(missing_ok=True)
            with self._lock:
                self._counts.update(counts)

    def waiting(self) -> Iterator[LeftUses]:
        """What the processes of this machine have left; what cannot be read is put aside."""
        for path in sorted(self._folder.glob("uses_*.json")):
            try:
                yield LeftUses.model_validate_json(path.read_bytes())
            except FileNotFoundError:
                continue  # told meanwhile
            except ValidationError as error:
                self._log.error("uses of keys put aside", file=path.name, error=str(error))
                path.replace(path.with_suffix(".unreadable"))

    def told(self, calls: Calls, known: Callable[[], Sequence[str]]) -> int:
        """Make one audit record of what waits; returns how many uses it tells.

        Args:
            calls: writes the record.
            known: ids of what the newest such record told: its files may have outlived it.
        """
        found = list(self.waiting())
        if not found:
            return 0
        before = set(known())
        new = [left for left in found if left.id not in before]
        total = summed(left.uses for left in new)
        if total:
            with calls.opened(ACTION, TELLER, resource="key:*") as call:
                call.note(
                    begun_at=min(left.begun_at for left in new).isoformat(),
                    ended_at=max(left.ended_at for left in new).isoformat(),
                    uses=[use.model_dump() for use in _bounded(total)],
                    files=[left.id for left in new],
                )
        for left in found:
            (self._folder / f"{left.id}.json").unlink(missing_ok=True)
        return sum(use.n for use in total)


class CountedKeys:
    """A ``KeyService`` that counts what another one is asked."""

    def __init__(self, keys: KeyService, uses: KeyUses) -> None:
        self._keys = keys
        self._uses = uses

    def __repr__(self) -> str:
        return f"CountedKeys({self._keys!r})"

    def wrap(self, data_key: bytes, *, context: str) -> WrappedKey:
        """See ``KeyService.wrap``."""
        wrapped = self._keys.wrap(data_key, context=context)
        self._uses.count("wrap", WRAPPING, wrapped.key_id, kind_of(context))
        return wrapped

    def unwrap(self, wrapped: WrappedKey, *, context: str) -> bytes:
        """See ``KeyService.unwrap``."""
        data_key = self._keys.unwrap(wrapped, context=context)
        self._uses.count("unwrap", WRAPPING, wrapped.key_id, kind_of(context))
        return data_key

    def derive(self, purpose: str, n_bytes: int = 32) -> bytes:
        """See ``KeyService.derive``."""
        secret = self._keys.derive(purpose, n_bytes)
        self._uses.count("derive", purpose.partition(".")[0], "", "")
        return secret

    def sign(self, purpose: str, message: bytes) -> Signature:
        """See ``KeyService.sign``."""
        signature = self._keys.sign(purpose, message)
        self._uses.count("sign", purpose, signature.key_id, "")
        return signature

    def verify(self, purpose: str, message: bytes, signature: Signature) -> None:
        """See ``KeyService.verify``; a public key is no secret, and its use is not counted."""
        self._keys.verify(purpose, message, signature)

    def public_key(self, purpose: str) -> bytes:
        """See ``KeyService.public_key``."""
        return self._keys.public_key(purpose)

    def public_keys(self, purpose: str) -> Mapping[str, bytes]:
        """See ``KeyService.public_keys``."""
        return self._keys.public_keys(purpose)

    def rotate(self, purpose: str) -> KeyVersion:
        """See ``KeyService.rotate``; the action has a record of its own."""
        return self._keys.rotate(purpose)

    def versions(self) -> Sequence[KeyVersion]:
        """See ``KeyService.versions``."""
        return self._keys.versions()

    def discard(self, key_id: str) -> None:
        """See ``KeyService.discard``; the job has a record of its own."""
        self._keys.discard(key_id)


def kind_of(context: str) -> str:
    """What a context is about, without saying which: ``blob`` of ``sealed blob sha256:…``."""
    about = context.removeprefix("sealed ")
    return next((kind for kind in _KINDS if about.startswith(kind)), "other")


def summed(groups: Iterator[list[KeyUse]]) -> list[KeyUse]:
    """Counts of the same use added up, the most frequent first."""
    counts: Counter[Use] = Counter()
    for uses in groups:
        for use in uses:
            counts[use.operation, use.purpose, use.key_id, use.kind, use.caller] += use.n
    return _listed(counts)


def _listed(counts: Counter[Use]) -> list[KeyUse]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        KeyUse(operation=what, purpose=purpose, key_id=key_id, kind=kind, caller=caller, n=n)
        for (what, purpose, key_id, kind, caller), n in ordered
    ]


def _bounded(uses: list[KeyUse]) -> list[KeyUse]:
    """The most frequent uses, and what is left of each operation and purpose in one line."""
    rest = (
        [use.model_copy(update={"key_id": _OTHERS, "kind": _OTHERS, "caller": _OTHERS})]
        for use in uses[_MOST_TOLD:]
    )
    return [*uses[:_MOST_TOLD], *summed(rest)]
