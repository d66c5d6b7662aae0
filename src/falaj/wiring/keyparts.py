"""What rotates keys: all stores with wrapped data keys, and the jobs that go over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.trust.key_uses import ACTION
from falaj.trust.key_uses import EVERY_SECONDS as EVERY_USES
from falaj.trust.rotation import DISCARD_JOB, RESEAL_JOB, REWRAP_JOB
from falaj.wiring.keyservices import sealed_keyring
from falaj.wiring.pipelineparts import pipeline_blobs

if TYPE_CHECKING:
    from falaj.kernel.jobs import Handler
    from falaj.trust.ports import Rewrappable
    from falaj.wiring.assembly import Premises


def rewrappables(made: Premises) -> Sequence[Rewrappable]:
    """Every store of this platform that holds wrapped data keys."""
    from falaj.ingest.adapters.eventlog_segments import SegmentLog
    from falaj.lake.spool import sealed_segments
    from falaj.operations.webhooks import secret_context
    from falaj.operations.webhooks_tables import webhooks
    from falaj.trust.factors import factor_context
    from falaj.trust.sealedcolumns import SealedColumn, SealedColumns
    from falaj.trust.tables import accounts

    secrets = [
        SealedColumn(accounts.c.id, column, factor_context)
        for column in (accounts.c.totp_sealed, accounts.c.totp_pending_sealed)
    ]
    secrets.append(SealedColumn(webhooks.c.name, webhooks.c.secret_sealed, secret_context))
    found: list[Rewrappable] = [
        SealedColumns(made.database, made.keys, secrets),
        sealed_segments(made.spool_folder, made.keys),
        made.blobs,
        made.streams,
        pipeline_blobs(made),
        made.subject_keys,
    ]
    if isinstance(made.event_log, SegmentLog):
        found.append(made.event_log)
    found.append(sealed_authority(made))
    keyring = sealed_keyring(made.settings, made.clock)
    more = (keyring, made.run_files.sealed())
    return [*found, *(store for store in more if store is not None)]


def sealed_authority(made: Premises) -> Rewrappable:
    """The key of the built-in certificate authority."""
    from falaj.lake.sealedfiles import SealedFiles
    from falaj.trust.authoritykey import CONTEXT, SEALED_FILE

    def context(path: Path) -> str | None:
        return CONTEXT if str(path) == SEALED_FILE else None

    return SealedFiles("certificate authority", made.settings.home / "tls", made.keys, context)


def key_jobs(made: Premises) -> dict[str, Callable[[], Handler]]:
    """What makes the handlers of the jobs on keys."""
    from falaj.trust.rotation import Discarding, Rewrapping

    def stores() -> Sequence[Rewrappable]:
        return rewrappables(made)

    return {
        REWRAP_JOB: lambda: Rewrapping(made.keys, stores, made.calls),
        RESEAL_JOB: lambda: Rewrapping(made.keys, stores, made.calls, reseal=True),
        DISCARD_JOB: lambda: Discarding(made.keys, stores, made.calls, made.clock),
    }


def uses_told(made: Premises) -> int:
    """Make one audit record of the uses of keys that wait; returns how many it tells."""

    def known() -> Sequence[str]:
        with made.database.reading() as connection:
            newest = made.audit.search(connection, action=ACTION, limit=1).records
        return [str(one) for record in newest for one in record.details.get("files", [])]

    made.key_uses.leave()
    return made.key_uses.told(made.calls, known)


__all__ = ["EVERY_USES", "key_jobs", "rewrappables", "uses_told"]
