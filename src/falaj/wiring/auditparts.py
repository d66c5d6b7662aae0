"""The parts of the audit log beside the log itself: what records the refused, what vouches."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from falaj.kernel.commits import Commits
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import private_folder
from falaj.kernel.space import Space
from falaj.trust.audit_retention import Retention
from falaj.trust.refusals import Refusals
from falaj.wiring.stores import Bucket

if TYPE_CHECKING:
    from falaj.trust.ports import Witness
    from falaj.wiring.assembly import Premises


def refusals(made: Premises, *, via: str) -> Refusals:
    """Records requests without a good token, for one interface of this process."""
    commits = Commits(made.database, lambda: made.audit)
    found = Refusals(commits.record, clock=made.clock, via=via)
    made.closing.append(found.close)
    return found


def witness(made: Premises) -> Witness:
    """What remembers the checkpoints, as the setting ``audit.witness`` names it.

    Raises:
        InvalidInput: it names no witness, or its keys are missing.
    """
    settings = made.settings.audit
    named = settings.witness
    if named.startswith("file:"):
        from falaj.trust.adapters.witness_file import FileWitness

        given = named.removeprefix("file:")
        own = private_folder(made.settings.home / "witness") / "checkpoints"
        return FileWitness(Path(given) if given else own)
    if named.startswith("https://"):
        from falaj.trust.adapters.witness_http import HttpWitness

        token = settings.witness_token
        served = HttpWitness(
            named,
            token=token.get_secret_value() if token else None,
            ca_file=settings.witness_ca_file,
        )
        made.closing.append(served.close)
        return served
    if named.startswith("s3://"):
        return _in_bucket(made, named)
    raise InvalidInput(
        f"The setting audit.witness = {named!r} names no witness.",
        hint="Use `file:`, `file:/path`, `s3://bucket/prefix?endpoint=https://…&region=…` or "
        "`https://…`.",
    )


def space(made: Premises) -> Space | None:
    """Keeps room for records on the disk of an embedded database."""
    reserved = made.settings.audit.reserved_bytes
    if not made.database.is_sqlite or not reserved:
        return None
    return Space(Path(str(made.database.url.database)).parent, reserved)


def retention(made: Premises) -> Retention | None:
    """Moves old records into archives, if a rule says so."""
    settings = made.settings.audit
    if not settings.retain_days:
        return None
    return Retention(
        made.database,
        made.checkpoints,
        made.calls.opened,
        folder=settings.archive_folder or private_folder(made.settings.home / "audit-archive"),
        keep_for=timedelta(days=settings.retain_days),
        clock=made.clock,
    )


def _in_bucket(made: Premises, named: str) -> Witness:
    from falaj.trust.adapters.s3_requests import S3Place
    from falaj.trust.adapters.witness_s3 import S3Witness

    settings = made.settings.audit
    keys = (settings.witness_access_key, settings.witness_secret_key)
    bucket = Bucket.named(made.settings, "audit.witness", named, keys=keys)
    locked = S3Witness(
        S3Place(
            bucket.name,
            bucket.endpoint or f"https://s3.{bucket.region}.amazonaws.com",
            bucket.region,
            bucket.access_key,
            bucket.secret_key,
        ),
        prefix=bucket.prefix,
        retain=timedelta(days=settings.witness_retain_days),
        clock=made.clock,
    )
    made.closing.append(locked.close)
    return locked
