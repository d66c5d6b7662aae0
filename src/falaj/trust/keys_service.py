"""The actions of the key service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import NotFound
from falaj.kernel.jobs import Job, Jobs
from falaj.trust.audit import LARGEST_PAGE, SqlAuditLog
from falaj.trust.key_uses import ACTION, KeyUse, KeyUses, summed
from falaj.trust.ports import WRAPPING, KeyService, KeyState, KeyVersion
from falaj.trust.rotation import DISCARD_JOB, RESEAL_JOB, REWRAP_JOB, discardable

_MOST_PAGES = 10


class KeyInfo(BaseModel):
    """One version of a key, without its secret."""

    id: str
    purpose: str
    """``wrapping``, or what it signs."""
    version: int
    algorithm: str
    created_at: datetime
    state: KeyState


class Rotation(KeyInfo):
    """A new version of a key."""

    job: str | None = None
    """Puts what stands on older versions under this one; None for a key that signs."""


class Keys(Service):
    """The keys that seal and sign: which there are, and their rotation."""

    name = "keys"

    def __init__(self, keys: KeyService, jobs: Jobs, log: SqlAuditLog, uses: KeyUses) -> None:
        self._keys = keys
        self._jobs = jobs
        self._log = log
        self._uses = uses

    @action(get="/keys")
    def list(self) -> Sequence[KeyInfo]:
        """All versions of all keys, without their secrets."""
        return [_info(version) for version in self._keys.versions()]

    @action(get="/keys/uses")
    def uses(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        caller: str | None = None,
        purpose: str | None = None,
    ) -> Sequence[KeyUse]:
        """How often keys were used, for what and by whom: the most frequent first.

        Summed up from the audit records of ``since <= at < until`` (of the last day if
        neither is given; at most 10,000 records); what waits on this machine for its
        record is counted as well, unless ``until`` is given.
        """
        if since is None and until is None:
            since = self.call.now - timedelta(days=1)
        found = [left.uses for left in self._uses.waiting()] if until is None else []
        before: int | None = None
        for _ in range(_MOST_PAGES):
            page = self._log.search(
                self.call.connection,
                action=ACTION,
                since=since,
                until=until,
                before=before,
                limit=LARGEST_PAGE,
            )
            for record in page.records:
                told = record.details.get("uses", [])
                found.append([KeyUse.model_validate(use) for use in told])
            before = page.next
            if before is None:
                break
        return [
            use
            for use in summed(iter(found))
            if caller in (None, use.caller) and purpose in (None, use.purpose)
        ]

    @action(post="/keys/{purpose}/rotations", on="key", step_up=True)
    def rotate(self, purpose: str) -> Rotation:
        """Make a new version for a purpose; older ones still open and verify.

        Of the wrapping key: a job then puts all data keys under the new version, while
        everything is in use. The new version stays even if the record of this call cannot
        be kept; ``falaj keys rewrap`` begins the job then.
        """
        known = sorted({version.purpose for version in self._keys.versions()})
        if purpose not in known:
            # A mistyped purpose would leave the meant key as it is, and say that all is well.
            raise NotFound(
                f"No key has the purpose {purpose!r}.", hint=f"There are: {', '.join(known)}."
            )
        made = _info(self._keys.rotate(purpose))
        job = self._jobs.submit(self.call, REWRAP_JOB, {}).id if purpose == WRAPPING else None
        self.call.note(key_id=made.id, version=made.version)
        self.call.emit("keys.rotated", purpose=made.purpose, key_id=made.id)
        return Rotation(**made.model_dump(), job=job)

    @action(post="/keys/wrapping/rewrapping", step_up=True)
    def rewrap(self) -> Job:
        """Put all data keys under the active wrapping key: blobs, files, sealed secrets.

        ``falaj keys rotate wrapping`` does so by itself. What is stored is not encrypted
        anew; the job's result tells how many items stand on each version afterwards.
        """
        return self._jobs.submit(self.call, REWRAP_JOB, {})

    @action(post="/keys/wrapping/resealing", step_up=True)
    def reseal(self) -> Job:
        """Encrypt all that is sealed under a wrapped data key anew, each item with a new key.

        After a data key may have become known; this reads and writes every byte.
        """
        return self._jobs.submit(self.call, RESEAL_JOB, {})

    @action(post="/keys/{key_id}/discarding", on="key", step_up=True)
    def discard(self, key_id: str) -> Job:
        """Destroy an old version of the wrapping key, for good, if nothing stands on it.

        The job looks through all stores first, and refuses if it finds anything. Backups
        that were made before the rotation open only with the keys of that time.
        """
        discardable(self._keys, key_id)
        return self._jobs.submit(self.call, DISCARD_JOB, {"key_id": key_id})


def _info(version: KeyVersion) -> KeyInfo:
    return KeyInfo(
        id=version.id,
        purpose=version.purpose,
        version=version.version,
        algorithm=version.algorithm,
        created_at=version.created_at,
        state=version.state,
    )
