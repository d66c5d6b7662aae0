"""Revoked bundles and signers: what may not be used any more, from now on.

A revocation is never taken back: a model that was revoked by mistake is packaged again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from falaj.kernel.errors import Conflict, InvalidInput, NotFound
from falaj.kernel.insertion import insert_if_absent
from falaj.models.model import Revocation, RevokedKind
from falaj.models.tables import revocation_rows

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.kernel.call import Call
    from falaj.models.bundles import Bundles
    from falaj.models.ports import Withdrawal


class BundleRevoked(Conflict):
    """A bundle, or a key that it was signed with, was revoked."""

    code = "bundle-revoked"


class Revocations:
    """Revokes bundles and signers, and stops what serves them.

    Args:
        bundles: tells who signed a bundle.
        withdrawal: stops the releases that serve a bundle.
    """

    def __init__(self, bundles: Bundles, withdrawal: Withdrawal) -> None:
        self._bundles = bundles
        self._withdrawal = withdrawal

    def bundle(self, call: Call, digest: str, reason: str) -> Revocation:
        """Revoke one bundle; endpoints that serve it serve nothing from the commit on."""
        return self._revoked(call, RevokedKind.BUNDLE, digest, reason)

    def signer(self, call: Call, key: str, reason: str) -> Revocation:
        """Revoke a signing key, and so every bundle that it signed.

        If it is the one that signs now, the next bundle is signed with a new one.

        Raises:
            NotFound: no bundle can be signed with such a key.
        """
        if not self._bundles.signing.replaced(key):
            raise NotFound(
                f"No key {key[:80]!r} signs bundles here.",
                hint="`falaj models signers` lists them.",
            )
        return self._revoked(call, RevokedKind.SIGNER, key, reason)

    def _revoked(self, call: Call, kind: RevokedKind, value: str, reason: str) -> Revocation:
        if not reason.strip():
            raise InvalidInput("A revocation needs a reason.", hint="Say why, for the record.")
        row = {
            "kind": kind, "value": value, "at": call.now, "by": call.principal.id,
            "reason": reason,
        }  # fmt: skip
        insert_if_absent(call.connection, revocation_rows, row)
        stopped = self._withdrawal.withdraw(
            call, lambda digest: self._is_revoked(call.connection, digest)
        )
        call.note(revoked=value, stopped=stopped)
        call.emit("models.revoked", kind=str(kind), value=value, stopped=stopped)
        found = next(
            one for one in listed(call.connection) if (one.kind, one.value) == (kind, value)
        )
        return found.model_copy(update={"stopped": tuple(stopped)})

    def _is_revoked(self, connection: Connection, digest: str) -> bool:
        try:
            check_not_revoked(connection, digest, self._bundles.signers(digest))
        except BundleRevoked:
            return True
        return False


def check_not_revoked(connection: Connection, bundle: str, signers: tuple[str, ...]) -> None:
    """Return if neither a bundle nor one of its signers was revoked; raises BundleRevoked."""
    row = connection.execute(
        select(revocation_rows).where(revocation_rows.c.value.in_([bundle, *signers])).limit(1)
    ).first()
    if row is not None:
        what = "It" if row.kind == RevokedKind.BUNDLE else f"Its signer {row.value}"
        raise BundleRevoked(
            f"The bundle {bundle[:19]}… may not be used. {what} was revoked by {row.by} at "
            f"{row.at:%Y-%m-%d %H:%M} UTC: {row.reason}",
            hint="Serve another version, or package the model again.",
            bundle=bundle,
        )


def listed(connection: Connection) -> list[Revocation]:
    """All revocations, the newest first."""
    rows = connection.execute(
        select(revocation_rows).order_by(revocation_rows.c.at.desc(), revocation_rows.c.value)
    )
    return [
        Revocation(kind=row.kind, value=row.value, at=row.at, by=row.by, reason=row.reason)
        for row in rows
    ]
